"""Groups of dependent samples, looked up by sample id and numbered as the clusters of an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def as_clusters(groups: Sequence[Any] | Tensor | np.ndarray, n: int) -> Int64[Tensor, " n"]:
    """Convert groups to cluster numbers, from 0 in order of appearance.

    Args:
        groups: the group of each sample, any hashable values.
        n: number of samples.

    Raises:
        ValueError: not one group per sample.

    Example:
        >>> as_clusters(["cat", "dog", "cat"], 3)
        tensor([0, 1, 0])
    """
    names = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    names = [name.item() if hasattr(name, "item") else name for name in names]
    if len(names) != n or any(isinstance(name, list) for name in names):
        raise ValueError(f"{n} samples need as many groups, one each; got {len(names)}")
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[name] for name in names])


Groups = Mapping[str, Any] | Callable[[str], Any]
"""Sample id -> its group of dependent samples, or another attribute of the sample."""
_NAMED = 3
"""How many missing samples an error names."""


def labels_of(ids: Sequence[str], groups: Groups | None, name: str = "groups") -> list[Any] | None:
    """Look up the group (or another attribute) of each sample by id; None without ``groups``.

    Args:
        ids: sample ids.
        groups: mapping or function from sample id to group.
        name: of ``groups`` in an error.

    Raises:
        ValueError: a mapping lacks samples, or a function returns None for some.

    Example:
        >>> labels_of(["a/1", "a/2", "b/1"], lambda name: name.split("/")[0])
        ['a', 'a', 'b']
    """
    if groups is None:
        return None
    look_up = groups.get if isinstance(groups, Mapping) else groups
    found = [look_up(one) for one in ids]
    missing = [repr(one) for one, group in zip(ids, found, strict=True) if group is None]
    if missing:
        shown = ", ".join(missing[:_NAMED]) + ", ..." * (len(missing) > _NAMED)
        raise ValueError(f"{name} lack {len(missing)} of {len(ids)} samples: {shown}")
    return found


def clusters_of(ids: Sequence[str], groups: Groups | None) -> Int64[Tensor, " n"] | None:
    """Look up the group of each sample, as a cluster number from 0; None without ``groups``.

    Raises:
        ValueError: as `labels_of`.

    Example:
        >>> clusters_of(["a/1", "a/2", "b/1"], lambda name: name[0])
        tensor([0, 0, 1])
    """
    names = labels_of(ids, groups)
    return None if names is None else as_clusters(names, len(ids))
