"""Sinkhorn scaling of similarities to couplings with given marginals, all answers at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

LEAST_MASS = 1e-12
"""A smaller probability counts as this one."""
AT_REST = 1e-5
"""Below this change of the marginals, further rounds only repeat the last one: a fixed point."""


@dataclass(frozen=True)
class Projection:
    """Couplings after Sinkhorn scaling, one per answer, and how well they meet their marginals.

    Attributes:
        log_coupling: natural log, [answers, vision, language]; sums over language are p(y|x1),
            over vision p(y|x2), as far as it met them. Differentiable in the similarities
            through every round.
        converged: whether both marginals were met to the tolerance, [answers].
        rounds: number of rounds, ``steps`` where the tolerance was not met, [answers].
        violation: largest error of vision's marginal, the sum of all its errors over n; the same
            of language's, [4].
    """

    log_coupling: Float[Tensor, "answers vision language"]
    converged: Bool[Tensor, " answers"]
    rounds: Int64[Tensor, " answers"]
    violation: Float64[Tensor, " 4"]


def project(
    similarity: Float[Tensor, "answers vision language"],
    vision: Float[Tensor, "vision answers"],
    language: Float[Tensor, "language answers"],
    *,
    steps: int,
    atol: float,
) -> Projection:
    r"""Project exp(similarity) on the couplings with marginals p(y|x1) and p(y|x2), in KL.

    A round of Sinkhorn scaling (iterative proportional fitting) scales the columns to language's
    marginal, then the rows to vision's, by the dual potentials u and v ::

        u = log p(y|x2) - logsumexp over x1 of (similarity + v)
        v = log p(y|x1) - logsumexp over x2 of (similarity + u)

    and after each half of it every answer stops for itself that has met the other marginal to
    ``atol``. Where the two masses of an answer, the means of p(y|x1) and of p(y|x2), differ, no
    coupling meets both. The rounds then reach a fixed point, mostly within fifteen, of rows that
    are right and columns that are off by the masses' ratio; the rest of ``steps`` would change
    nothing and is not computed.

    A round is one of POT's. Its own stopping rule is not used: it checks every tenth round, by
    one norm over one marginal of all answers together.

    Source:
        POT: Python Optimal Transport (Flamary et al., 2021),
        https://jmlr.org/papers/v22/20-451.html

    Args:
        similarity: any numbers.
        vision: posteriors p(y|x1).
        language: posteriors p(y|x2).
        steps: rounds, at most.
        atol: largest error of a marginal.

    Example:
        >>> even = torch.full((2, 2), 0.5)
        >>> similarity = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> found = project(similarity, even, even, steps=500, atol=1e-4)
        >>> found.converged, bool(found.violation[2] <= 1e-4)
        (tensor([True, True]), True)
    """
    # log kernel, [answers, language, vision], and log scalings u (columns) and v (rows)
    logs = similarity.mT
    columns, rows = (p.T.clamp_min(LEAST_MASS) for p in (language, vision))
    u, v = torch.zeros_like(columns), torch.zeros_like(rows)
    going = torch.ones(len(logs), dtype=torch.bool, device=logs.device)
    converged, rounds = ~going, torch.full_like(going, steps, dtype=torch.long)
    for step in range(1, steps + 1):
        # Scale columns, then rows; row sums between both halves are rows e^(v - new v)
        new_u, new_v, column_sums = _round(logs, v, columns, rows)
        row_sums = rows * (v - new_v).detach().exp()
        # An answer stops after either half that leaves both marginals met
        early = _is_close(row_sums, rows, atol)
        met = going & (early | _is_close(column_sums, columns, atol))
        # Fixed point of unequal masses: row sums are off by the ratio of masses alone
        rest = _is_close(row_sums * _masses(rows) / _masses(columns), rows, AT_REST)
        # Answers that have stopped keep their potentials
        u = new_u.where(going[:, None], u)
        v = new_v.where((going & ~early)[:, None], v)
        converged, rounds = converged | met, rounds.where(~met, step)
        going = going & ~met & ~rest
        if not bool(going.any()):
            break
    # log coupling = similarity + u + v
    log_coupling = (logs + u[:, :, None] + v[:, None]).mT
    violation = _violation(log_coupling.detach().double().exp(), rows, columns)
    return Projection(log_coupling, converged, rounds, violation)


def _round(
    logs: Tensor, v: Tensor, columns: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Float[Tensor, "answers language"]]:
    """Compute the dual potentials after one more round, and the column sums then."""
    from ot.batch import bregman_log_projection_batch

    found = bregman_log_projection_batch(
        logs + v[:, None], columns, rows, max_iter=1, tol=0.0, grad="autodiff"
    )
    u, more = found["potentials"]
    return u, v + more, found["T"].detach().sum(2)


def _is_close(sums: Tensor, wanted: Tensor, atol: float) -> Bool[Tensor, " answers"]:
    return (sums - wanted).abs().amax(1) <= atol


def _masses(marginal: Tensor) -> Float[Tensor, "answers 1"]:
    return marginal.sum(1, keepdim=True)


def _violation(coupling: Tensor, rows: Tensor, columns: Tensor) -> Float64[Tensor, " 4"]:
    errors = [(coupling.sum(2) - rows).abs(), (coupling.sum(1) - columns).abs()]
    return torch.stack([x for e in errors for x in (e.max(), e.sum() / e.shape[1])])
