"""Folds for cross-fitting: a random partition of the samples, each part held out in turn."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def folds_of(
    n: int, folds: int, generator: torch.Generator, clusters: Int64[Tensor, " n"] | None = None
) -> list[Int64[Tensor, " fold"]]:
    """Split n samples at random into folds of nearly one size; the rows of each fold.

    Clusters stay together, in one fold and within it.

    Args:
        n: number of samples.
        folds: number of parts.
        generator: of the random order.
        clusters: of each sample, numbers from 0; by default each sample is its own.

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
    # A cluster goes to the fold in which the middle of its rows falls, in the shuffled order
    middles = sizes[shuffled].cumsum(0) - (sizes[shuffled] + 1) / 2
    fold = torch.empty_like(shuffled)
    fold[shuffled] = (middles * folds / max(n, 1)).long()
    # Rows in the order of their shuffled clusters, cut where the fold changes
    order = shuffled.argsort()[of].argsort(stable=True)
    parts = [order[fold[of[order]] == part] for part in range(folds)]
    if not all(map(len, parts)):
        raise ValueError(
            f"{folds} folds need as many samples or clusters, none of which holds most samples; "
            f"got {len(sizes)} of {n} samples, the largest with {int(sizes.max()) if n else 0}"
        )
    return parts
