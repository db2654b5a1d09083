"""Covariance algebra: conditional covariances, whitening, simultaneous diagonalisation."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from pid_lens.estimators.common.pca import NOTHING


def covariance_of(rows: Float64[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch d d"]:
    """Compute the sample covariance, divided by n; that of a constant is exactly 0.

    Example:
        >>> covariance_of(torch.tensor([[1., 5.], [3., 5.]], dtype=torch.float64))
        tensor([[1., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    # Centre; a constant becomes 0, not the rounding of its mean
    constant = (rows == rows[..., :1, :]).all(-2, keepdim=True)
    centred = (rows - rows.mean(-2, keepdim=True)).where(~constant, 0.0)
    # Maximum-likelihood covariance S = 1/n sum (x - mean) (x - mean)^T
    return centred.mT @ centred / rows.shape[-2]


def shared_basis(
    one: Float64[Tensor, "*batch d d"], other: Float64[Tensor, "*batch d d"]
) -> tuple[Float64[Tensor, "*batch d"], Float64[Tensor, "*batch d d"]]:
    """Diagonalise two positive definite matrices by one basis W: to I and to their ratios.

    The generalised eigenvalue problem other w = ratio one w.

    Returns:
        Ratios, rising, and W with W^T one W = I, W^T other W = diag(ratios).

    Example:
        >>> a = torch.tensor([[2., 0.], [0., 1.]], dtype=torch.float64)
        >>> shared_basis(a, torch.eye(2, dtype=torch.float64))[0]
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    # one = L L^T, and L^-1 other L^-T = V diag(ratios) V^T
    root = torch.linalg.cholesky(one)
    ratios, vectors = torch.linalg.eigh(divide_by_root(root, other))
    # W = L^-T V
    return ratios, torch.linalg.solve_triangular(root.mT, vectors, upper=True)


def divide_by_root(root: Tensor, other: Tensor) -> Float64[Tensor, "*batch d d"]:
    """Compute L^-1 other L^-T, with L a lower triangular root and other symmetric."""
    # Two forward substitutions; the mean with the transpose removes rounding asymmetry
    half = torch.linalg.solve_triangular(root, other, upper=False)
    full = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return (full + full.mT) / 2


def conditional_covariance(
    cov: Float64[Tensor, "*batch d d"], dy: int, source: slice
) -> Float64[Tensor, "*batch dy dy"]:
    """Compute the conditional covariance of Y, the first dy variables, given a source X.

    The Schur complement S_Y|X = S_Y - S_YX S_X^+ S_XY.

    Example:
        >>> cov = torch.tensor([[2., 1.], [1., 1.]], dtype=torch.float64)
        >>> conditional_covariance(cov, 1, slice(1, None))
        tensor([[1.]], dtype=torch.float64)
    """
    # S_YX S_X^+ S_XY = A^T A with A = W S_XY, W the whitener of S_X, W S_X W^T = I
    explained = whiten(cov[..., source, source], cov[..., source, :dy])
    return cov[..., :dy, :dy] - explained.mT @ explained


def standardise(cov: Float64[Tensor, "*batch d d"], dy: int) -> Float64[Tensor, "*batch d d"]:
    """Whiten Y within a joint covariance; its constant directions become independent noise."""
    # S_Y -> I and S_YX -> W S_YX, W the whitener of S_Y, with rows of 0 for constant directions
    mixed = whiten(cov[..., :dy, :dy], cov[..., :dy, dy:])
    eye = torch.eye(dy, dtype=cov.dtype, device=cov.device).expand(*cov.shape[:-2], dy, dy)
    top = torch.cat([eye, mixed], -1)
    return torch.cat([top, torch.cat([mixed.mT, cov[..., dy:, dy:]], -1)], -2)


def whitener(cov: Float64[Tensor, "*batch d d"]) -> Float64[Tensor, "*batch d d"]:
    """Compute the whitening matrix W, W cov W^T = I; rows are 0 for directions of no variance.

    Example:
        >>> whitener(4 * torch.eye(1, dtype=torch.float64))
        tensor([[0.5000]], dtype=torch.float64)
    """
    return whiten(cov, torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device))


def whiten(
    cov: Float64[Tensor, "*batch d d"], values: Float64[Tensor, "*#batch d columns"]
) -> Float64[Tensor, "*batch d columns"]:
    """Multiply values by the `whitener` of a covariance.

    Example:
        >>> whiten(4 * torch.eye(1, dtype=torch.float64), torch.ones(1, 2).double())
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    # Scale to correlations: C = D cov D with D = diag(1 / standard deviation)
    scale = scales(cov)
    values, scaled = scale[..., None] * values, scale[..., None] * cov * scale[..., None, :]
    # Full rank: C = L L^T, W values = L^-1 D values
    root, failed = torch.linalg.cholesky_ex(scaled)
    least = root.diagonal(dim1=-2, dim2=-1).amin(-1)
    if bool(((failed == 0) & (least**2 > NOTHING)).all()):
        return torch.linalg.solve_triangular(root, values, upper=False)
    # Rank deficient: C = V diag(v) V^T, W values = v^(-1/2) V^T D values, 0 where v is rounding
    variances, vectors = torch.linalg.eigh(scaled)
    there = variances > NOTHING * variances[..., -1:].clamp_min(1.0)
    inverse = variances.where(there, 1.0).rsqrt().where(there, 0.0)
    return inverse[..., None] * (vectors.mT @ values)


def rank(white: Float64[Tensor, "*batch d d"]) -> Int[Tensor, "*batch"]:
    """Count the directions with variance: rows of a `whitener` that are not 0."""
    return (white != 0).any(-1).sum(-1)


def scales(cov: Tensor) -> Float64[Tensor, "*batch d"]:
    """Compute 1 / standard deviation of each variable, 0 for a constant."""
    variance = cov.diagonal(dim1=-2, dim2=-1)
    return variance.where(variance > 0, 1.0).rsqrt().where(variance > 0, 0.0)
