"""Certificates: round a coupling to its marginals, shift potentials to dual feasibility."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

_SAME_MARGINAL = 1e-9
_LEAST = 1e-300


def require_same_marginals(
    p1: Float64[Tensor, "batch n1 answers"], p2: Float64[Tensor, "batch n2 answers"]
) -> None:
    """Require that two tables have a joint, which is that their answer marginals agree.

    Raises:
        ValueError: the answer marginals differ by more than 1e-9.
    """
    worst = float((p1.sum(1) - p2.sum(1)).abs().max())
    if not worst <= _SAME_MARGINAL:
        raise ValueError(
            f"the two sources' answer marginals differ by {worst:.2g}, so no joint has both: "
            "repair them first (rake, tilt)"
        )


def round_to_marginals(
    q: Float64[Tensor, "batch n1 n2 answers"],
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
) -> Float64[Tensor, "batch n1 n2 answers"]:
    """Round q to a coupling that has the marginals p1 and p2 exactly.

    Rows that hold too much are scaled down, then columns, and the mass that is missing is added
    as a product, answer by answer: q moves by at most twice its violation in total variation.

    Source:
        Near-linear time approximation algorithms for optimal transport via Sinkhorn iteration
        (Altschuler, Weed, Rigollet, 2017), https://arxiv.org/abs/1705.09634

    Args:
        q: non-negative masses, near a coupling.
        p1: masses p(x1, y).
        p2: masses p(x2, y), with the same answer marginal.

    Returns:
        The coupling: primal feasible, so that its value is an upper bound.
    """
    # Scale rows, then columns, down to their marginals
    q = q * (p1 / _as_divisor(q.sum(2))).clamp_max(1)[:, :, None]
    q = q * (p2 / _as_divisor(q.sum(1))).clamp_max(1)[:, None]
    # Add the missing mass as a rank-one product, answer by answer
    short1, short2 = (p1 - q.sum(2)).clamp_min(0), (p2 - q.sum(1)).clamp_min(0)
    share = short2 / _as_divisor(short2.sum(1, keepdim=True))
    return q + short1[:, :, None] * share[:, None]


def value_of(q: Float64[Tensor, "batch n1 n2 answers"]) -> Float64[Tensor, " batch"]:
    """Compute the primal objective -H_q(Y | X1, X2) = sum q log q(y | x1, x2), nats."""
    posterior = q / _as_divisor(q.sum(-1, keepdim=True))
    return torch.xlogy(q, posterior).sum((1, 2, 3))


def shift_to_feasible(
    a: Float64[Tensor, "batch n1 answers"],
    b: Float64[Tensor, "batch n2 answers"],
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
) -> tuple[Tensor, Tensor, Float64[Tensor, " batch"]]:
    """Shift the rows of a and b by constants until the pair is dual feasible: z <= 1.

    With z = sum_y exp(a + b): rows of a are lowered (or raised) by the log of their largest z,
    then those of b by the log of the largest z left; and b first, then a. The order with the
    higher dual objective is kept. z is a product of matrices, so exp(a) and exp(b) themselves
    must be within float64.

    Args:
        a: potentials of source 1, nats; -inf where p1 is 0.
        b: potentials of source 2, nats; -inf where p2 is 0.
        p1: masses p(x1, y).
        p2: masses p(x2, y).

    Returns:
        a, b, and the dual objective <a, p1> + <b, p2>, a lower bound of the primal one.
    """
    # z(x1, x2) = sum_y exp(a + b), and its largest by row and by column, before and after a shift
    z = a.exp() @ b.exp().mT
    row, column = _one_where_zero(z.amax(2)), _one_where_zero(z.amax(1))
    then_column = _one_where_zero((z / row[..., None]).amax(1))
    then_row = _one_where_zero((z / column[:, None]).amax(2))
    # Cost of each order in the dual objective: sum over x of p(x) log(shift)
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
    """Lower the lighter symbol's potentials, for each violated pair (x1, x2) of unequal masses.

    A pair is violated where z(x1, x2) = sum_y exp(a + b) > 1, and its masses are unequal where
    one is less than half the other.

    To be done before ``shift_to_feasible``, which lowers whole rows, or whole columns, heavy
    ones too, for a constraint that a light symbol alone violates.

    Args:
        a: potentials of source 1, nats; -inf where p1 is 0.
        b: potentials of source 2, nats; -inf where p2 is 0.
        p1: masses p(x1, y).
        p2: masses p(x2, y).

    Returns:
        a and b, lowered by the log of the symbol's largest such z.
    """
    # Largest violation z > 1 of each symbol among partners of more than twice its mass
    z = a.exp() @ b.exp().mT
    mass1, mass2 = p1.sum(-1)[:, :, None], p2.sum(-1)[:, None]
    rows = z.where(2 * mass1 < mass2, 0.0).amax(2).clamp_min(1)
    columns = z.where(mass1 > 2 * mass2, 0.0).amax(1).clamp_min(1)
    return a - rows.log()[..., None], b - columns.log()[..., None]


def dual_pairing(
    potential: Float64[Tensor, "batch n answers"], masses: Float64[Tensor, "batch n answers"]
) -> Float64[Tensor, " batch"]:
    """Compute the pairing <potential, masses>, where 0 times -inf is 0."""
    return (potential * masses).where(masses > 0, 0.0).sum((1, 2))


def _as_divisor(whole: Tensor) -> Tensor:
    """Clamp a divisor to 1e-300, so that 0 / 0 becomes 0."""
    return whole.clamp_min(_LEAST)


def _one_where_zero(largest: Tensor) -> Tensor:
    """Replace 0 by 1: rows without a constraint (padding) are not shifted."""
    return largest.where(largest > 0, 1.0)


def _weigh(scale: Tensor, masses: Tensor) -> Tensor:
    return (scale.log() * masses.sum(-1)).sum(-1)
