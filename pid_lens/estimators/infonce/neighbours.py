"""KSG: mutual information from distances to the k-th nearest neighbour."""

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
    """A nearest-neighbour (KSG) estimate of mutual information, nats.

    Attributes:
        value: the estimate.
        error: its jackknife standard error.
        cap: the most that it can be, psi(n) - psi(k).
    """

    value: float
    error: float
    cap: float


def neighbour_information(
    x: Float64[Tensor, "n dx"],
    y: Float64[Tensor, "n dy"],
    seed: int = 0,
    clusters: Int64[Tensor, " n"] | None = None,
) -> Counted:
    """Estimate I(X; Y) by distances to the fifth nearest neighbour (KSG, first algorithm).

    Samples share their neighbours, so the error is that of a delete-a-group jackknife of ten
    parts. Samples of one cluster are not neighbours, and are deleted together.

    Args:
        x: [n, dx].
        y: [n, dy].
        seed: of the jackknife's parts.
        clusters: of each sample, numbers from 0; each its own by default.

    Raises:
        ValueError: fewer than 60 samples or 10 clusters, or samples whose fifth
            neighbour is at distance 0.

    Source:
        Estimating mutual information (Kraskov, Stögbauer, Grassberger, 2004),
        https://doi.org/10.1103/PhysRevE.69.066138

    Example:
        >>> x, y = torch.randn(2, 200, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> abs(neighbour_information(x, y).value) < 0.2  # nats
        True
        >>> abs(neighbour_information(x, x + y).value - 0.35) < 0.25  # log(2) / 2
        True
    """
    least = JACKKNIFE_PARTS * (NEIGHBOURS + 1)
    if len(x) < least:
        raise ValueError(f"ksg needs at least {least} samples; got {len(x)}")
    parts = folds_of(len(x), JACKKNIFE_PARTS, torch.Generator().manual_seed(seed), clusters)
    of = torch.arange(len(x)) if clusters is None else clusters
    whole = _information_among(x, y, of, torch.arange(len(x)))
    without = torch.stack([_information_among(x, y, of, kept) for kept in _all_but_one(parts)])
    # Delete-a-group jackknife: variance (g - 1) / g sum_j (I_(-j) - mean)^2
    spread = (without - without.mean()).square().sum() * (JACKKNIFE_PARTS - 1) / JACKKNIFE_PARTS
    # Cap: n_x, n_y >= k - 1, hence I <= psi(n) - psi(k)
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
    """Average psi(k) + psi(N) - psi(n_x + 1) - psi(n_y + 1) over some samples.

    N counts the sample itself and all samples of other clusters; n_x of the latter are nearer in
    x alone than the k-th nearest of them in x and y, by the maximum norm.
    """
    x, y, clusters = x[among], y[among], clusters[among]
    known = []
    for rows in torch.arange(len(among)).split(_ROWS):
        # Chebyshev distances in x and in y; samples of the same cluster are not neighbours
        apart = torch.stack([torch.cdist(z[rows], z, p=math.inf) for z in (x, y)])
        apart = apart.masked_fill(clusters[rows, None] == clusters, math.inf)
        # Radius: distance to the k-th neighbour in the joint space, max(|dx|, |dy|)
        reach = apart.amax(0).kthvalue(NEIGHBOURS).values
        _require_no_ties(reach, among[rows])
        # Marginal counts n_x, n_y strictly within the radius
        nearer = (apart < reach[:, None]).sum(-1)
        counts = torch.stack([apart[0].isfinite().sum(-1), *nearer]).double()
        of_all, of_x, of_y = torch.digamma(counts + 1)
        known.append(of_all - of_x - of_y)
    return torch.cat(known).mean() + torch.digamma(torch.tensor(NEIGHBOURS).double())


def _require_no_ties(reach: Float64[Tensor, " rows"], samples: Int64[Tensor, " rows"]) -> None:
    """Require a radius above 0: the estimate needs samples that differ."""
    tied = samples[reach == 0].tolist()
    if tied:
        raise ValueError(
            f"ksg needs continuous variables: at least {NEIGHBOURS} other samples equal "
            f"sample "
            f"{min(tied)} in x and y, and distances of 0 carry no information. method='infonce' "
            "takes ties"
        )
