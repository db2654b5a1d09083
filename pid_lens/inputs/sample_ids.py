"""Sample ids: a hash of each sample's tokens and pixels, which names it in every batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool

MARK = "#"
"""First character of every name that is a hash, which distinguishes it from given names."""


def content_ids(
    inputs: Mapping[str, Any],
    attended: Bool[Tensor, "n tokens"],
    image: Bool[Tensor, "n tokens"] | None,
) -> tuple[str, ...]:
    """Hash each sample's attended tokens and its pixels.

    Padding does not count: neither of the tokens nor of the pixels, whose trailing zeros along
    every axis are left out, since processors pad images and tiles to the largest of a batch.
    Other precision is other content: bfloat16 pixels give other names than float32 ones.

    Args:
        inputs: the model's inputs.
        attended: tokens that are not padding.
        image: the image's tokens: in proportion to their number pixels are divided among the
            samples where a tensor does not have one row per sample.

    Raises:
        ValueError: the pixels cannot be assigned to samples, or there are none.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[5, 9], [5, 9], [5, 9]])
        >>> pixels = torch.tensor([[1.0], [2.0], [1.0]])
        >>> names = content_ids({"input_ids": ids, "pixel_values": pixels}, ids > 0, ids == 9)
        >>> names[0] == names[1], names[0] == names[2]
        (False, True)
    """
    n = len(attended)
    hashes = [
        hashlib.sha256(row[kept].long().cpu().numpy().tobytes())
        for row, kept in zip(inputs["input_ids"], attended, strict=True)
    ]
    counts = [1] * n if image is None else image.sum(-1).tolist()
    pixels = {name: value for name, value in inputs.items() if _is_content(name, value, attended)}
    if image is not None and not any(_is_floating(value) for value in pixels.values()):
        raise ValueError(
            f"no pixels among the inputs {', '.join(inputs)}, so samples have no hash of their "
            "content: give ids="
        )
    for name in sorted(pixels):
        for digest, part in zip(hashes, _by_sample(name, pixels[name], counts), strict=True):
            for tensor in _tensors(part):
                digest.update(_bytes(tensor))
    return tuple(MARK + digest.hexdigest()[:15] for digest in hashes)


def _is_content(name: str, value: Any, attended: Tensor) -> bool:
    """Return whether an input is pixels, their sizes or grids: none with one entry per token."""
    if _is_floating(value):
        return True
    sizes = name.endswith(("_sizes", "_thw"))
    return sizes and isinstance(value, Tensor) and value.shape[:2] != attended.shape


def _is_floating(value: Any) -> bool:
    return any(tensor.is_floating_point() for tensor in _tensors(value))


def _tensors(value: Any) -> list[Tensor]:
    """List all tensors in a tensor or in nested lists of them."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for inner in value for tensor in _tensors(inner)]
    return []


def _bytes(tensor: Tensor) -> bytes:
    """Serialise shape and numbers, without trailing zeros along any axis (padding)."""
    tensor = tensor.detach().cpu()
    for axis in range(tensor.ndim):
        used = (tensor != 0).movedim(axis, 0).reshape(tensor.shape[axis], -1).any(1).nonzero()
        last = int(used.max()) + 1 if len(used) else 0
        tensor = tensor.narrow(axis, 0, last)
    floats = tensor.float() if tensor.is_floating_point() else tensor
    return str(tuple(tensor.shape)).encode() + floats.contiguous().numpy().tobytes()


def _by_sample(name: str, value: Any, counts: list[int]) -> Sequence[Any]:
    """Split an input by sample: an entry each, or rows in proportion to its image tokens."""
    if len(value) == len(counts):
        return list(value)
    shares = [len(value) * count / max(1, sum(counts)) for count in counts]
    if not isinstance(value, Tensor) or any(share != int(share) for share in shares):
        raise ValueError(
            f"cannot tell which of the {len(value)} rows of {name} belong to which of "
            f"{len(counts)} samples, so samples have no hash of their content: give ids="
        )
    return value.split([int(share) for share in shares])
