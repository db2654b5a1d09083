"""Gaussian PID of a covariance matrix, in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.arrays import as_float64
from pid_lens.estimators.common.pca import NOTHING
from pid_lens.estimators.gaussian.algebra import (
    conditional_covariance,
    divide_by_root,
    scales,
    standardise,
)
from pid_lens.results import NATS, Atoms, Unit, require_unit

Redundancy = Literal["exact", "minimum"]
_ROUNDING = 1e-9
"""So far may a covariance be from symmetric and positive semi-definite, variances scaled to 1."""


def gaussian_pid(
    covariance: Tensor | np.ndarray,
    sizes: Sequence[int],
    *,
    redundancy: Redundancy = "exact",
    unit: Unit = "bits",
) -> Atoms:
    r"""Compute redundancy, unique information and synergy of jointly Gaussian Y, X1, X2.

    With :math:`\lambda_i` the eigenvalues of :math:`\Sigma_{Y|X_1}^{-1} \Sigma_{Y|X_2}`::

        I(Y; X) = 1/2 log det S_Y / det S_Y|X
        U1 = 1/2 sum_i max(0, log lambda_i)       U2 = 1/2 sum_i max(0, -log lambda_i)
        R = I(Y; X1) - U1                         S = I(Y; X1, X2) - I(Y; X1) - U2

    That is the exact decomposition, not one restricted to Gaussian couplings: in the basis that
    diagonalises both posterior precisions of Y the larger of the two is a bound on any
    coupling, and a Gaussian one meets it. It is wrong for data that are not Gaussian, and biased
    for the covariance of a small sample (`gaussian_pid_samples`).

    A constant variable adds no information, and neither does a second copy of a variable. A
    direction of Y that is determined without error has infinite information: where only both
    sources together determine it, ``information`` and ``synergy`` are inf and the other atoms
    finite; where one source does, the atoms are differences of infinities: a ValueError. Less
    than 1e-12 of a variable's own variance counts as none, as float64 has no digits there.

    Args:
        covariance: [..., d, d], blocks in the order Y, X1, X2.
        sizes: dimensions (dy, d1, d2), each at least 1, with sum d.
        redundancy: ``"exact"``, or ``"minimum"``: R = min(I(Y; X1), I(Y; X2)), the minimum
            mutual information (MMI) of flow-based decompositions, by which one of U1 and U2 is
            always 0.
        unit: ``"bits"`` or ``"nats"``.

    Returns:
        ``Atoms`` of shape [...]; ``gap`` is 0.

    Raises:
        TypeError: not a tensor or array.
        ValueError: not symmetric, not positive semi-definite, NaN, other sizes, or infinite
            information in one source, or an unknown redundancy or unit.

    Source:
        Gaussian partial information decomposition: bias correction and application to
        high-dimensional data (Venkatesh et al., 2023), https://arxiv.org/abs/2307.10515

    Example:
        >>> import torch
        >>> two_noisy_copies = torch.tensor([[1., 1., 1.], [1., 2., 1.], [1., 1., 4.]])
        >>> gaussian_pid(two_noisy_copies, (1, 1, 1))
        Atoms(R=0.208 U_vision=0.292 U_language=...0.000 S=0.111 bits)
    """
    require_redundancy(redundancy)
    require_unit(unit)
    nats = NATS[unit]
    dy, d1, d2 = as_sizes(sizes)
    # Whiten Y, det S_Y = 1, then S_Y|X for either source
    cov = standardise(_as_covariance(covariance, (dy, d1, d2)), dy)
    y_given_1 = conditional_covariance(cov, dy, slice(dy, dy + d1))
    y_given_2 = conditional_covariance(cov, dy, slice(dy + d1, None))
    # I(Y; X) = -1/2 log det S_Y|X; union = I(Y; X2) + U1, or by MMI the larger information
    i1, i2 = (_information_of_one(c, k) for k, c in enumerate((y_given_1, y_given_2), 1))
    more = torch.maximum(i1, i2)
    union = more if redundancy == "minimum" else i2 + _surplus(y_given_1, y_given_2)
    return Atoms(
        information=_information(conditional_covariance(cov, dy, slice(dy, None))) / nats,
        information_vision=i1 / nats,
        information_language=i2 / nats,
        union=union / nats,
        gap=torch.zeros_like(union),
        unit=unit,
    )


def _information(y_given: Float64[Tensor, "*batch dy dy"]) -> Float64[Tensor, "*batch"]:
    """Compute -1/2 log det of the conditional covariance of a white Y, nats; inf if singular."""
    # Cholesky: 1/2 log det = sum of log diag L; a pivot at rounding is a determined direction
    root, failed = torch.linalg.cholesky_ex(y_given)
    left = root.diagonal(dim1=-2, dim2=-1)
    known = (failed != 0) | (left.amin(-1) ** 2 <= NOTHING)
    return -left.clamp_min(NOTHING).log().sum(-1).where(~known, -torch.inf)


def _information_of_one(y_given: Tensor, source: int) -> Float64[Tensor, "*batch"]:
    information = _information(y_given)
    if bool(information.isinf().any()):
        at = information.isinf().nonzero()[0].tolist()
        raise ValueError(
            f"X{source} determines a direction of Y without error{f' in system {at}' * bool(at)}, "
            f"so I(Y; X{source}) is infinite and the atoms are differences of infinities: leave "
            "that direction out of Y (a variable that is in both?), or add the noise with which "
            "it is measured"
        )
    return information


def _surplus(y_given_1: Tensor, y_given_2: Tensor) -> Float64[Tensor, "*batch"]:
    """Compute U1 = 1/2 sum_i max(0, log lambda_i) in nats."""
    # lambda_i: eigenvalues of L^-1 S_Y|X2 L^-T, with S_Y|X1 = L L^T
    ratios = torch.linalg.eigvalsh(divide_by_root(torch.linalg.cholesky(y_given_1), y_given_2))
    return 0.5 * ratios.clamp_min(1.0).log().sum(-1)


# ---------------------------------------------------------------- input


def require_redundancy(redundancy: str) -> None:
    """Require that the redundancy is ``"exact"`` or ``"minimum"``.

    Raises:
        ValueError: it is neither.
    """
    if redundancy not in get_args(Redundancy):
        raise ValueError(f"redundancy must be one of {get_args(Redundancy)}; got {redundancy!r}")


def as_sizes(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Convert sizes to three whole numbers above 0.

    Raises:
        ValueError: they are not.
    """
    if len(sizes) != 3 or not all(int(size) == size and size > 0 for size in sizes):
        raise ValueError(
            f"sizes must be the dimensions (dy, d1, d2) of Y, X1, X2, each at least 1; got {sizes}"
        )
    dy, d1, d2 = map(int, sizes)
    return dy, d1, d2


