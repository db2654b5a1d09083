"""Covariances: what one variable leaves of another, and bases in which two are diagonal."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from pid_lens.estimators.common.pca import NOTHING


def covariance_of(rows: Float64[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch d d"]:
    """The sample covariance with constants at 0 exactly.

    Example:
        >>> covariance_of(torch.tensor([[1., 5.], [3., 5.]], dtype=torch.float64))
        tensor([[1., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    constant = (rows == rows[..., :1, :]).all(-2, keepdim=True)
    centred = (rows - rows.mean(-2, keepdim=True)).where(~constant, 0.0)
    return centred.mT @ centred / rows.shape[-2]


def shared_basis(
    one: Float64[Tensor, "*batch d d"], other: Float64[Tensor, "*batch d d"]
) -> tuple[Float64[Tensor, "*batch d"], Float64[Tensor, "*batch d d"]]:
    """The basis W in which two positive definite matrices are diagonal: I and the ratios.

    Returns:
        Ratios, rising, and W with W^T one W = I, W^T other W = diag(ratios).

    Example:
        >>> a = torch.tensor([[2., 0.], [0., 1.]], dtype=torch.float64)
        >>> shared_basis(a, torch.eye(2, dtype=torch.float64))[0]
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    root = torch.linalg.cholesky(one)
    ratios, vectors = torch.linalg.eigh(divide_by_root(root, other))
    return ratios, torch.linalg.solve_triangular(root.mT, vectors, upper=True)


def divide_by_root(root: Tensor, other: Tensor) -> Float64[Tensor, "*batch d d"]:
    """L^-1 other L^-T."""
    half = torch.linalg.solve_triangular(root, other, upper=False)
    full = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return (full + full.mT) / 2


def conditional_covariance(
    cov: Float64[Tensor, "*batch d d"], dy: int, source: slice
) -> Float64[Tensor, "*batch dy dy"]:
    """S_Y|X = S_Y - S_YX S_X^+ S_XY: what is left of the first dy variables, X being known.

    Example:
        >>> cov = torch.tensor([[2., 1.], [1., 1.]], dtype=torch.float64)
        >>> conditional_covariance(cov, 1, slice(1, None))
        tensor([[1.]], dtype=torch.float64)
    """
    told = whiten(cov[..., source, source], cov[..., source, :dy])
    return cov[..., :dy, :dy] - told.mT @ told


def standardise(cov: Float64[Tensor, "*batch d d"], dy: int) -> Float64[Tensor, "*batch d d"]:
    """The same system with Y in coordinates of unit covariance; constant ones become noise."""
    mixed = whiten(cov[..., :dy, :dy], cov[..., :dy, dy:])
    eye = torch.eye(dy, dtype=cov.dtype, device=cov.device).expand(*cov.shape[:-2], dy, dy)
    top = torch.cat([eye, mixed], -1)
    return torch.cat([top, torch.cat([mixed.mT, cov[..., dy:, dy:]], -1)], -2)


def whitener(cov: Float64[Tensor, "*batch d d"]) -> Float64[Tensor, "*batch d d"]:
    """W with W cov W^T = I, rows of 0 in place of directions without variance.

    Example:
        >>> whitener(4 * torch.eye(1, dtype=torch.float64))
        tensor([[0.5000]], dtype=torch.float64)
    """
    return whiten(cov, torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device))


def whiten(
    cov: Float64[Tensor, "*batch d d"], values: Float64[Tensor, "*#batch d columns"]
) -> Float64[Tensor, "*batch d columns"]:
    """The `whitener` of a covariance times values.

    Example:
        >>> whiten(4 * torch.eye(1, dtype=torch.float64), torch.ones(1, 2).double())
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    scale = scales(cov)
    values, scaled = scale[..., None] * values, scale[..., None] * cov * scale[..., None, :]
    root, failed = torch.linalg.cholesky_ex(scaled)
    least = root.diagonal(dim1=-2, dim2=-1).amin(-1)
    if bool(((failed == 0) & (least**2 > NOTHING)).all()):
        return torch.linalg.solve_triangular(root, values, upper=False)
    variances, vectors = torch.linalg.eigh(scaled)
    there = variances > NOTHING * variances[..., -1:].clamp_min(1.0)
    inverse = variances.where(there, 1.0).rsqrt().where(there, 0.0)
    return inverse[..., None] * (vectors.mT @ values)


def rank(white: Float64[Tensor, "*batch d d"]) -> Int[Tensor, "*batch"]:
    """How many directions a `whitener` found to have variance."""
    return (white != 0).any(-1).sum(-1)


def scales(cov: Tensor) -> Float64[Tensor, "*batch d"]:
    """1 / standard deviation of each variable, 0 for a constant."""
    variance = cov.diagonal(dim1=-2, dim2=-1)
    return variance.where(variance > 0, 1.0).rsqrt().where(variance > 0, 0.0)
