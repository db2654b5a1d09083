"""Proofs: any coupling and any pair of potentials, mended until they bound the optimum."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

_SAME_MARGINAL = 1e-9
_LEAST = 1e-300


def require_same_marginals(
    p1: Float64[Tensor, "batch n1 answers"], p2: Float64[Tensor, "batch n2 answers"]
) -> None:
    """Refuses two tables that have no joint.

    Raises:
        ValueError: their label marginals differ by more than 1e-9.
    """
    worst = float((p1.sum(1) - p2.sum(1)).abs().max())
    if not worst <= _SAME_MARGINAL:
        raise ValueError(
            f"the two sources' label marginals differ by {worst:.2g}, so no joint has both: "
            "repair them first (rake, tilt)"
        )


def round_to_marginals(
    q: Float64[Tensor, "batch n1 n2 answers"],
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
) -> Float64[Tensor, "batch n1 n2 answers"]:
    """A coupling near q that has the marginals p1 and p2 exactly.

    Rows that hold too much are scaled down, then columns, and what is missing is added as a
    product, answer by answer: it moves q by at most twice its violation in total variation.

    Source:
        Near-linear time approximation algorithms for optimal transport via Sinkhorn iteration
        (Altschuler, Weed, Rigollet, 2017), https://arxiv.org/abs/1705.09634

    Args:
        q: non-negative masses, anything near a coupling.
        p1: masses p(x1, y).
        p2: masses p(x2, y), with the same label marginal.

    Returns:
        The mended coupling.
    """
    q = q * (p1 / _as_divisor(q.sum(2))).clamp_max(1)[:, :, None]
    q = q * (p2 / _as_divisor(q.sum(1))).clamp_max(1)[:, None]
    short1, short2 = (p1 - q.sum(2)).clamp_min(0), (p2 - q.sum(1)).clamp_min(0)
    share = short2 / _as_divisor(short2.sum(1, keepdim=True))
    return q + short1[:, :, None] * share[:, None]


def value_of(q: Float64[Tensor, "batch n1 n2 answers"]) -> Float64[Tensor, " batch"]:
    """The primal objective -H_q(Y | X1, X2), nats."""
    posterior = q / _as_divisor(q.sum(-1, keepdim=True))
    return torch.xlogy(q, posterior).sum((1, 2, 3))


def shift_to_feasible(
    a: Float64[Tensor, "batch n1 answers"],
    b: Float64[Tensor, "batch n2 answers"],
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
) -> tuple[Tensor, Tensor, Float64[Tensor, " batch"]]:
    """The best constant shifts of the rows of a and b that make the pair feasible.

    With z = sum_y exp(a + b): rows of a are lowered (or raised) by the log of their largest z,
    then those of b by what is left; and the other way round. The better of the two is kept.
    z is a product of matrices, so the exponentials themselves must be within float64.

    Args:
        a: potentials of source 1, nats; -inf where p1 is 0.
        b: potentials of source 2, nats; -inf where p2 is 0.
        p1: masses p(x1, y).
        p2: masses p(x2, y).

    Returns:
        a, b, and the dual objective <a, p1> + <b, p2>, a lower bound of the primal one.
    """
    z = a.exp() @ b.exp().mT
    row, column = _one_where_zero(z.amax(2)), _one_where_zero(z.amax(1))
    then_column = _one_where_zero((z / row[..., None]).amax(1))
    then_row = _one_where_zero((z / column[:, None]).amax(2))
    cost_rows = _weigh(row, p1) + _weigh(then_column, p2)
    cost_columns = _weigh(then_row, p1) + _weigh(column, p2)
    first = (cost_rows <= cost_columns)[:, None]
    a = a - torch.where(first, row, then_row).log()[..., None]
    b = b - torch.where(first, then_column, column).log()[..., None]
    return a, b, dual_pairing(a, p1) + dual_pairing(b, p2)


def lower_the_lighter(
    a: Float64[Tensor, "batch n1 answers"],
    b: Float64[Tensor, "batch n2 answers"],
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
) -> tuple[Tensor, Tensor]:
    """Makes pairs of symbols of unlike masses feasible at the expense of the lighter symbol.

    To be done before the shifts of ``shift_to_feasible``, which lower whole rows, or whole
    columns, heavy ones too, where a light symbol alone is to blame.

    Args:
        a: potentials of source 1, nats; -inf where p1 is 0.
        b: potentials of source 2, nats; -inf where p2 is 0.
        p1: masses p(x1, y).
        p2: masses p(x2, y).

    Returns:
        a and b, lowered where sum_y exp(a + b) > 1 and one mass is less than half the other.
    """
    z = a.exp() @ b.exp().mT
    mass1, mass2 = p1.sum(-1)[:, :, None], p2.sum(-1)[:, None]
    rows = z.where(2 * mass1 < mass2, 0.0).amax(2).clamp_min(1)
    columns = z.where(mass1 > 2 * mass2, 0.0).amax(1).clamp_min(1)
    return a - rows.log()[..., None], b - columns.log()[..., None]


def dual_pairing(
    potential: Float64[Tensor, "batch n answers"], masses: Float64[Tensor, "batch n answers"]
) -> Float64[Tensor, " batch"]:
    """<potential, masses>, where nothing times -inf is nothing."""
    return (potential * masses).where(masses > 0, 0.0).sum((1, 2))


def _as_divisor(whole: Tensor) -> Tensor:
    """A divisor: 0 where there is nothing to divide."""
    return whole.clamp_min(_LEAST)


def _one_where_zero(largest: Tensor) -> Tensor:
    """Rows without any constraint (padding) are left alone."""
    return largest.where(largest > 0, 1.0)


def _weigh(scale: Tensor, masses: Tensor) -> Tensor:
    return (scale.log() * masses.sum(-1)).sum(-1)
