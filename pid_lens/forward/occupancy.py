"""Occupancy: which hooks of ours are on a model, so that no lens reads unrecorded ablations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pid_lens.model import require_loaded, require_uncompiled
from pid_lens.per_object import PerObject

if TYPE_CHECKING:
    from pid_lens.model import Anatomy

LENS, INTERVENTIONS = "lens", "interventions"
_OPEN: PerObject[list[str]] = PerObject(list)
"""For each decoder, what is hooked to it: `LENS` or `INTERVENTIONS`, once for each open block."""


@contextmanager
def occupy(anatomy: Anatomy, by: str) -> Iterator[None]:
    """Reserve a model for a lens, or for interventions, for the length of a block.

    Args:
        anatomy: the model's parts.
        by: `LENS` or `INTERVENTIONS`; interventions may be nested in interventions.

    Raises:
        RuntimeError: a lens is open on the model, or a lens is to open under interventions.
        ValueError: the model is compiled, or its weights are not loaded.
    """
    require_uncompiled(anatomy.model)
    require_loaded(anatomy.model)
    others = _OPEN.of(anatomy.decoder)
    if LENS in others:
        raise RuntimeError(
            "a lens is open already on this model: close it first. One lens can read several "
            "conditions at once, Lens(..., conditions={...}), under interventions that are in "
            "force in all of them, Lens(..., interventions=[...])"
        )
    if by == LENS and others:
        raise RuntimeError(
            "interventions are in force on this model, and the reads of a lens would not record "
            "them: hand them to the lens, Lens(..., interventions=[...])"
        )
    others.append(by)
    try:
        yield
    finally:
        others.remove(by)


def is_read(anatomy: Anatomy) -> bool:
    """Return whether a lens is open on a model.

    Example:
        >>> import pid_lens
        >>> lens = pid_lens.Lens(pid_lens.demo.load()[0], conditions={"full": []})
        >>> with lens:
        ...     inside = is_read(lens.anatomy)
        >>> inside, is_read(lens.anatomy)
        (True, False)
    """
    return LENS in _OPEN.of(anatomy.decoder)
