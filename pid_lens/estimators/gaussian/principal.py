"""Principal components of states, and what their being estimated adds to an error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.pca import NOTHING, principal_axes


@dataclass(frozen=True)
class Principal:
    """States in their first principal components.

    Example:
        >>> states = torch.tensor([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]]).double()
        >>> Principal.of(states, 1).scores.abs().flatten()
        tensor([3., 3., 0., 0.], dtype=torch.float64)
    """

    states: Float64[Tensor, "layers n width"]
    """Centred."""
    axes: Float64[Tensor, "layers width all"]
    """Of falling variance, the ones that are left out too; 0 where there is no variance."""
    variances: Float64[Tensor, "layers all"]
    kept: int

    @classmethod
    def of(cls, states: Float64[Tensor, "layers n width"], kept: int) -> Self:
        """So many components of each layer; the states as they are where that is all."""
        centred = states - states.mean(1, keepdim=True)
        width = states.shape[-1]
        if kept >= width:
            eye = torch.eye(width, dtype=states.dtype, device=states.device)
            return cls(centred, eye.expand(len(states), -1, -1), centred.square().mean(1), width)
        variances, axes = principal_axes(centred)
        return cls(centred, axes, variances, kept)

    @cached_property
    def scores(self) -> Float64[Tensor, "layers n kept"]:
        """The states along the axes that are kept."""
        return self.states @ self.axes[..., : self.kept]

    def turning_influence(
        self, pull: Float64[Tensor, "layers n kept"]
    ) -> Float64[Tensor, "layers n"]:
        r"""How far each sample moves a value by turning the axes that are kept, times n.

        A sample with scores u_j along an axis that is kept and u_m along one that is left out
        turns the first towards the second, to first order by u_j u_m / (v_j - v_m), v being
        their variances. It moves the value by

        .. math:: \sum_{j,m} \frac{u_{ij} u_{im}}{v_j - v_m} \, \frac1n \sum_s u_{sm} g_{sj}

        Source:
            Asymptotic theory for principal component analysis (Anderson, 1963),
            https://doi.org/10.1214/aoms/1177704248

        Args:
            pull: g, n times the derivative of the value in each score.
        """
        left_out = self.axes[..., self.kept :]
        apart = self.variances[:, None, : self.kept] - self.variances[:, self.kept :, None]
        least = NOTHING * self.variances[:, :1, None]
        apart = apart.maximum(least).where(least > 0, 1.0)
        along = left_out.mT @ (self.states.mT @ pull) / self.states.shape[1]
        towards = left_out @ (along / apart)
        return ((self.states @ towards) * self.scores).sum(-1)
