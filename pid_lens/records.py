"""One way to keep a frozen record: tensors in safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_record(path: str | Path, kind: str, tensors: dict[str, Tensor], about: dict) -> None:
    """Writes tensors and whatever JSON can say about them to one file.

    Raises:
        FileNotFoundError: its folder is not there.
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot save to {path}: there is no folder {folder}")
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, path, {"kind": kind, "about": json.dumps(about)})


def load_record(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `save_record` wrote.

    Raises:
        ValueError: the file holds something else.
        FileNotFoundError: there is no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("kind") == kind:
                return {k: file.get_tensor(k) for k in file.keys()}, json.loads(about["about"])  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    raise ValueError(f"{path} holds {about.get('kind', 'no record of pid_lens')}, not a {kind}")


def settings_repr(plugged_in: Any) -> str:
    """The repr of something plugged in, which must say its settings.

    Raises:
        TypeError: it is a class, or its repr is an address in memory, which tells nothing about
            it and is another one in every run.
    """
    said = repr(plugged_in)
    if isinstance(plugged_in, type) or " at 0x" in said:
        raise TypeError(
            f"{said} must be an instance whose repr says its settings, so that reads tell what "
            "they depend on: make it a frozen dataclass, or give it a __repr__"
        )
    return said
