"""Dimension reduction: the principal components that hold most of a variable's variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.pca import NOTHING, principal_axes

_CONSTANT = 1e-13
"""A variance below this share of the mean square is the rounding of a constant."""


@dataclass(frozen=True)
class Components:
    """Components that `principal_components` keeps of one variable.

    Attributes:
        values: of mean 0 and variance 1 each, [n, components]; no column for a constant.
        share: of the variance that they hold, in [0, 1]; 1 for a constant.
        whole: whether nothing was left out: then the columns are the variable's own coordinates.
    """

    values: Float64[Tensor, "n components"]
    share: float
    whole: bool


def principal_components(
    x: Float64[Tensor, "n width"], variance: float, most: int | None
) -> Components:
    """Compute the fewest principal components that hold a share of the variance, at most so many.

    Where all of them are kept a rotation would gain nothing, and a distortion of each
    coordinate by itself would be harder to undo: the coordinates are kept as they are, scaled.
    Constant coordinates do not count, and directions with less than 1e-12 of the largest
    variance are rounding and never kept.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [2.0, 0.1]], dtype=torch.float64)
        >>> principal_components(x, 0.95, None).values.shape
        torch.Size([3, 1])
        >>> principal_components(x, 1.0, None).whole
        True
    """
    # Centre; drop constants
    centred = x - x.mean(0)
    centred = centred[:, centred.square().mean(0) > _CONSTANT * x.square().mean(0)]
    width = centred.shape[1]
    if not width:
        return Components(centred, 1.0, whole=False)
    # Cumulative share of the variance; 1e-12 of the largest is rounding
    variances, axes = principal_axes(centred, most)
    shares = variances.cumsum(0) / centred.square().mean(0).sum()
    needed = int((shares < variance - NOTHING).sum()) + 1
    kept = min(needed, int((variances > 0).sum()), most or width)
    # Own coordinates if all are kept, else scores; scale to variance 1
    whole = kept == width
    chosen = centred if whole else _skew_upward(centred @ axes[:, :kept])
    return Components(chosen / chosen.square().mean(0).sqrt(), float(shares[kept - 1]), whole)


def _skew_upward(scores: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
    """Flip signs so that each component is skewed upward: signs do not depend on rounding."""
    return torch.where(scores.pow(3).sum(0) < 0, -1.0, 1.0) * scores
