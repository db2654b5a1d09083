"""The decomposition of Gaussian samples: an estimate from either side of the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from pid_lens.errors import clusters
from pid_lens.estimators.arrays import as_float64
from pid_lens.estimators.gaussian import (
    NOTHING,
    Redundancy,
    check_settings,
    conditional,
    gaussian_pid,
    rank,
    shared_basis,
    whitener,
)
from pid_lens.spectra import Atoms, Unit


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GaussianBracket:
    """Two estimates of one decomposition, of shape [...], and how far they are apart.

    Example:
        >>> y, one, two = torch.randn(3, 900, 2, generator=torch.Generator().manual_seed(0))
        >>> gaussian_pid_samples(y, y + one, y + 2 * two)
        GaussianBracket(plug_in R=0.327 U_vision=0.791 U_language=0.000 S=0.170,
        cross_fitted R=0.324 U_vision=0.790 U_language=-0.000 S=0.167 bits; n=900)
    """

    plug_in: Atoms
    """`gaussian_pid` of the sample covariance: both unique informations too large."""
    cross_fitted: Atoms
    """Informations without bias, unique ones too small if anything."""
    n: int

    @property
    def width(self) -> Float64[Tensor, "*batch"]:
        """How far plug-in and cross-fitted atoms are apart at most, [...]."""
        names = ("redundancy", "unique_vision", "unique_language", "synergy")
        pairs = [(getattr(self.plug_in, k), getattr(self.cross_fitted, k)) for k in names]
        apart = [(one - other).abs().where(one != other, 0.0) for one, other in pairs]
        return torch.stack(apart).amax(0)

    def __repr__(self) -> str:
        if self.plug_in.union.ndim:
            shape, unit = list(self.plug_in.union.shape), self.plug_in.unit
            return f"GaussianBracket({shape} decompositions, {unit}; n={self.n})"
        lines = [
            f"{name} " + repr(getattr(self, name))[6:-1].removesuffix(self.plug_in.unit).strip()
            for name in ("plug_in", "cross_fitted")
        ]
        return f"GaussianBracket({', '.join(lines)} {self.plug_in.unit}; n={self.n})"


def gaussian_pid_samples(
    y: Tensor | np.ndarray,
    x1: Tensor | np.ndarray,
    x2: Tensor | np.ndarray,
    *,
    redundancy: Redundancy = "exact",
    seed: int = 0,
    splits: int = 4,
    unit: Unit = "bits",
    groups: Sequence[Any] | None = None,
) -> GaussianBracket:
    r"""Redundancy, unique information and synergy of Gaussian samples, from either side.

    *Plug-in*: `gaussian_pid` of the sample covariance. Its unique informations are sums over
    positive parts, so that noise adds up: ten dimensions and two equally good sources, each
    with nothing of its own, read .6 bits at n = 500.

    *Cross-fitted*: any subspace W of Y bounds U1 from below,

    .. math::  U_1 \ge \tfrac12 \log\det W^T \Sigma_{Y|X_2} W
                     - \tfrac12 \log\det W^T \Sigma_{Y|X_1} W,

    and the best one is found on one half of the samples and evaluated on the other, where the
    logarithm of a Wishart determinant has a known bias, :math:`\sum_{i<k} \psi((\nu - i)/2)`
    and what cancels, that is taken off. Both halves are used in turn, and so are
    both sources: the union is the mean of I(Y; X2) + U1 and I(Y; X1) + U2. The informations
    themselves are unbiased by the same formula. What is left is too small where the half that
    learns is too small to see what is unique.

    The corrections are exact for Gaussian samples that are independent of each other; samples
    in ``groups`` are kept in one half, their dependence within it is not corrected for.

    Args:
        y: [layers, n, dy] or [n, dy]; leading axes broadcast.
        x1: [..., n, d1].
        x2: [..., n, d2].
        redundancy: ``"exact"`` or ``"minimum"``, see `gaussian_pid`.
        seed: of the halves.
        splits: how many random halvings to average over.
        unit: ``"bits"`` or ``"nats"``.
        groups: a name a sample; samples of one group stay together.

    Returns:
        ``GaussianBracket`` with ``plug_in`` and ``cross_fitted`` of shape [...].

    Raises:
        TypeError: not tensors or arrays.
        ValueError: not more samples than dimensions (in each half), NaN, other lengths, or
            infinite information in one source.

    Source:
        Gaussian partial information decomposition: bias correction and application to
        high-dimensional data (Venkatesh et al., 2023), https://arxiv.org/abs/2307.10515

    Example:
        >>> noise = torch.randn(3, 4000, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> y, x1, x2 = noise[0], noise[0] + noise[1], 2 * noise[2]
        >>> gaussian_pid_samples(y, x1, x2).cross_fitted
        Atoms(R=-0.000 U_vision=0.473 U_language=0.000 S=-0.000 bits)
    """
    nats = check_settings(redundancy, unit)
    rows, sizes = _rows(y, x1, x2)
    if splits < 1:
        raise ValueError(f"splits must be at least 1; got {splits}")
    firsts = _halves(rows.shape[-2], seed, splits, groups)
    _enough(rows.shape[-2], firsts, sizes)
    cov = _covariance(rows)
    plug_in = gaussian_pid(cov, sizes, redundancy=redundancy, unit=unit)
    i12, i1, i2 = _unbiased(plug_in, cov, sizes, rows.shape[-2] - 1, nats)
    if redundancy == "minimum":
        union = torch.maximum(i1, i2)
    else:
        white = whitener(cov[..., : sizes[0], : sizes[0]])
        surplus = [_cross_fitted(rows, first, white, sizes) for first in firsts]
        u1, u2 = (sum(parts) / splits for parts in zip(*surplus, strict=True))
        union = (i1 + i2 + u1 + u2) / 2
    fair = Atoms(
        information=i12 / nats,
        information_vision=i1 / nats,
        information_language=i2 / nats,
        union=union / nats,
        gap=torch.zeros_like(union),
        unit=unit,
    )
    return GaussianBracket(plug_in=plug_in, cross_fitted=fair, n=rows.shape[-2])


def _unbiased(
    plug_in: Atoms, cov: Tensor, sizes: tuple[int, int, int], freedom: int, nats: float
) -> list[Float64[Tensor, "*batch"]]:
    """I(Y; X1, X2), I(Y; X1) and I(Y; X2) in nats without their bias."""
    dy, d1, _ = sizes
    k = rank(whitener(cov[..., :dy, :dy]))
    fair = []
    for name, source in (
        ("information", slice(dy, None)),
        ("information_vision", slice(dy, dy + d1)),
        ("information_language", slice(dy + d1, None)),
    ):
        known = rank(whitener(cov[..., source, source]))
        bias = _log_det_bias(k, freedom + 0 * known) - _log_det_bias(k, freedom - known)
        fair.append(getattr(plug_in, name) * nats - bias / 2)
    return fair


def _cross_fitted(
    rows: Float64[Tensor, "*batch n d"],
    first: Bool[Tensor, " n"],
    white: Float64[Tensor, "*batch dy dy"],
    sizes: tuple[int, int, int],
) -> tuple[Float64[Tensor, "*batch"], Float64[Tensor, "*batch"]]:
    """U1 and U2 in nats: learned on one half, evaluated on the other, mean of both ways."""
    dy = sizes[0]
    rows = torch.cat([rows[..., :dy] @ white.mT, rows[..., dy:]], -1)
    halves = [_left_over(rows[..., half, :], white, sizes) for half in (first, ~first)]
    ways = [_evaluated(*way) for way in (halves, halves[::-1])]
    u1, u2 = (sum(parts) / 2 for parts in zip(*ways, strict=True))
    return u1, u2


@dataclass(frozen=True)
class _LeftOver:
    """What a half of the samples says is left of Y given X1, given X2, with its freedom."""

    given_1: Float64[Tensor, "*batch dy dy"]
    given_2: Float64[Tensor, "*batch dy dy"]
    freedom_1: Int[Tensor, "*batch"]
    freedom_2: Int[Tensor, "*batch"]


def _left_over(rows: Tensor, white: Tensor, sizes: tuple[int, int, int]) -> _LeftOver:
    dy, d1, _ = sizes
    cov, freedom = _covariance(rows), rows.shape[-2] - 1
    absent = torch.diag_embed((white == 0).all(-1).to(cov.dtype))
    sources = slice(dy, dy + d1), slice(dy + d1, None)
    given = [conditional(cov, dy, s) + absent for s in sources]
    if min(float(torch.linalg.eigvalsh(c).min()) for c in given) <= NOTHING:
        raise ValueError(
            "within a half of the samples one source determines a direction of Y without error "
            "(few distinct values?): more samples, or fewer components"
        )
    known = [rank(whitener(cov[..., s, s])) for s in sources]
    return _LeftOver(*given, *(freedom - k for k in known))


def _evaluated(learned: _LeftOver, held_out: _LeftOver) -> tuple[Tensor, Tensor]:
    """The bounds on U1 and U2, nats, of subspaces learned elsewhere."""
    ratios, basis = shared_basis(learned.given_1, learned.given_2)
    surplus = []
    for chosen in (ratios > 1 + NOTHING, ratios < 1 - NOTHING):
        left_1 = _log_det(held_out.given_1, held_out.freedom_1, basis, chosen)
        left_2 = _log_det(held_out.given_2, held_out.freedom_2, basis, chosen)
        surplus.append((left_2 - left_1) / 2)
    return surplus[0], -surplus[1]


def _log_det(
    sample: Float64[Tensor, "*batch dy dy"],
    freedom: Int[Tensor, "*batch"],
    basis: Float64[Tensor, "*batch dy dy"],
    chosen: Bool[Tensor, "*batch dy"],
) -> Float64[Tensor, "*batch"]:
    """The log det of W^T S W over the chosen columns W, less its bias, constants apart."""
    inside = basis.mT @ sample @ basis
    both = chosen[..., :, None] & chosen[..., None, :]
    padded = inside.where(both, 0.0) + torch.diag_embed((~chosen).to(inside.dtype))
    return torch.linalg.slogdet(padded).logabsdet - _log_det_bias(chosen.sum(-1), freedom)


def _log_det_bias(k: Int[Tensor, "*batch"], freedom: Int[Tensor, "*batch"]) -> Tensor:
    """E log det of a Wishart matrix of size k less log det of its scale, but for k log 2."""
    steps = torch.arange(int(k.max()) if k.numel() else 0, device=k.device)
    inside = steps < k[..., None]
    half = ((freedom[..., None] - steps) / 2).where(inside, 1.0).double()
    return torch.digamma(half).where(inside, 0.0).sum(-1)


# ---------------------------------------------------------------- input


def _rows(*given: Any) -> tuple[Float64[Tensor, "*batch n d"], tuple[int, int, int]]:
    """Y, X1 and X2 side by side, and their widths."""
    names = ("y", "x1", "x2")
    tensors = [as_float64(x, name) for x, name in zip(given, names, strict=True)]
    shapes = {name: list(x.shape) for name, x in zip(names, tensors, strict=True)}
    if any(x.ndim < 2 or 0 in x.shape for x in tensors) or len({x.shape[-2] for x in tensors}) > 1:
        raise ValueError(f"y, x1 and x2 must be [..., n, width] of one n; got {shapes}")
    for name, x in zip(names, tensors, strict=True):
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name} has NaN or infinite values")
    try:
        batch = torch.broadcast_shapes(*(x.shape[:-2] for x in tensors))
    except RuntimeError:
        raise ValueError(f"the layers of y, x1 and x2 must broadcast; got {shapes}") from None
    wide = [x.expand(*batch, *x.shape[-2:]) for x in tensors]
    dy, d1, d2 = (x.shape[-1] for x in tensors)
    return torch.cat(wide, -1), (dy, d1, d2)


def _covariance(rows: Float64[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch d d"]:
    """The sample covariance with constants at 0 exactly."""
    constant = (rows == rows[..., :1, :]).all(-2, keepdim=True)
    centred = (rows - rows.mean(-2, keepdim=True)).where(~constant, 0.0)
    return centred.mT @ centred / rows.shape[-2]


def _halves(
    n: int, seed: int, splits: int, groups: Sequence[Any] | None
) -> Bool[Tensor, "splits n"]:
    """A random half of the samples, of whole groups where there are any, so many times."""
    group = torch.arange(n) if groups is None else clusters(groups, n)
    sizes = group.bincount()
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(sizes), generator=generator) for _ in range(splits)])
    before = sizes[orders].cumsum(-1) - sizes[orders]
    taken = torch.zeros_like(before, dtype=torch.bool).scatter(-1, orders, before < n // 2)
    return taken[:, group]


def _enough(n: int, firsts: Bool[Tensor, "splits n"], sizes: tuple[int, int, int]) -> None:
    d, need = sum(sizes), sizes[0] + max(sizes[1:]) + 1
    cure = "more samples, or fewer dimensions (GaussianPID(components=...) keeps the first few)"
    if n <= d:
        raise ValueError(f"{n} samples of {d} dimensions in all; there must be over {d}: {cure}")
    least = int(torch.minimum(firsts.sum(-1), (~firsts).sum(-1)).min())
    if least < need:
        raise ValueError(
            f"cross-fitting needs {need} samples in each half, {sizes[0]} of y and "
            f"{max(sizes[1:])} of a source and one; the smaller half has {least} of {n}: {cure}"
        )
