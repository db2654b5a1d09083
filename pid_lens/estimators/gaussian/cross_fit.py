"""Cross-fitting of a Gaussian PID: subspaces learned on one half, evaluated on the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from pid_lens.estimators.common.pca import NOTHING
from pid_lens.estimators.gaussian.algebra import (
    conditional_covariance,
    covariance_of,
    rank,
    shared_basis,
    whitener,
)
from pid_lens.estimators.gaussian.from_covariance import Redundancy
from pid_lens.results import NATS, Atoms


def draw_halves(
    n: int, seed: int, splits: int, groups: Int[Tensor, " n"] | None
) -> Bool[Tensor, "splits n"]:
    """Draw a random half of the samples, in whole groups, once for each split.

    Returns:
        Boolean mask of the first half, [splits, n].
    """
    group = torch.arange(n) if groups is None else groups
    sizes = group.bincount()
    generator = torch.Generator().manual_seed(seed)
    # Random order of the groups; the first half are those that begin before sample n // 2
    orders = torch.stack([torch.randperm(len(sizes), generator=generator) for _ in range(splits)])
    before = sizes[orders].cumsum(-1) - sizes[orders]
    taken = torch.zeros_like(before, dtype=torch.bool).scatter(-1, orders, before < n // 2)
    return taken[:, group]


def cross_fit(
    rows: Float64[Tensor, "*batch n d"],
    sizes: tuple[int, int, int],
    firsts: Bool[Tensor, "splits n"],
    plug_in: Atoms,
    redundancy: Redundancy,
) -> Atoms:
    """Compute the cross-fitted estimate of `gaussian_pid_samples`.

    Args:
        rows: Y, X1 and X2 side by side.
        sizes: dimensions of Y, X1, X2.
        firsts: Boolean masks of the samples in the first half, one row per split.
        plug_in: the decomposition of the rows' covariance.
        redundancy: ``"exact"`` or ``"minimum"``.

    Returns:
        Atoms of shape [...] in the unit of ``plug_in``.

    Raises:
        ValueError: a source determines a direction of Y within a half.
    """
    # Informations, less the bias of Wishart log determinants
    nats, cov = NATS[plug_in.unit], covariance_of(rows)
    i12, i1, i2 = _subtract_bias(plug_in, cov, sizes, rows.shape[-2] - 1, nats)
    # Union: by MMI the larger information; else the mean of I(Y; X2) + U1 and I(Y; X1) + U2
    if redundancy == "minimum":
        union = torch.maximum(i1, i2)
    else:
        white = whitener(cov[..., : sizes[0], : sizes[0]])
        surplus = [_surplus(rows, first, white, sizes) for first in firsts]
        u1, u2 = (sum(parts) / len(firsts) for parts in zip(*surplus, strict=True))
        union = (i1 + i2 + u1 + u2) / 2
    return Atoms(
        information=i12 / nats,
        information_vision=i1 / nats,
        information_language=i2 / nats,
        union=union / nats,
        gap=torch.zeros_like(union),
        unit=plug_in.unit,
    )


def _subtract_bias(
    plug_in: Atoms, cov: Tensor, sizes: tuple[int, int, int], freedom: int, nats: float
) -> list[Float64[Tensor, "*batch"]]:
    """Subtract the bias from I(Y; X1, X2), I(Y; X1) and I(Y; X2), in nats."""
    # 2 I = log det S_Y - log det S_Y|X: Wishart, of n - 1 and n - 1 - rank X degrees of freedom
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


def _surplus(
    rows: Float64[Tensor, "*batch n d"],
    first: Bool[Tensor, " n"],
    white: Float64[Tensor, "*batch dy dy"],
    sizes: tuple[int, int, int],
) -> tuple[Float64[Tensor, "*batch"], Float64[Tensor, "*batch"]]:
    """Compute U1 and U2 in nats: learned on one half, evaluated on the other, mean of both."""
    # Whiten Y, which changes no information
    dy = sizes[0]
    rows = torch.cat([rows[..., :dy] @ white.mT, rows[..., dy:]], -1)
    sides = [_measure_left_over(rows[..., half, :], white, sizes) for half in (first, ~first)]
    # Two-fold cross-fitting: each half learns for the other
    both = [_evaluate(*turn) for turn in (sides, sides[::-1])]
    u1, u2 = (sum(parts) / 2 for parts in zip(*both, strict=True))
    return u1, u2


@dataclass(frozen=True)
class _LeftOver:
    """Conditional covariances S_Y|X1 and S_Y|X2 in a half of the samples, degrees of freedom."""

    given_1: Float64[Tensor, "*batch dy dy"]
    given_2: Float64[Tensor, "*batch dy dy"]
    freedom_1: Int[Tensor, "*batch"]
    freedom_2: Int[Tensor, "*batch"]


def _measure_left_over(rows: Tensor, white: Tensor, sizes: tuple[int, int, int]) -> _LeftOver:
    # S_Y|X for either source; constant directions of Y get variance 1 in both: ratio 1
    dy, d1, _ = sizes
    cov, freedom = covariance_of(rows), rows.shape[-2] - 1
    absent = torch.diag_embed((white == 0).all(-1).to(cov.dtype))
    sources = slice(dy, dy + d1), slice(dy + d1, None)
    given = [conditional_covariance(cov, dy, s) + absent for s in sources]
    if min(float(torch.linalg.eigvalsh(c).min()) for c in given) <= NOTHING:
        raise ValueError(
            "within a half of the samples one source determines a direction of Y without error "
            "(few distinct values?): more samples, or fewer components"
        )
    # n S_Y|X is a Wishart matrix of n - 1 - rank X degrees of freedom
    known = [rank(whitener(cov[..., s, s])) for s in sources]
    return _LeftOver(*given, *(freedom - k for k in known))


def _evaluate(learned: _LeftOver, held_out: _LeftOver) -> tuple[Tensor, Tensor]:
    """Evaluate bounds on U1 and U2, nats, in subspaces that the other half has learned."""
    # Best subspace for U1: directions w with w^T S_Y|X2 w > w^T S_Y|X1 w; for U2: the reverse
    ratios, basis = shared_basis(learned.given_1, learned.given_2)
    surplus = []
    for chosen in (ratios > 1 + NOTHING, ratios < 1 - NOTHING):
        # U1 >= 1/2 log det W^T S_Y|X2 W - 1/2 log det W^T S_Y|X1 W
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
    """Compute log det W^T S W over the chosen columns of W, less its bias, up to constants."""
    # Columns that are not chosen become an identity block, of log det 0
    inside = basis.mT @ sample @ basis
    both = chosen[..., :, None] & chosen[..., None, :]
    padded = inside.where(both, 0.0) + torch.diag_embed((~chosen).to(inside.dtype))
    return torch.linalg.slogdet(padded).logabsdet - _log_det_bias(chosen.sum(-1), freedom)


def _log_det_bias(k: Int[Tensor, "*batch"], freedom: Int[Tensor, "*batch"]) -> Tensor:
    """Compute the bias of a Wishart log determinant of size k, but for k log 2.

    E log det A - log det of its scale - k log 2 = sum_{i<k} digamma((freedom - i) / 2).
    """
    steps = torch.arange(int(k.max()) if k.numel() else 0, device=k.device)
    inside = steps < k[..., None]
    half = ((freedom[..., None] - steps) / 2).where(inside, 1.0).double()
    return torch.digamma(half).where(inside, 0.0).sum(-1)
