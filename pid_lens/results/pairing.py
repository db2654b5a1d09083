"""Pairing: whether two results are of the same samples, and which sample is which."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

DIFFERENCE = "difference of "
"""How the estimator's name begins in a difference."""
_DECIDING = (
    *("repair", "tau", "draws", "redundancy", "target", "components", "variance", "joint"),
    *("transforms", "features", "epochs", "batch_size", "constants", "shared", "folds"),
)
"""Settings under which a result is another quantity."""


class Paired(Protocol):
    """What results over samples have in common."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the samples."""

    @property
    def groups(self) -> Tensor | None:
        """The cluster of each sample."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""


def require_comparable(one: Paired, other: Paired, same: tuple[str, ...]) -> None:
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


def align_rows(one: Paired, other: Paired) -> list[int]:
    """The other's rows in the order of the one's samples."""
    row_of = {name: row for row, name in enumerate(other.ids)}
    return [row_of[name] for name in one.ids]


def common_groups(one: Paired, other: Paired) -> Tensor | None:
    """The clusters of a difference: those of either result, which must not contradict.

    Raises:
        ValueError: both have clusters, and other ones.
    """
    if one.groups is None or other.groups is None:
        known = other.groups
        return one.groups if known is None else known[align_rows(one, other)]
    pairs = torch.stack([one.groups, other.groups[align_rows(one, other)]], 1).unique(dim=0)
    if not len(pairs) == len(one.groups.unique()) == len(other.groups.unique()):
        raise ValueError("these results cluster their samples differently: give both one groups=")
    return one.groups
