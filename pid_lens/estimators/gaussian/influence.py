"""Influence functions of a Gaussian PID, for the delta method: how far a sample moves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.pca import NOTHING
from pid_lens.estimators.gaussian.algebra import shared_basis, whitener
from pid_lens.estimators.gaussian.from_covariance import Redundancy
from pid_lens.results import FIELDS, NATS, Atoms

INFORMATIONS = FIELDS[:-1]


def information_slopes(
    cov: Float64[Tensor, "*batch d d"],
    sizes: tuple[int, int, int],
    redundancy: Redundancy = "exact",
) -> dict[str, Float64[Tensor, "*batch d d"]]:
    r"""Differentiate each information with respect to the covariance, nats.

    With M the map from a sample (y, x1, x2) to the residual of the regression of y on a source,
    in directions in which that residual is uncorrelated and of unit variance ::

        dI(Y; X) / dS = 1/2 (S_Y^-1 - M^T M)

    S_Y^-1 being in the block of y. For the union the directions are those that diagonalise
    S_Y|X1 and S_Y|X2 both, and the residual is that of the source that predicts the direction
    better: to first order the best subspace stays what it is (envelope theorem). Where both
    predict it equally well there is a kink, and the slope is that of X2.

    Args:
        cov: blocks in the order Y, X1, X2; neither source determines a direction of Y.
        sizes: dimensions of Y, X1, X2.
        redundancy: ``"minimum"`` (MMI): the union is the larger of both informations.

    Returns:
        A symmetric matrix for each of ``INFORMATIONS``, finite, and without meaning where the
        information is infinite.

    Example:
        >>> cov = torch.tensor([[2., 1., 0.], [1., 1., 0.], [0., 0., 1.]], dtype=torch.float64)
        >>> information_slopes(cov, (1, 1, 1))["information_vision"][:2, :2]
        tensor([[-0.2500,  0.5000],
                [ 0.5000, -0.5000]], dtype=torch.float64)
    """
    dy, d1, _ = sizes
    sources = slice(dy, None), slice(dy, dy + d1), slice(dy + d1, None)
    # Regressions of white Y on (X1, X2), X1 and X2; the union takes residuals of the better one
    both, one, two = (_Left.of(cov, dy, source) for source in sources)
    union = _larger_errors(one, two) if redundancy == "minimum" else _better_errors(one, two)
    # S_Y^-1 in the block of y, then dI/dS = 1/2 (S_Y^-1 - M^T M)
    white = whitener(cov[..., :dy, :dy])
    known = torch.zeros_like(cov)
    known[..., :dy, :dy] = white.mT @ white
    errors = (both.standardise(), one.standardise(), two.standardise(), union)
    return {name: (known - m.mT @ m) / 2 for name, m in zip(INFORMATIONS, errors, strict=True)}


def gaussian_influence(
    rows: Float64[Tensor, "*batch n d"],
    slopes: dict[str, Float64[Tensor, "*batch d d"]],
    plug_in: Atoms,
) -> Atoms:
    r"""Compute the empirical influence function: how far one more sample moves a value, times n.

    It is :math:`z_i^T G z_i - \mathrm{tr}(G \Sigma)` of a centred sample, G the slope in the
    covariance; its mean is 0. It assumes independent samples, but not that they are Gaussian.
    Where the information is infinite it is inf, and so is any standard error made of it.

    Source:
        The influence curve and its role in robust estimation (Hampel, 1974),
        https://doi.org/10.1080/01621459.1974.10482962

    Args:
        rows: Y, X1 and X2 side by side.
        slopes: those of `information_slopes`.
        plug_in: the decomposition of the rows' covariance.

    Returns:
        Atoms of shape [..., n] in the unit of ``plug_in``.
    """
    # z^T G z of each sample, less its mean tr(G S)
    centred = rows - rows.mean(-2, keepdim=True)
    values: dict[str, Any] = {}
    for name, slope in slopes.items():
        value = ((centred @ slope) * centred).sum(-1) / NATS[plug_in.unit]
        finite = getattr(plug_in, name).isfinite()[..., None]
        values[name] = (value - value.mean(-1, keepdim=True)).where(finite, torch.inf)
    return Atoms(gap=torch.zeros_like(values["union"]), unit=plug_in.unit, **values)


def gaussian_pointwise(influence: Atoms, plug_in: Atoms) -> Atoms:
    r"""Compute each sample's local information in the Gaussian fit.

    Means over samples are the plug-in's values. Of X about Y it is log p(y|x) / p(y). Of the
    union it is log q(y|x1,x2) / p(y), where q is the coupling that attains it: each direction of
    y is predicted by the better source alone. (Under ``"minimum"``, all of y by the source of
    more information.) In a Gaussian fit these are the value plus the `gaussian_influence`.

    Returns:
        Atoms of shape [..., n].
    """
    values: dict[str, Any] = {
        name: getattr(plug_in, name)[..., None] + getattr(influence, name) for name in INFORMATIONS
    }
    return Atoms(gap=torch.zeros_like(values["union"]), unit=plug_in.unit, **values)


@dataclass(frozen=True)
class _Left:
    """Linear regression of white Y on a source: map of a sample to its residual, covariance."""

    errors: Float64[Tensor, "*batch dy d"]
    covariance: Float64[Tensor, "*batch dy dy"]

    @classmethod
    def of(cls, cov: Float64[Tensor, "*batch d d"], dy: int, source: slice) -> Self:
        """Regress Y on the source in these rows and columns of the covariance."""
        # K = W_Y S_YX W_X^T, whose singular values are the canonical correlations
        y, x = whitener(cov[..., :dy, :dy]), whitener(cov[..., source, source])
        gain = y @ cov[..., :dy, source] @ x.mT
        # Residual W_Y y - K W_X x, of covariance I - K K^T
        errors = torch.zeros_like(cov[..., :dy, :])
        errors[..., :dy], errors[..., source] = y, -gain @ x
        eye = torch.eye(dy, dtype=cov.dtype, device=cov.device)
        return cls(errors, eye - gain @ gain.mT)

    def standardise(self) -> Float64[Tensor, "*batch dy d"]:
        """Whiten the residuals; leave them as they are where their covariance is singular."""
        # L^-1 residual, with I - K K^T = L L^T
        root, _ = torch.linalg.cholesky_ex(self.covariance)
        there = (root.diagonal(dim1=-2, dim2=-1) ** 2 > NOTHING).all(-1)[..., None, None]
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        return torch.linalg.solve_triangular(root.where(there, eye), self.errors, upper=False)


def _better_errors(one: _Left, two: _Left) -> Float64[Tensor, "*batch dy d"]:
    """Take, in each direction, the standardised residual of the source that predicts it better."""
    # Basis with W^T S_Y|X1 W = I and W^T S_Y|X2 W = diag(ratios): X1 is better where ratio > 1
    ratios, basis = shared_basis(one.covariance, two.covariance)
    of_one, of_two = basis.mT @ one.errors, basis.mT @ two.errors
    ratios = ratios[..., None]
    return of_one.where(ratios > 1, of_two * ratios.rsqrt())


def _larger_errors(one: _Left, two: _Left) -> Float64[Tensor, "*batch dy d"]:
    """Take the standardised residuals of the source of more information."""
    # I(Y; X) = -1/2 log det S_Y|X: the smaller determinant
    more = torch.logdet(one.covariance) < torch.logdet(two.covariance)
    return one.standardise().where(more[..., None, None], two.standardise())
