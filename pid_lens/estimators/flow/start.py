"""Start: an invertible map towards a Gaussian, fitted in one go, for a flow to begin at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.flow.axes import independent_axes

_BEYOND = 5
"""So many samples lie between the last knot but one and the last, the largest sample."""
_STEEPEST = 1e6
"""The largest slope of a quantile map: equal values, of which it would be infinite, get this."""


@dataclass(frozen=True)
class Start:
    """A linear map within each variable, then an increasing one of each coordinate.

    Called with rows [n, d] it gives values [n, d] and the log of the volume's change, [n].
    """

    axes: Float64[Tensor, "d d"]
    knots: Float64[Tensor, "d knots"]
    """What of each coordinate is mapped to ``scores``, linearly in between and beyond."""
    scores: Float64[Tensor, " knots"]

    def __call__(
        self, rows: Float64[Tensor, "n d"]
    ) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, " n"]]:
        """Values and the log of the Jacobian's determinant."""
        columns = (rows @ self.axes.mT).mT.contiguous()
        right = torch.searchsorted(self.knots, columns).clamp(1, len(self.scores) - 1)
        left, end = self.knots.gather(1, right - 1), self.knots.gather(1, right)
        slopes = (self.scores[right] - self.scores[right - 1]) / (end - left)
        values = self.scores[right - 1] + slopes * (columns - left)
        return values.mT, slopes.log().sum(0) + torch.linalg.slogdet(self.axes).logabsdet


def starting_flow(
    variables: Sequence[Float64[Tensor, "n _"]],
    whole: Sequence[bool],
    near: Sequence[Float64[Tensor, "_ _"]],
) -> Start:
    """Where a flow begins that is to make variables Gaussian.

    Principal components begin along independent axes, and are not bent. A variable that is
    ``whole``, with coordinates of its own, has the quantiles of each made normal ones, of its
    own coordinates or of its independent axes, whichever are likelier: what distorted each
    coordinate by itself is undone but for the sampling error of the quantiles.

    Args:
        variables: [n, d_i] each, of full rank.
        whole: for each, whether it has coordinates of its own.
        near: the `independent_axes` of each, to find those of these samples from.

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
    scores = _scores(len(variable))
    return Start(independent, scores.repeat(variable.shape[1], 1), scores)


def _start_bent(variable: Float64[Tensor, "n d"], independent: Float64[Tensor, "d d"]) -> Start:
    own = torch.eye(variable.shape[1], dtype=variable.dtype)
    found = [_start_at_quantiles(variable, axes) for axes in (own, independent)]
    return max(found, key=lambda part: _likelihood(part, variable))


def _likelihood(part: Start, variable: Float64[Tensor, "n d"]) -> float:
    """Mean log density were the values Gaussian, nats, constants apart."""
    values, volume = part(variable)
    spread = torch.cov(values.mT).reshape(values.shape[1], -1)
    return float(volume.mean() - torch.linalg.slogdet(spread).logabsdet / 2)


def _scores(n: int) -> Float64[Tensor, " knots"]:
    """Normal quantiles of n samples, evenly spaced but for the first and the last."""
    levels = 1 - torch.tensor([0.5, _BEYOND], dtype=torch.float64) / n
    last, inner = torch.special.ndtri(levels)
    even = torch.linspace(-1, 1, 2 * round(n ** (1 / 3)) + 1, dtype=torch.float64) * inner
    return torch.cat([-last[None], even, last[None]])


def _start_at_quantiles(variable: Float64[Tensor, "n d"], axes: Float64[Tensor, "d d"]) -> Start:
    """Quantiles of each coordinate along some axes become normal quantiles."""
    n, scores = len(variable), _scores(len(variable))
    ordered = (variable @ axes.mT).sort(0).values
    levels = (n * torch.special.ndtr(scores) - 0.5).clamp(0, n - 1)
    below = levels.floor().long().clamp(max=n - 2)
    knots = torch.lerp(ordered[below], ordered[below + 1], (levels - below)[:, None]).mT
    gaps = knots.diff(dim=1).maximum(scores.diff() / _STEEPEST)
    return Start(axes, torch.cat([knots[:, :1], knots[:, :1] + gaps.cumsum(1)], 1), scores)
