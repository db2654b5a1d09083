"""Differences of two results over the same samples, with the parts of a paired error."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, TypeVar

import torch

from pid_lens.results.atoms import FIELDS, Atoms
from pid_lens.results.layer_atoms import PARTS, LayerAtoms
from pid_lens.results.pairing import DIFFERENCE, align_rows, common_groups, require_comparable

Kind = TypeVar("Kind", bound=LayerAtoms)

BY_SAMPLE = ("pointwise", "influence")
"""The parts with one entry per sample."""


def difference(one: Kind, other: Kind) -> Kind:
    """Subtract ``other`` from ``one``: `Spectrum.__sub__`.

    Raises:
        ValueError: they measure different quantities, or have different samples.
    """
    require_comparable(one, other, ("unit", "layers", "estimator", "conditions"))
    endless = one.information.isinf() & other.information.isinf()
    if bool(endless.any()):
        at = [layer for layer, no in zip(one.layers, endless.tolist(), strict=True) if no]
        warnings.warn(
            f"both spectra have infinite information in layers {at}: how much it and the synergy "
            "changed is NaN there (the other atoms are valid); add the noise with which the "
            "target is measured",
            stacklevel=3,
        )
    return replace(
        one,
        **_change(one, other),
        **_parts(one, other),
        estimator=f"{DIFFERENCE}{one.estimator}",
        settings={**one.settings, "minus": other.settings},
        mismatch=torch.maximum(one.mismatch, other.mismatch),
        ess=torch.minimum(one.ess, other.ess),
        feasible=one.feasible & other.feasible,
        fallback=torch.maximum(one.fallback, other.fallback),
        doubtful=one.doubtful | other.doubtful | endless,
        groups=common_groups(one, other),
        draw_bias=None
        if one.draw_bias is None or other.draw_bias is None
        else one.draw_bias - other.draw_bias,
    )


def _parts(one: LayerAtoms, other: LayerAtoms) -> dict[str, Any]:
    """Subtract all parts that both results have; cross the ends of brackets, drop the floor."""
    rows = align_rows(one, other)
    parts: dict[str, Any] = dict.fromkeys(PARTS)
    for name in ("sensitivity", *BY_SAMPLE):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not None and theirs is not None:
            theirs = _rows(theirs, rows) if name in BY_SAMPLE else theirs
            parts[name] = replace(mine, **_change(mine, theirs))
    return {**parts, "bracket": _cross_ends(one, other)}


def _change(one: Atoms, other: Atoms) -> dict[str, Any]:
    """Subtract the fields; the widths of both certified intervals add up."""
    changed = {name: getattr(one, name) - getattr(other, name) for name in FIELDS}
    return changed | {"gap": one.gap + other.gap}


def _cross_ends(one: LayerAtoms, other: LayerAtoms) -> Atoms | None:
    """Subtract every end of ``other`` from every end of ``one``, [ends, layers]."""
    if one.bracket is None and other.bracket is None:
        return None
    pairs = [_change(a, b) for a in one.ends for b in other.ends]
    fields: dict[str, Any] = {name: torch.stack([pair[name] for pair in pairs]) for name in FIELDS}
    return Atoms(**fields, unit=one.unit)


def _rows(atoms: Atoms, rows: list[int]) -> Atoms:
    """Reorder the samples of per-sample atoms."""
    return replace(atoms, **{name: getattr(atoms, name)[:, rows] for name in FIELDS})
