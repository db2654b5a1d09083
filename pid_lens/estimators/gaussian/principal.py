"""Principal components of hidden states, and the sampling error of their axes (delta method)."""

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
    """Hidden states in their first principal components.

    Attributes:
        states: centred hidden states, [layers, n, width].
        axes: unit eigenvectors by falling variance, those left out included, [layers, width,
            all]; 0 where there is no variance.
        variances: along the axes, [layers, all].
        kept: number of components that are kept.

    Example:
        >>> states = torch.tensor([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]]).double()
        >>> Principal.of(states, 1).scores.abs().flatten().round(decimals=4)
        tensor([3., 3., 0., 0.], dtype=torch.float64)
    """

    states: Float64[Tensor, "layers n width"]
    axes: Float64[Tensor, "layers width all"]
    variances: Float64[Tensor, "layers all"]
    kept: int

    @classmethod
    def of(cls, states: Float64[Tensor, "layers n width"], kept: int) -> Self:
        """Compute the first components of each layer; where all are kept, do not rotate."""
        centred = states - states.mean(1, keepdim=True)
        width = states.shape[-1]
        # All of them: own coordinates, no axis to estimate
        if kept >= width:
            eye = torch.eye(width, dtype=states.dtype, device=states.device)
            return cls(centred, eye.expand(len(states), -1, -1), centred.square().mean(1), width)
        variances, axes = principal_axes(centred)
        return cls(centred, axes, variances, kept)

    @cached_property
    def scores(self) -> Float64[Tensor, "layers n kept"]:
        """Coordinates of the states along the axes that are kept."""
        return self.states @ self.axes[..., : self.kept]

    def turning_influence(
        self, pull: Float64[Tensor, "layers n kept"]
    ) -> Float64[Tensor, "layers n"]:
        r"""Compute how far each sample moves a value by turning the kept axes, times n.

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
        # Eigenvalue gaps v_j - v_m of kept and left-out axes, bounded away from 0
        left_out = self.axes[..., self.kept :]
        apart = self.variances[:, None, : self.kept] - self.variances[:, self.kept :, None]
        least = NOTHING * self.variances[:, :1, None]
        apart = apart.maximum(least).where(least > 0, 1.0)
        # 1/n sum_s u_sm g_sj, divided by the gaps; then the sum over j, m with u_ij u_im
        along = left_out.mT @ (self.states.mT @ pull) / self.states.shape[1]
        towards = left_out @ (along / apart)
        return ((self.states @ towards) * self.scores).sum(-1)
