"""Copula transform (normal scores) and canonical pairs, a Gaussian model of the density ratio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.estimators.common.pca import principal_axes
from pid_lens.estimators.gaussian.algebra import whitener
from pid_lens.results import standard_error

MOST_CORRELATED = 0.9999
"""Correlations are clamped to this: log(1 - r^2) diverges at 1."""


def normal_scores(x: Float64[Tensor, "n width"]) -> Float64[Tensor, "n width"]:
    """Map each coordinate to the normal quantiles of its ranks (normal scores); ties stay ties.

    z = Phi^-1((rank - 1/2) / n), tied values at their mean rank. Mutual information does not
    change under it. A constant becomes 0.

    Example:
        >>> normal_scores(torch.tensor([[7.0], [100.0], [8.0]], dtype=torch.float64))[:, 0]
        tensor([-0.9674,  0.9674,  0.0000], dtype=torch.float64)
    """
    columns = x.mT.contiguous()
    ordered = columns.sort(-1).values
    # Mid-ranks less 1/2: half of (number of values below + number of values up to this one)
    below = torch.searchsorted(ordered, columns)
    up_to = torch.searchsorted(ordered, columns, right=True)
    return torch.special.ndtri((below + up_to).double() / (2 * len(x))).mT


def coordinates(
    x: Float64[Tensor, "n width"], components: int | None = None, seed: int = 0
) -> Float64[Tensor, "n coordinates"]:
    """Compute normal scores of principal components, and as last coordinate that of their norm.

    The components are those of the normal scores of x. The norm is there for heavy tails, whose
    common scale (as of a multivariate t) shows in no coordinate by itself.
    """
    scores = normal_scores(x)
    # Principal components of the scores, then normal scores again
    if components is not None and components < x.shape[1]:
        scores = scores - scores.mean(0)
        _, axes = principal_axes(scores, components, seed)
        scores = normal_scores(scores @ axes[:, :components])
    # Normal score of the squared norm sum_k z_k^2
    return torch.cat([scores, normal_scores(scores.square().sum(-1, keepdim=True))], -1)


@dataclass(frozen=True)
class Pairs:
    """Canonical pairs: directions of X and of Y whose variates correlate only pair by pair.

    With canonical variates a, b of correlation r, jointly normal, the log density ratio is ::

        log p(x, y) / (p(x) p(y)) = sum r a b / (1 - r^2) - r^2 (a^2 + b^2) / (2 (1 - r^2))
                                    - log(1 - r^2) / 2

    Attributes:
        x_axes: directions of X, [dx, pairs]; a = x @ x_axes.
        y_axes: directions of Y, [dy, pairs]; b = y @ y_axes.
        correlations: canonical correlations r, [pairs].

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
        """Build features of x and of y whose dot product is the log ratio less its constant."""
        a, b, r = x @ self.x_axes, y @ self.y_axes, self.correlations
        # Separate the quadratic: (r a / (1 - r^2), -q(a), 1) . (b, 1, -q(b)), q(a) = curve . a^2
        slope, curve = r / (1 - r**2), r**2 / (2 * (1 - r**2))
        one = torch.ones(len(x), 1, dtype=x.dtype)
        of_x = torch.cat([slope * a, -(a**2 @ curve)[:, None], one], -1)
        return of_x, torch.cat([b, one, -(b**2 @ curve)[:, None]], -1)

    def without_norm(self) -> Pairs:
        """Extend the axes to all `coordinates`, with weight 0 on the last, the norm."""
        x_axes, y_axes = (
            torch.nn.functional.pad(z, (0, 0, 0, 1)) for z in (self.x_axes, self.y_axes)
        )
        return Pairs(x_axes, y_axes, self.correlations)

    @property
    def information(self) -> Float64[Tensor, ""]:
        """Gaussian I(X; Y) = -1/2 sum log(1 - r^2), nats; the constant of the log ratio."""
        return -0.5 * (1 - self.correlations**2).log().sum()


