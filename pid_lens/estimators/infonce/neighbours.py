"""Neighbours: the information that distances to near samples show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.estimators.common.folds import folds_of

NEIGHBOURS = 5
JACKKNIFE_PARTS = 10
_ROWS = 500


class Counted(NamedTuple):
    """An information, its standard error and the most that it can be, nats."""

    value: float
    error: float
    cap: float


def neighbour_information(
    x: Float64[Tensor, "n dx"],
    y: Float64[Tensor, "n dy"],
    seed: int = 0,
    clusters: Int64[Tensor, " n"] | None = None,
) -> Counted:
    """I(X; Y) by distances to the fifth neighbour.

    The error is that of the jackknife, by tenths: samples share their neighbours. Those of one
    cluster are no neighbours, and stay together in the tenths.

    Args:
        x: [n, dx].
        y: [n, dy].
        seed: of the tenths.
        clusters: of each sample, numbers from 0; each its own by default.

    Raises:
        ValueError: fewer than 60 samples or 10 clusters, or samples without any distance.

    Source:
        Estimating mutual information (Kraskov, Stögbauer, Grassberger, 2004),
        https://doi.org/10.1103/PhysRevE.69.066138

    Example:
        >>> x, y = torch.randn(2, 200, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> abs(neighbour_information(x, y).value) < 0.2
        True
    """
    least = JACKKNIFE_PARTS * (NEIGHBOURS + 1)
    if len(x) < least:
        raise ValueError(f"ksg needs at least {least} samples; got {len(x)}")
    parts = folds_of(len(x), JACKKNIFE_PARTS, torch.Generator().manual_seed(seed), clusters)
    of = torch.arange(len(x)) if clusters is None else clusters
    whole = _information_among(x, y, of, torch.arange(len(x)))
    without = torch.stack([_information_among(x, y, of, kept) for kept in _all_but_one(parts)])
    spread = (without - without.mean()).square().sum() * (JACKKNIFE_PARTS - 1) / JACKKNIFE_PARTS
    most = torch.digamma(torch.tensor([len(x), NEIGHBOURS], dtype=torch.float64)).diff()
    return Counted(float(whole), float(spread.sqrt()), -float(most))


def _all_but_one(parts: list[Tensor]) -> Iterator[Tensor]:
    return (torch.cat([part for part in parts if part is not left]) for left in parts)


def _information_among(
    x: Float64[Tensor, "n dx"],
    y: Float64[Tensor, "n dy"],
    clusters: Int64[Tensor, " n"],
    among: Int64[Tensor, " some"],
) -> Float64[Tensor, ""]:
    """Mean of psi(k) + psi(N) - psi(n_x) - psi(n_y) over some samples.

    Of N samples, itself and all of other clusters, n_x are nearer in x alone than the k-th of
    them in both.
    """
    x, y, clusters = x[among], y[among], clusters[among]
    known = []
    for rows in torch.arange(len(among)).split(_ROWS):
        apart = torch.stack([torch.cdist(z[rows], z, p=math.inf) for z in (x, y)])
        apart = apart.masked_fill(clusters[rows, None] == clusters, math.inf)
        reach = apart.amax(0).kthvalue(NEIGHBOURS).values
        _require_no_ties(reach, among[rows])
        nearer = (apart < reach[:, None]).sum(-1)
        counts = torch.stack([apart[0].isfinite().sum(-1), *nearer]).double()
        of_all, of_x, of_y = torch.digamma(counts + 1)
        known.append(of_all - of_x - of_y)
    return torch.cat(known).mean() + torch.digamma(torch.tensor(NEIGHBOURS).double())


def _require_no_ties(reach: Float64[Tensor, " rows"], samples: Int64[Tensor, " rows"]) -> None:
    """Distances tell nothing of samples that are equal."""
    tied = samples[reach == 0].tolist()
    if tied:
        raise ValueError(
            f"ksg needs continuous variables: {NEIGHBOURS} others or more equal sample "
            f"{min(tied)} in x and y, and their distances tell nothing. method='infonce' takes "
            "ties"
        )
