"""Differences: what changed from one result to another over the same samples."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from pid_lens.atoms import FIELDS, PARTS, Atoms

if TYPE_CHECKING:
    from pid_lens.curves import Curve
    from pid_lens.spectra import Spectrum

    Result: TypeAlias = Spectrum | Curve

DIFFERENCE = "difference of "
"""How the estimator's name begins in a difference."""
BY_SAMPLE = ("pointwise", "influence")
"""The parts with one entry a sample."""
_DECIDING = (
    *("repair", "tau", "draws", "redundancy", "target", "components", "variance", "joint"),
    *("transforms", "features", "epochs", "batch_size", "constants", "shared", "folds"),
)
"""Settings under which a result is another quantity."""


def difference(one: Spectrum, other: Spectrum) -> Spectrum:
    """`Spectrum.__sub__`: the change from the other to the one.

    Raises:
        ValueError: they are no spectra of one quantity over the same samples.
    """
    refuse_others(one, other, ("unit", "layers", "estimator", "conditions"))
    endless = one.information.isinf() & other.information.isinf()
    if bool(endless.any()):
        at = [layer for layer, no in zip(one.layers, endless.tolist(), strict=True) if no]
        warnings.warn(
            f"both spectra have infinite information in layers {at}: how much it and the synergy "
            "changed is NaN there (the other atoms stand); add the noise with which the target "
            "is measured",
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


def refuse_others(one: Result, other: Result, same: tuple[str, ...]) -> None:
    """Only results of one quantity over the same samples can be subtracted.

    Args:
        one: a result.
        other: another one.
        same: names of attributes that must be equal.

    Raises:
        ValueError: it says in what they differ.
    """
    differing = [name for name in same if getattr(one, name) != getattr(other, name)]
    differing += [k for k in _DECIDING if one.settings.get(k) != other.settings.get(k)]
    if set(one.ids) != set(other.ids):
        only = len(set(one.ids) ^ set(other.ids))
        differing.append(f"samples ({only} are in one alone)")
    if differing:
        raise ValueError(
            f"these results differ in {', '.join(differing)}: only those of the same samples and "
            "settings can be subtracted"
        )


def aligned(one: Result, other: Result) -> list[int]:
    """The other's rows in the order of the one's samples."""
    row_of = {name: row for row, name in enumerate(other.ids)}
    return [row_of[name] for name in one.ids]


def common_groups(one: Result, other: Result) -> Tensor | None:
    """The clusters of a difference: those of either result, which must not contradict.

    Raises:
        ValueError: both have clusters, and other ones.
    """
    if one.groups is None or other.groups is None:
        known = other.groups
        return one.groups if known is None else known[aligned(one, other)]
    pairs = torch.stack([one.groups, other.groups[aligned(one, other)]], 1).unique(dim=0)
    if not len(pairs) == len(one.groups.unique()) == len(other.groups.unique()):
        raise ValueError("these results cluster their samples differently: give both one groups=")
    return one.groups


def ends_of(spectrum: Spectrum) -> list[Atoms]:
    """What a bias may lie between: the plug-in, and whatever the bracket has."""
    if spectrum.bracket is None:
        return [spectrum]
    fields = {name: getattr(spectrum.bracket, name) for name in FIELDS}
    columns = zip(*(torch.atleast_2d(value) for value in fields.values()), strict=True)
    ends: list[dict[str, Any]] = [dict(zip(fields, row, strict=True)) for row in columns]
    return [spectrum, *(Atoms(**end) for end in ends)]


# ---------------------------------------------------------------- parts


def _parts(one: Spectrum, other: Spectrum) -> dict[str, Any]:
    """The change of whatever both hold; of brackets all ends, and no floor."""
    rows = aligned(one, other)
    parts: dict[str, Any] = dict.fromkeys(PARTS)
    for name in ("sensitivity", *BY_SAMPLE):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not None and theirs is not None:
            theirs = _rows(theirs, rows) if name in BY_SAMPLE else theirs
            parts[name] = replace(mine, **_change(mine, theirs))
    return {**parts, "bracket": _crossed(one, other)}


def _change(one: Atoms, other: Atoms) -> dict[str, Any]:
    """The fields of a difference; the widths of both intervals add up."""
    changed = {name: getattr(one, name) - getattr(other, name) for name in FIELDS}
    return changed | {"gap": one.gap + other.gap}


def _crossed(one: Spectrum, other: Spectrum) -> Atoms | None:
    """Every end of one minus every end of the other, [ends, layers]."""
    if one.bracket is None and other.bracket is None:
        return None
    pairs = [_change(a, b) for a in ends_of(one) for b in ends_of(other)]
    fields: dict[str, Any] = {name: torch.stack([pair[name] for pair in pairs]) for name in FIELDS}
    return Atoms(**fields)


def _rows(atoms: Atoms, rows: list[int]) -> Atoms:
    """Per-sample atoms in another order of samples."""
    return replace(atoms, **{name: getattr(atoms, name)[:, rows] for name in FIELDS})
