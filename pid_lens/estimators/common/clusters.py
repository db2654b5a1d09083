"""Groups: what an estimator is told of each sample by its id, such as its cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor


def as_clusters(groups: Sequence[Any] | Tensor | np.ndarray, n: int) -> Int64[Tensor, " n"]:
    """Labels of any kind as numbers from 0.

    Raises:
        ValueError: not one label a sample.
    """
    labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    labels = [label.item() if hasattr(label, "item") else label for label in labels]
    if len(labels) != n or any(isinstance(label, list) for label in labels):
        raise ValueError(f"{n} samples need as many groups, one label each; got {len(labels)}")
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([number[label] for label in labels])


Groups = Mapping[str, Any] | Callable[[str], Any]
"""Sample id -> the label of its cluster, or whatever else is told of it."""
_NAMED = 3
"""So many missing samples are named in an error."""


def labels_of(ids: Sequence[str], groups: Groups | None, name: str = "groups") -> list[Any] | None:
    """What is told of each sample, in their order; None where nothing is.

    Raises:
        ValueError: samples that are lacking, or for which a function returns None.

    Example:
        >>> labels_of(["a/1", "a/2", "b/1"], lambda name: name.split("/")[0])
        ['a', 'a', 'b']
    """
    if groups is None:
        return None
    tell = groups.get if isinstance(groups, Mapping) else groups
    told = [tell(one) for one in ids]
    missing = [repr(one) for one, label in zip(ids, told, strict=True) if label is None]
    if missing:
        shown = ", ".join(missing[:_NAMED]) + ", ..." * (len(missing) > _NAMED)
        raise ValueError(f"{name} lack {len(missing)} of {len(ids)} samples: {shown}")
    return told


def clusters_of(ids: Sequence[str], groups: Groups | None) -> Int64[Tensor, " n"] | None:
    """The cluster of each sample as a number from 0; None where there are none.

    Example:
        >>> clusters_of(["a/1", "a/2", "b/1"], lambda name: name[0])
        tensor([0, 0, 1])
    """
    labels = labels_of(ids, groups)
    return None if labels is None else as_clusters(labels, len(ids))
