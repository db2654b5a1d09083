"""Groups: which samples belong together, as an estimator is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Groups = Mapping[str, Any] | Callable[[str], Any]
"""Sample id -> the label of its cluster."""


def labels_of(ids: Sequence[str], groups: Groups | None) -> list[Any] | None:
    """The label of each sample's cluster, in their order; None where there are no clusters.

    Raises:
        ValueError: samples that a mapping does not have.

    Example:
        >>> labels_of(["a/1", "a/2", "b/1"], lambda name: name.split("/")[0])
        ['a', 'a', 'b']
    """
    if groups is None:
        return None
    if not isinstance(groups, Mapping):
        return [groups(name) for name in ids]
    missing = [name for name in ids if name not in groups]
    if missing:
        raise ValueError(f"groups lack {len(missing)} samples, first {missing[0]!r}")
    return [groups[name] for name in ids]