def canonical_pairs(
    x: Float64[Tensor, "n dx"], y: Float64[Tensor, "n dy"], ridge: float = 0.0
) -> Pairs:
    """Compute canonical correlations and axes of samples of mean 0 (CCA).

    Args:
        x: samples, [n, dx].
        y: samples, [n, dy].
        ridge: added to the variances, against directions that few samples do not determine.
    """
    # Whiten both sides; the SVD of the whitened cross-covariance gives axes and correlations
    white_x, white_y = (whitener(_covariance(z) + ridge * torch.eye(z.shape[1])) for z in (x, y))
    left, correlations, right = torch.linalg.svd(
        white_x @ (x.mT @ y / len(x)) @ white_y.mT, full_matrices=False
    )
    return Pairs(white_x.mT @ left, white_y.mT @ right.mT, correlations)


def learn_pairs(
    x: Float64[Tensor, "n dx"],
    y: Float64[Tensor, "n dy"],
    learn: Int64[Tensor, " some"],
    check: Int64[Tensor, " rest"],
    clusters: Int64[Tensor, " n"] | None = None,
) -> Pairs:
    """Fit canonical pairs on some samples and shrink their correlations on held-out ones.

    Args:
        x: samples, [n, dx].
        y: samples, [n, dy].
        learn: rows that determine the axes.
        check: other rows, that determine scales and correlations.
        clusters: of each sample, numbers from 0; each its own by default.
    """
    # Ridge-regularised CCA on the learning rows
    ridge = max(x.shape[1], y.shape[1]) / len(learn)
    pairs = canonical_pairs(x[learn], y[learn], ridge)
    a, b = x @ pairs.x_axes, y @ pairs.y_axes
    # Correlations: the smaller of the fitted ones and those that the check rows confirm
    of = None if clusters is None else clusters[check].unique(return_inverse=True)[1]
    shrunk = shrink_correlations(a[check], b[check], of)
    correlations = torch.minimum(_correlations(a[learn], b[learn]), shrunk)
    return Pairs(
        pairs.x_axes / _deviations(a[check]),
        pairs.y_axes / _deviations(b[check]),
        correlations.clamp(0, MOST_CORRELATED),
    )


def shrink_correlations(
    a: Float64[Tensor, "n pairs"],
    b: Float64[Tensor, "n pairs"],
    clusters: Int64[Tensor, " n"] | None = None,
) -> Float64[Tensor, " pairs"]:
    """Shrink correlations r by their sampling error e (James-Stein): r - e^2 / r, 0 for r < e.

    Source:
        Estimation with quadratic loss (James, Stein, 1961),
        https://projecteuclid.org/euclid.bsmsp/1200512173

    Example:
        >>> a, b = torch.randn(2, 100, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> shrink_correlations(a, torch.stack([a[:, 0], b[:, 1]], 1)).round(decimals=4)
        tensor([1., 0.], dtype=torch.float64)
    """
    a, b = a / _deviations(a), b / _deviations(b)
    r = (a * b).mean(0)
    # Delta method: the influence of a sample on a correlation is ab - r (a^2 + b^2) / 2
    error = standard_error((a * b - r * (a**2 + b**2) / 2).mT, clusters)
    return (r - error**2 / r).where(r > error, 0.0)


def _correlations(a: Tensor, b: Tensor) -> Float64[Tensor, " pairs"]:
    return (a / _deviations(a) * b / _deviations(b)).mean(0)


def _deviations(a: Float64[Tensor, "n pairs"]) -> Float64[Tensor, " pairs"]:
    """Compute root mean squares (deviations from 0); 1 for constants at 0."""
    deviations = a.square().mean(0).sqrt()
    return deviations.where(deviations > 0, 1.0)


def _covariance(x: Float64[Tensor, "n width"]) -> Float64[Tensor, "width width"]:
    return x.mT @ x / len(x)
