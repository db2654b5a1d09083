"""Occupancy: who is at work on a model, so that nobody reads what another one changes."""

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
"""Of each decoder: what is at work on it."""


@contextmanager
def occupy(anatomy: Anatomy, by: str) -> Iterator[None]:
    """A model that a lens, or interventions, work on for the length of a block.

    Raises:
        RuntimeError: a lens does already, or interventions where a lens is to.
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
            "interventions are in force on this model, which reads would not tell of: hand them "
            "to the lens, Lens(..., interventions=[...])"
        )
    others.append(by)
    try:
        yield
    finally:
        others.remove(by)


def is_read(anatomy: Anatomy) -> bool:
    """Whether a lens is open on a model."""
    return LENS in _OPEN.of(anatomy.decoder)
