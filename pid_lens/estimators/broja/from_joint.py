"""Discrete PID: BROJA decomposition of a known joint distribution of two sources and an answer."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.broja.solver.binary import solve_binary
from pid_lens.estimators.broja.solver.certificate import require_same_marginals
from pid_lens.estimators.broja.solver.envelope import attach_gradient
from pid_lens.estimators.broja.solver.interior_point import solve
from pid_lens.estimators.broja.solver.solution import Solution
from pid_lens.estimators.common.arrays import as_float64
from pid_lens.estimators.common.entropy import NATS_PER_BIT, table_information
from pid_lens.results import Atoms, Unit


def discrete_pid(joint: Tensor | np.ndarray, *, tol: float = 1e-9, unit: Unit = "bits") -> Atoms:
    """Compute certified redundancy, unique information and synergy of tables p(x1, x2, y).

    The union information is the least I(X1, X2; Y) of any joint with the table's marginals
    p(x1, y) and p(x2, y): a convex programme, solved for the whole batch at once by a
    primal-dual interior point. With two answers it has a closed form, right to rounding. Each
    result's ``gap`` is the width of its certified interval; it exceeds ``tol`` only where
    float64 could not do better.

    Source:
        Quantifying unique information (Bertschinger, Rauh, Olbrich, Jost, Ay, 2014),
        https://doi.org/10.3390/e16042161

    Args:
        joint: probabilities [..., n1, n2, answers], each table summing to 1 (to 1e-6; it is
            then normalised exactly). Impossible symbols and answers may be left in.
        tol: width of the certified interval to reach, bits.
        unit: of the result, ``"bits"`` or ``"nats"``.

    Returns:
        ``Atoms`` of shape [...]; differentiable in ``joint`` by the envelope theorem.

    Raises:
        TypeError: ``joint`` is neither a tensor nor an array.
        ValueError: negative or NaN entries, fewer than three axes, tables not summing to 1, or an
            unknown unit.

    Example:
        >>> import torch
        >>> xor = torch.zeros(2, 2, 2)
        >>> xor[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]] = 0.25
        >>> discrete_pid(xor)
        Atoms(R=0.000 U_vision=0.000 U_language=0.000 S=1.000 bits)
    """
    # Marginals p(x1, y) and p(x2, y): all that the union information depends on
    table = _as_tables(as_float64(joint, "joint"))
    flat = table.flatten(0, -4) if table.ndim > 3 else table[None]
    p1, p2 = flat.sum(2), flat.sum(1)
    solution = union_information(p1.detach(), p2.detach(), tol=tol * NATS_PER_BIT)
    shape = table.shape[:-3]

    def bits(nats: Tensor) -> Tensor:
        return (nats / NATS_PER_BIT).reshape(shape)

    # Mutual informations of the table itself; the union with the envelope theorem's gradient
    return Atoms(
        information=bits(table_information(flat.flatten(1, 2))),
        information_vision=bits(table_information(p1)),
        information_language=bits(table_information(p2)),
        union=bits(attach_gradient(p1, p2, solution)),
        gap=bits(solution.gap),
    ).to(unit)


def union_information(
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
    *,
    tol: float = 1e-9,
) -> Solution:
    """Solve for I_Q in nats: closed form for two answers, interior point for more.

    Args:
        p1: masses p(x1, y), each table summing to 1; rows without mass are padding.
        p2: masses p(x2, y), with the same answer marginal.
        tol: duality gap in nats at which a problem is finished.

    Returns:
        A ``Solution`` with one entry per problem.

    Raises:
        ValueError: the answer marginals differ.

    Example:
        >>> import torch
        >>> bit = torch.eye(2, dtype=torch.float64)[None] / 2
        >>> (union_information(bit, bit).upper / NATS_PER_BIT).round(decimals=4)
        tensor([1.], dtype=torch.float64)
    """
    require_same_marginals(p1, p2)
    return solve_binary(p1, p2) if p1.shape[-1] == 2 else solve(p1, p2, tol=tol)


def _as_tables(joint: Tensor) -> Tensor:
    if joint.ndim < 3 or 0 in joint.shape:
        raise ValueError(
            f"joint must be [..., n1, n2, answers] without empty axes, got {list(joint.shape)}"
        )
    if not bool((joint >= 0).all() & joint.isfinite().all()):
        raise ValueError("joint has NaN, infinite or negative entries; pass probabilities")
    total = joint.sum((-3, -2, -1), keepdim=True)
    worst = float((total.detach() - 1).abs().max())
    if worst > 1e-6:
        raise ValueError(
            f"every table of joint must sum to 1, one is off by {worst:.2g}; "
            "divide counts by their sum first"
        )
    return joint / total