def _as_covariance(covariance: Tensor | np.ndarray, sizes: tuple[int, ...]) -> Tensor:
    cov, d = as_float64(covariance, "covariance"), sum(sizes)
    if cov.ndim < 2 or cov.shape[-2:] != (d, d):
        raise ValueError(
            f"covariance must be [..., {d}, {d}], {d} = {' + '.join(map(str, sizes))} the sum of "
            f"sizes; got {list(cov.shape)}"
        )
    if not math.isfinite(float(cov.sum())):
        raise ValueError("covariance has NaN or infinite entries")
    if bool((cov.diagonal(dim1=-2, dim2=-1) < 0).any()):
        raise ValueError("covariance has a negative variance on its diagonal")
    if bool((cov != 0).any(-1).logical_and(cov.diagonal(dim1=-2, dim2=-1) == 0).any()):
        raise ValueError("covariance gives a variable without variance a covariance")
    # Judge symmetry and eigenvalues of the correlations D cov D: no unit, one tolerance
    scale = scales(cov)
    scaled = scale[..., None] * cov * scale[..., None, :]
    if float((scaled - scaled.mT).abs().max()) > _ROUNDING:
        raise ValueError("covariance must be symmetric; (c + c.mT) / 2 if that is what you mean")
    _require_nonnegative(scaled)
    return (cov + cov.mT) / 2


def _require_nonnegative(scaled: Float64[Tensor, "*batch d d"]) -> None:
    # Cholesky succeeds for a positive definite matrix; otherwise judge the least eigenvalue
    _, failed = torch.linalg.cholesky_ex(scaled)
    if not bool(failed.any()):
        return
    least = float(torch.linalg.eigvalsh(scaled).min())
    if least < -_ROUNDING:
        raise ValueError(
            f"covariance must be positive semi-definite; with variances scaled to 1 its least "
            f"eigenvalue is {least:.2g} (computed in single precision? use float64)"
        )
