"""Copula: how variables depend on each other, whatever the scale of each coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.estimators.common.pca import principal_axes
from pid_lens.estimators.gaussian.algebra import whitener
from pid_lens.results import standard_error

MOST_CORRELATED = 0.9999
"""Beyond this a correlation says no more than that there is much information."""


def normal_scores(x: Float64[Tensor, "n width"]) -> Float64[Tensor, "n width"]:
    """Each coordinate's ranks as quantiles of a normal distribution; equal values stay equal.

    Mutual information does not change under it. A constant becomes 0.

    Example:
        >>> normal_scores(torch.tensor([[7.0], [100.0], [8.0]], dtype=torch.float64))[:, 0]
        tensor([-0.9674,  0.9674,  0.0000], dtype=torch.float64)
    """
    columns = x.mT.contiguous()
    ordered = columns.sort(-1).values
    below = torch.searchsorted(ordered, columns)
    up_to = torch.searchsorted(ordered, columns, right=True)
    return torch.special.ndtri((below + up_to).double() / (2 * len(x))).mT


def coordinates(
    x: Float64[Tensor, "n width"], components: int | None = None, seed: int = 0
) -> Float64[Tensor, "n coordinates"]:
    """Normal scores of the components of normal scores, and the score of their norm.

    The norm comes last: what heavy tails share is in no coordinate by itself.
    """
    scores = normal_scores(x)
    if components is not None and components < x.shape[1]:
        scores = scores - scores.mean(0)
        _, axes = principal_axes(scores, components, seed)
        scores = normal_scores(scores @ axes[:, :components])
    return torch.cat([scores, normal_scores(scores.square().sum(-1, keepdim=True))], -1)


@dataclass(frozen=True)
class Pairs:
    """Directions of X and of Y, pair by pair, each pair a Gaussian one and of no other's.

    With canonical variates a, b of correlation r the log density ratio is ::

        log p(x, y) / (p(x) p(y)) = sum r a b / (1 - r^2) - r^2 (a^2 + b^2) / (2 (1 - r^2))
                                    - log(1 - r^2) / 2

    Source:
        Relations between two sets of variates (Hotelling, 1936),
        https://doi.org/10.1093/biomet/28.3-4.321
    """

    x_axes: Float64[Tensor, "dx pairs"]
    y_axes: Float64[Tensor, "dy pairs"]
    correlations: Float64[Tensor, " pairs"]

    def features(
        self, x: Float64[Tensor, "n dx"], y: Float64[Tensor, "n dy"]
    ) -> tuple[Float64[Tensor, "n features"], Float64[Tensor, "n features"]]:
        """Of x and of y, so that their dot product is the log ratio but for its constant."""
        a, b, r = x @ self.x_axes, y @ self.y_axes, self.correlations
        slope, curve = r / (1 - r**2), r**2 / (2 * (1 - r**2))
        one = torch.ones(len(x), 1, dtype=x.dtype)
        of_x = torch.cat([slope * a, -(a**2 @ curve)[:, None], one], -1)
        return of_x, torch.cat([b, one, -(b**2 @ curve)[:, None]], -1)

    def without_norm(self) -> Pairs:
        """The same pairs among `coordinates`, whose last one they leave out."""
        x_axes, y_axes = (
            torch.nn.functional.pad(z, (0, 0, 0, 1)) for z in (self.x_axes, self.y_axes)
        )
        return Pairs(x_axes, y_axes, self.correlations)

    @property
    def information(self) -> Float64[Tensor, ""]:
        """I(X; Y) of these pairs, nats; the constant of their log ratio."""
        return -0.5 * (1 - self.correlations**2).log().sum()


def canonical_pairs(
    x: Float64[Tensor, "n dx"], y: Float64[Tensor, "n dy"], ridge: float = 0.0
) -> Pairs:
    """The canonical pairs of samples of mean 0.

    Args:
        x: samples.
        y: as many.
        ridge: added to the variances, against directions that few samples cannot tell.
    """
    white_x, white_y = (whitener(_covariance(z) + ridge * torch.eye(z.shape[1])) for z in (x, y))
    left, correlations, right = torch.linalg.svd(
        white_x @ (x.mT @ y / len(x)) @ white_y.mT, full_matrices=False
    )
    return Pairs(white_x.mT @ left, white_y.mT @ right.mT, correlations)


def learn_pairs(
    x: Float64[Tensor, "n dx"],
    y: Float64[Tensor, "n dy"],
    learn: Int64[Tensor, " some"],
    check: Int64[Tensor, " others"],
    clusters: Int64[Tensor, " n"] | None = None,
) -> Pairs:
    """Canonical pairs of some samples, no more correlated than they surely are in others."""
    ridge = max(x.shape[1], y.shape[1]) / len(learn)
    pairs = canonical_pairs(x[learn], y[learn], ridge)
    a, b = x @ pairs.x_axes, y @ pairs.y_axes
    of = None if clusters is None else clusters[check].unique(return_inverse=True)[1]
    sure = shrink_correlations(a[check], b[check], of)
    seen = torch.minimum(_correlations(a[learn], b[learn]), sure)
    return Pairs(
        pairs.x_axes / _deviations(a[check]),
        pairs.y_axes / _deviations(b[check]),
        seen.clamp(0, MOST_CORRELATED),
    )


def shrink_correlations(
    a: Float64[Tensor, "n pairs"],
    b: Float64[Tensor, "n pairs"],
    clusters: Int64[Tensor, " n"] | None = None,
) -> Float64[Tensor, " pairs"]:
    """Correlations r less what chance shows, r - e^2 / r for a standard error e, and 0 for r < e.

    Source:
        Estimation with quadratic loss (James, Stein, 1961),
        https://projecteuclid.org/euclid.bsmsp/1200512173

    Example:
        >>> a, b = torch.randn(2, 100, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> shrink_correlations(a, torch.stack([a[:, 0], b[:, 1]], 1))
        tensor([1., 0.], dtype=torch.float64)
    """
    a, b = a / _deviations(a), b / _deviations(b)
    r = (a * b).mean(0)
    error = standard_error((a * b - r * (a**2 + b**2) / 2).mT, clusters)
    return (r - error**2 / r).where(r > error, 0.0)


def _correlations(a: Tensor, b: Tensor) -> Float64[Tensor, " pairs"]:
    return (a / _deviations(a) * b / _deviations(b)).mean(0)


def _deviations(a: Float64[Tensor, "n pairs"]) -> Float64[Tensor, " pairs"]:
    """From 0; 1 for what is constant."""
    deviations = a.square().mean(0).sqrt()
    return deviations.where(deviations > 0, 1.0)


def _covariance(x: Float64[Tensor, "n width"]) -> Float64[Tensor, "width width"]:
    return x.mT @ x / len(x)
