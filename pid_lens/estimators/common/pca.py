"""Principal components (PCA): the directions along which samples vary most."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

_FEW = 4
"""Subspace iteration is used for so many times fewer components than there could be."""
_ROUNDS = 4
"""Power iterations."""
_SPARE = 10
"""Oversampling: dimensions of the random subspace beyond the components asked for."""


def principal_axes(
    centred: Float64[Tensor, "*batch n width"], most: int | None = None, seed: int = 0
) -> tuple[Float64[Tensor, "*batch k"], Float64[Tensor, "*batch width k"]]:
    """Compute principal components: their variances, in descending order, and their axes.

    All components, by an eigendecomposition of the smaller of both Gram matrices; where far fewer
    are asked for than there are, by randomised subspace iteration. Components with less than
    1e-12 of the largest variance are rounding: their variance and axis are 0.

    Args:
        centred: samples of mean 0.
        most: how many components to find at least; all by default.
        seed: of the random subspace.

    Source:
        Finding structure with randomness: probabilistic algorithms for constructing approximate
        matrix decompositions (Halko, Martinsson, Tropp, 2011), https://doi.org/10.1137/090771806

    Example:
        >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
        >>> variances, axes = principal_axes(x)
        >>> variances
        tensor([4.5000, 0.5000], dtype=torch.float64)
    """
    n, width = centred.shape[-2:]
    few = most is not None and _FEW * (most + _SPARE) <= min(n, width)
    variances, axes = _iterate(centred, most or 0, seed) if few else _all_axes(centred)
    # Numerical rank: components of rounding alone become exactly 0
    there = variances > NOTHING * variances[..., :1]
    return variances.where(there, 0.0), axes.where(there[..., None, :], 0.0)


def _all_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    n, width = centred.shape[-2:]
    # Eigenvectors v of the covariance X^T X / n, or u of X X^T / n with v = X^T u / sqrt(n lambda)
    if width <= n:
        variances, axes = torch.linalg.eigh(centred.mT @ centred / n)
    else:
        variances, scores = torch.linalg.eigh(centred @ centred.mT / n)
        axes = centred.mT @ scores / (n * variances[..., None, :]).clamp_min(0).sqrt()
    return variances.flip(-1), axes.flip(-1)


def _iterate(centred: Tensor, most: int, seed: int) -> tuple[Tensor, Tensor]:
    n, width = centred.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    # Random Gaussian test matrix
    span = torch.randn(width, most + _SPARE, generator=generator, dtype=centred.dtype)
    span = span.to(centred.device)
    # Power iteration with re-orthonormalisation (QR): span <- X^T orth(X span)
    for _ in range(_ROUNDS):
        span = centred.mT @ torch.linalg.qr(centred @ span).Q
    basis = torch.linalg.qr(centred @ span).Q
    # SVD of the samples projected on the subspace: singular values sqrt(n variance), axes
    _, deviations, axes = torch.linalg.svd(basis.mT @ centred, full_matrices=False)
    return deviations.square() / n, axes.mT


NOTHING = 1e-12
"""A variance below this share of its reference (the largest, or the unconditional) is rounding."""
