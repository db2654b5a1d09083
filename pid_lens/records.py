"""Files of frozen records: tensors in safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_record(path: str | Path, kind: str, tensors: dict[str, Tensor], about: dict) -> None:
    """Write tensors, and values that JSON can hold, to one safetensors file.

    Args:
        path: of the file.
        kind: of the record, which `load_record` requires.
        tensors: by name.
        about: JSON values by name.

    Raises:
        FileNotFoundError: its folder does not exist.

    Example:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> from pid_lens.records import load_record
        >>> with TemporaryDirectory() as folder:
        ...     save_record(f"{folder}/a", "mine", {"x": torch.ones(2)}, {"unit": "bits"})
        ...     load_record(f"{folder}/a", "mine")
        ({'x': tensor([1., 1.])}, {'unit': 'bits'})
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot save to {path}: there is no folder {folder}")
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, path, {"kind": kind, "about": json.dumps(about)})


def load_record(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load the tensors and JSON values that `save_record` wrote.

    Raises:
        ValueError: the file is not a safetensors file, or holds another kind of record.
        FileNotFoundError: there is no such file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pid_lens.records import save_record
        >>> with TemporaryDirectory() as folder:
        ...     save_record(f"{folder}/a", "mine", {}, {})
        ...     load_record(f"{folder}/a", "yours")
        Traceback (most recent call last):
        ValueError: .../a holds mine, not a yours
    """
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("kind") == kind:
                return {k: file.get_tensor(k) for k in file.keys()}, json.loads(about["about"])  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    raise ValueError(f"{path} holds {about.get('kind', 'no record of pid_lens')}, not a {kind}")


def settings_repr(plugged_in: Any) -> str:
    """Return the repr of a plug-in (readout, intervention), which must show its settings.

    Raises:
        TypeError: it is a class, or its repr is an address in memory, which shows no settings and
            differs from run to run.

    Example:
        >>> from pid_lens import LogitLens
        >>> settings_repr(LogitLens())
        'LogitLens()'
        >>> settings_repr(LogitLens)
        Traceback (most recent call last):
        TypeError: <class ...LogitLens'> must be an instance whose repr shows its settings, ...
    """
    said = repr(plugged_in)
    if isinstance(plugged_in, type) or " at 0x" in said:
        raise TypeError(
            f"{said} must be an instance whose repr shows its settings, so that reads record "
            "what they depend on: make it a frozen dataclass, or give it a __repr__"
        )
    return said
