"""Normalizing flow of rational-quadratic splines and rotations, initially the identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

BINS = 8
"""Number of bins of each coordinate's spline."""


@dataclass(frozen=True)
class Shape:
    """Architecture of a flow.

    Attributes:
        sizes: dimensions of each variable.
        transforms: number of splines of each coordinate.
        joint: whether rotations mix variables, and come before the first splines, too.
    """

    sizes: Sequence[int]
    transforms: int
    joint: bool


class Flow(nn.Module):
    """Normalizing flow: rational-quadratic splines of each coordinate, rotations in between.

    Called with values [n, d] it gives values [n, d] and log |det Jacobian|, [n]. It is the
    identity until it is trained.

    Args:
        shape: its architecture.

    Source:
        Neural spline flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032

    Raises:
        ImportError: zuko is not installed.

    Example:
        >>> values = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
        >>> found, volume = Flow(Shape((2, 1), transforms=2, joint=False))(values)
        >>> torch.allclose(found, values), torch.allclose(volume, torch.zeros_like(volume))
        (True, True)
    """

    def __init__(self, shape: Shape) -> None:
        """Create rotations and splines whose parameters are 0: the identity."""
        super().__init__()
        self._rotated, self._bent = _import_zuko()
        self._joint, d, count = shape.joint, sum(shape.sizes), range(shape.transforms)
        # Rotations exp(A - A^T), A masked to blocks so that variables do not mix
        blocks = [d] if shape.joint else shape.sizes
        self._free = torch.block_diag(*(torch.ones(size, size) for size in blocks))
        self._turns = nn.ParameterList(_zeros(d, d) for _ in count)
        self._widths = nn.ParameterList(_zeros(d, BINS) for _ in count)
        self._heights = nn.ParameterList(_zeros(d, BINS) for _ in count)
        self._slopes = nn.ParameterList(_zeros(d, BINS - 1) for _ in count)

    def forward(
        self, values: Float64[Tensor, "n d"]
    ) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, " n"]]:
        """Apply the flow; return values and log |det Jacobian|."""
        volume = torch.zeros(len(values), dtype=values.dtype)
        parts = zip(self._turns, self._widths, self._heights, self._slopes, strict=True)
        for at, (turn, *spline) in enumerate(parts):
            if at or self._joint:
                values = self._rotated(turn * self._free)(values)
            # A spline of each coordinate: log |det| is the sum of log slopes; a rotation has 0
            values, log_slopes = self._bent(*spline).call_and_ladj(values)
            volume = volume + log_slopes.sum(-1)
        return values, volume


def _zeros(*shape: int) -> nn.Parameter:
    """Create parameters of 0, of which a rotation or a spline is the identity."""
    return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))


def _import_zuko() -> tuple[Any, Any]:
    try:
        from zuko.transforms import MonotonicRQSTransform, RotationTransform
    except ImportError as error:
        raise ImportError(
            "flows need the package zuko (pip install zuko); GaussianPID does without"
        ) from error
    return RotationTransform, MonotonicRQSTransform
