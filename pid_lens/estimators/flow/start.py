"""Initial map of a normalizing flow: independent axes and normal quantiles, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.flow.axes import independent_axes

_BEYOND = 5
"""So many samples lie between the last but one knot and the last, the largest sample."""
_STEEPEST = 1e6
"""The largest slope of a quantile map: equal values, of which it would be infinite, get this."""


@dataclass(frozen=True)
class Start:
    """Linear map within each variable, then a piecewise linear increasing one per coordinate.

    Called with rows [n, d] it gives values [n, d] and log |det Jacobian|, [n].

    Attributes:
        axes: the linear map, a block for each variable, [d, d].
        knots: values of each coordinate that are mapped to ``scores``, linearly in between and
            beyond, [d, knots].
        scores: normal quantiles, [knots].
    """

    axes: Float64[Tensor, "d d"]
    knots: Float64[Tensor, "d knots"]
    scores: Float64[Tensor, " knots"]

    def __call__(
        self, rows: Float64[Tensor, "n d"]
    ) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, " n"]]:
        """Apply the map; return values and log |det Jacobian|."""
        # Coordinates along the axes, and the pair of knots around each value
        columns = (rows @ self.axes.mT).mT.contiguous()
        right = torch.searchsorted(self.knots, columns).clamp(1, len(self.scores) - 1)
        left, end = self.knots.gather(1, right - 1), self.knots.gather(1, right)
        # Linear interpolation; log |det| = sum of log slopes + log |det axes|
        slopes = (self.scores[right] - self.scores[right - 1]) / (end - left)
        values = self.scores[right - 1] + slopes * (columns - left)
        return values.mT, slopes.log().sum(0) + torch.linalg.slogdet(self.axes).logabsdet


def starting_flow(
    variables: Sequence[Float64[Tensor, "n _"]],
    whole: Sequence[bool],
    near: Sequence[Float64[Tensor, "_ _"]],
) -> Start:
    """Fit the initial map of a flow: independent axes, and normal quantiles of own coordinates.

    Principal components begin along independent axes, and stay linear. A variable that is
    ``whole``, with coordinates of its own, gets normal quantiles of these coordinates or of its
    independent axes, the likelier of both: a distortion of each coordinate by itself is undone
    but for the sampling error of the quantiles.

    Args:
        variables: [n, d_i] each, of full rank.
        whole: for each, whether its columns are its own coordinates.
        near: the `independent_axes` of each, where the search on these samples starts.

    Example:
        >>> skewed = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).double().exp()
        >>> values, volume = starting_flow([skewed], [True], [independent_axes(skewed)])(skewed)
        >>> skewed.max(), values.max()
        (tensor(60.4305, dtype=torch.float64), tensor(3.0902, dtype=torch.float64))
    """
    found = map(independent_axes, variables, near)
    parts = [
        (_start_bent if own else _start_linear)(x, axes)
        for x, own, axes in zip(variables, whole, found, strict=True)
    ]
    axes = torch.block_diag(*(part.axes for part in parts))
    return Start(axes, torch.cat([part.knots for part in parts]), parts[0].scores)


def _start_linear(variable: Float64[Tensor, "n d"], independent: Float64[Tensor, "d d"]) -> Start:
    # Knots equal to scores: the identity after the axes
    scores = _scores(len(variable))
    return Start(independent, scores.repeat(variable.shape[1], 1), scores)


def _start_bent(variable: Float64[Tensor, "n d"], independent: Float64[Tensor, "d d"]) -> Start:
    own = torch.eye(variable.shape[1], dtype=variable.dtype)
    # Quantile maps along own and along independent axes: the likelier
    found = [_start_at_quantiles(variable, axes) for axes in (own, independent)]
    return max(found, key=lambda part: _likelihood(part, variable))


def _likelihood(part: Start, variable: Float64[Tensor, "n d"]) -> float:
    """Compute the mean log density of a fitted Gaussian, nats, up to a constant."""
    # E log N(z; mu, S) + E log |det dz/dx| = -1/2 log det S + E log |det dz/dx| + constant
    values, volume = part(variable)
    spread = torch.cov(values.mT).reshape(values.shape[1], -1)
    return float(volume.mean() - torch.linalg.slogdet(spread).logabsdet / 2)


def _scores(n: int) -> Float64[Tensor, " knots"]:
    """Compute normal quantiles of n samples, evenly spaced but for the first and the last."""
    # 2 n^(1/3) + 1 inner knots, then the extremes at levels 1 / (2 n) and 1 - 1 / (2 n)
    levels = 1 - torch.tensor([0.5, _BEYOND], dtype=torch.float64) / n
    last, inner = torch.special.ndtri(levels)
    even = torch.linspace(-1, 1, 2 * round(n ** (1 / 3)) + 1, dtype=torch.float64) * inner
    return torch.cat([-last[None], even, last[None]])


def _start_at_quantiles(variable: Float64[Tensor, "n d"], axes: Float64[Tensor, "d d"]) -> Start:
    """Map quantiles of each coordinate along some axes to normal quantiles."""
    # Empirical quantiles at the scores' levels: order statistic i has level (i + 1/2) / n
    n, scores = len(variable), _scores(len(variable))
    ordered = (variable @ axes.mT).sort(0).values
    levels = (n * torch.special.ndtr(scores) - 0.5).clamp(0, n - 1)
    below = levels.floor().long().clamp(max=n - 2)
    knots = torch.lerp(ordered[below], ordered[below + 1], (levels - below)[:, None]).mT
    # Equal values: widen the gap, so that no slope is over _STEEPEST
    gaps = knots.diff(dim=1).maximum(scores.diff() / _STEEPEST)
    return Start(axes, torch.cat([knots[:, :1], knots[:, :1] + gaps.cumsum(1)], 1), scores)
