"""Folds: the parts of a sample that are held out in turn."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def folds_of(
    n: int, folds: int, generator: torch.Generator, clusters: Int64[Tensor, " n"] | None = None
) -> list[Int64[Tensor, " fold"]]:
    """The rows of each fold, of nearly one size and in random order.

    Clusters stay together, in one fold and within it.

    Args:
        n: number of samples.
        folds: number of parts.
        generator: of the order.
        clusters: of each sample, numbers from 0; each its own by default.

    Raises:
        ValueError: a fold would be empty: fewer samples or clusters than folds, or one cluster
            that holds most samples.

    Example:
        >>> clusters = torch.tensor([0, 0, 1, 1])
        >>> one, other = folds_of(4, 2, torch.Generator().manual_seed(0), clusters)
        >>> sorted([one.tolist(), other.tolist()])
        [[0, 1], [2, 3]]
    """
    of = torch.arange(n) if clusters is None else clusters
    sizes = of.bincount()
    shuffled = torch.randperm(len(sizes), generator=generator)
    middles = sizes[shuffled].cumsum(0) - (sizes[shuffled] + 1) / 2
    fold = torch.empty_like(shuffled)
    fold[shuffled] = (middles * folds / max(n, 1)).long()
    order = shuffled.argsort()[of].argsort(stable=True)
    parts = [order[fold[of[order]] == part] for part in range(folds)]
    if not all(map(len, parts)):
        raise ValueError(
            f"{folds} folds need as many samples or clusters, none of which holds most samples; "
            f"got {len(sizes)} of {n} samples, the largest with {int(sizes.max()) if n else 0}"
        )
    return parts
