"""Pairing of two results: require the same quantity and samples, match their rows and groups."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

DIFFERENCE = "difference of "
"""Prefix of the estimator's name in a difference."""
_DECIDING = (
    *("repair", "tau", "draws", "redundancy", "target", "components", "variance", "joint"),
    *("transforms", "features", "epochs", "batch_size", "constants", "shared", "folds"),
)
"""Settings that must be equal: with another value a result is another quantity."""


class Paired(Protocol):
    """A result over samples, as far as pairing needs it."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the samples."""

    @property
    def groups(self) -> Tensor | None:
        """Group of each sample, [n]; None where the samples are independent."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings on which the numbers depend."""


def require_comparable(one: Paired, other: Paired, same: tuple[str, ...]) -> None:
    """Require two results of one quantity over the same samples, as a difference needs.

    Args:
        one: a result.
        other: another one.
        same: names of attributes that must be equal.

    Raises:
        ValueError: they differ; the message lists in what.
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
    """Find the rows of ``other`` in the order of the samples of ``one``."""
    row_of = {name: row for row, name in enumerate(other.ids)}
    return [row_of[name] for name in one.ids]


def common_groups(one: Paired, other: Paired) -> Tensor | None:
    """Return the groups of a difference: those of either result, which must not contradict.

    Raises:
        ValueError: both have groups, but different ones.
    """
    if one.groups is None or other.groups is None:
        known = other.groups
        return one.groups if known is None else known[align_rows(one, other)]
    # The two groupings are one iff their numbers match one to one
    pairs = torch.stack([one.groups, other.groups[align_rows(one, other)]], 1).unique(dim=0)
    if not len(pairs) == len(one.groups.unique()) == len(other.groups.unique()):
        raise ValueError(
            "these results group their samples differently: give both the same groups="
        )
    return one.groups
