"""Newton system of the interior point: its unknowns, block elimination and Schur complement."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.entropy import safe_ratio

_RIDGES = (1e-14, 1e-12, 1e-10, 1e-8, 1e-6)
"""Relative to the diagonal, tried in turn where Cholesky fails."""


@dataclass(frozen=True)
class Tables:
    """The marginals of a batch of problems, and the constants of every Newton step.

    Attributes:
        p1: masses p(x1, y).
        p2: masses p(x2, y).
        apart: 1 for pairs of symbols without an answer in common, whose r is and stays 0; else 0.
        weights: w, the share of each pair in mu, ~ sqrt(p(x1) p(x2)), summing to 1: a compromise
            of equal shares and shares by mass, so that light rows hold up no step.
        empty: 1 where p1 is 0, added to the diagonal of the system: an unknown without an
            equation does not move.
        pins: the same for p2, and the rank-one terms that fix the gauge (a + c_y, b - c_y),
            under which a + b, and so the system, does not change.
    """

    p1: Float64[Tensor, "batch n1 answers"]
    p2: Float64[Tensor, "batch n2 answers"]
    apart: Float64[Tensor, "batch n1 n2"]
    weights: Float64[Tensor, "batch n1 n2"]
    empty: Float64[Tensor, "batch n1 answers"]
    pins: Float64[Tensor, "batch columns columns"]

    @classmethod
    def of(
        cls, p1: Float64[Tensor, "batch n1 answers"], p2: Float64[Tensor, "batch n2 answers"]
    ) -> Tables:
        """Compute the constants of these marginals."""
        # Pairs (x1, x2) with an answer in common, and their weights w ~ sqrt(p(x1) p(x2))
        pairs = ((p1 > 0).double() @ (p2 > 0).double().mT).clamp_max(1)
        root = (p1.sum(-1)[:, :, None] * p2.sum(-1)[:, None] * pairs).sqrt()
        weights = root / root.sum((1, 2), keepdim=True)
        return cls(p1, p2, 1 - pairs, weights, (p1 <= 0).double(), _pins(p2))


def _pins(p2: Tensor) -> Float64[Tensor, "batch columns columns"]:
    """Compute p(x2, y) p(x2'|y) between equal answers, and 1 where p2 is 0.

    Adding it to the singular Schur complement picks the step with sum over x2 of p(x2, y) db = 0.
    """
    pins = torch.diag_embed((p2 <= 0).double().flatten(1))
    same = p2[:, :, None] * safe_ratio(p2, p2.sum(1, keepdim=True))[:, None]
    pins.view(*p2.shape, *p2.shape[1:]).diagonal(dim1=2, dim2=4).add_(same)
    return pins


@dataclass(frozen=True)
class Point:
    """An iterate: potentials, multipliers and slacks, with the quantities that follow from them.

    Attributes:
        a: potentials a(x1, y), nats.
        b: potentials b(x2, y), nats.
        r: multipliers r(x1, x2) of the constraints sum_y exp(a + b) <= 1.
        s: slacks s(x1, x2) of the constraints.
        experts: products of experts e = exp(a + b).
        excess: residual of the constraints, 1 - sum_y e - s.
    """

    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    r: Float64[Tensor, "batch n1 n2"]
    s: Float64[Tensor, "batch n1 n2"]
    experts: Float64[Tensor, "batch n1 n2 answers"]
    excess: Float64[Tensor, "batch n1 n2"]

    @classmethod
    def at(cls, a: Tensor, b: Tensor, r: Tensor, s: Tensor) -> Point:
        """Make a point; slacks are reset to 1 - sum_y e where that is at least a tenth of s."""
        experts = (a[:, :, None] + b[:, None]).exp()
        slack = 1 - experts.sum(-1)
        s = torch.where(slack > 0.1 * s, slack, s)
        return cls(a, b, r, s, experts, slack - s)

    @cached_property
    def coupling(self) -> Float64[Tensor, "batch n1 n2 answers"]:
        """The masses q = r exp(a + b), a coupling at the optimum."""
        return self.r[..., None] * self.experts

    @cached_property
    def products(self) -> Float64[Tensor, "batch n1 n2"]:
        """Complementarity products r s, which go to 0."""
        return self.r * self.s

    @cached_property
    def mu(self) -> Float64[Tensor, "batch 1 1"]:
        """The barrier parameter mu = sum r s.

        At a feasible point the duality gap, -sum r (1 - s) log(1 - s), is at most mu.
        """
        return self.products.sum((1, 2), keepdim=True)

    @cached_property
    def room(self) -> Float64[Tensor, "batch n1 n2 answers"]:
        """Largest change of a + b in a step: until e takes about a third of s, at least 2."""
        room = (self.s.log() - 1)[..., None] - self.a[:, :, None] - self.b[:, None]
        return room.clamp_min_(2)

    def move_by(self, move: Move, length: Float64[Tensor, "batch 1 1"]) -> Point:
        """Take a step of some length along a direction; r and s move relatively."""
        return Point.at(
            torch.addcmul(self.a, length, move.a),
            torch.addcmul(self.b, length, move.b),
            torch.addcmul(self.r, length, self.r * move.r),
            torch.addcmul(self.s, length, self.s * move.s),
        )


@dataclass(frozen=True)
class Move:
    """A direction: changes of the potentials, relative changes of multipliers and slacks.

    Attributes:
        a: change of a, nats.
        b: change of b, nats.
        r: change of r, relative to r.
        s: change of s, relative to s.
        experts: change d of a + b, which is that of log e.
    """

    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    r: Float64[Tensor, "batch n1 n2"]
    s: Float64[Tensor, "batch n1 n2"]
    experts: Float64[Tensor, "batch n1 n2 answers"]


class Newton:
    """The Newton system of one step, factored by block elimination and Cholesky.

    Once r and s are eliminated, each pair (x1, x2) has the block B = r (diag(e) + e e^T / s),
    and the changes (da, db) of the potentials solve the symmetric system ::

        [ A     C ] [da]   [f1]     A = sum over x2 of B, one [answers, answers] block per row x1
        [ C^T   D ] [db] = [f2]     D = sum over x1 of B, one block per column x2;  C: the B's

    With A = L L^T, source 1 is eliminated row by row; the Schur complement for b,
    D - (L^-1 C)^T (L^-1 C), is [n2 * answers, n2 * answers].
    """

    def __init__(self, tables: Tables, point: Point) -> None:
        """Factor the system at a point; NaN where float64 cannot."""
        self.tables, self.point = tables, point
        # Elimination of r and s: r (1 - sum_y e), 1 / (r s), e / s
        self.actual = point.r * (point.s + point.excess)
        self.inverse = 1 / (point.products + tables.apart)
        self.share = point.experts / point.s[..., None]
        # Residuals of the marginals: p1 - sum over x2 of r e, p2 - sum over x1 of r e
        self.held = point.coupling.sum(2)
        self.short1, self.short2 = tables.p1 - self.held, tables.p2 - point.coupling.sum(1)
        # Cholesky factor L of each row's block, L^-1 C, Cholesky factor of the Schur complement
        blocks = self._blocks()
        self.row = _cholesky(self._rows())
        self.cross = self._cross(blocks)
        self.schur = _cholesky(self._schur(blocks.sum(1)))

    @property
    def infeasibility(self) -> Float64[Tensor, "batch 1 1"]:
        """Primal plus dual infeasibility: |p1 - sum q| + |p2 - sum q| + sum w |excess|."""
        marginals = _total(self.short1) + _total(self.short2)
        return marginals + _total(self.tables.weights * self.point.excess)

    def direction(self, target: Float64[Tensor, "batch n1 n2"]) -> Move:
        """Solve for the direction after which, to first order, r s is ``target`` and q feasible.

        With d = da + db the linearised constraints and complementarity give the relative changes
        of s and r::

            change of s = excess / s - sum_y e d / s
            change of r = (target - r (1 - sum_y e)) / (r s) + sum_y e d / s

        and the linearised marginals the right-hand sides
        f1 = p1 - sum over x2 of (r e + (e / s)(target - r (1 - sum_y e))), f2 alike.
        """
        pull = target - self.actual
        push = self.share * pull[..., None]
        a, b = self._solve(self.short1 - push.sum(2), self.short2 - push.sum(1))
        # Back-substitution: relative changes of r and s from d = da + db
        experts = a[:, :, None] + b[:, None]
        drawn = (self.share * experts).sum(-1)
        r = torch.addcmul(drawn, pull, self.inverse)
        return Move(a, b, r, self.point.excess / self.point.s - drawn, experts)

    def _solve(self, f1: Tensor, f2: Tensor) -> tuple[Tensor, Tensor]:
        """Solve for (da, db) given the right-hand sides, by forward and back substitution."""
        batch = len(f1)
        solve = torch.linalg.solve_triangular
        # Forward: L^-1 f1, then the reduced right-hand side f2 - C^T A^-1 f1
        half = solve(self.row, f1[..., None], upper=False)
        right = f2.view(batch, 1, -1) - torch.bmm(half.view(batch, 1, -1), self.cross)
        # Schur complement: db
        b = solve(self.schur.mT, solve(self.schur, right.mT, upper=False), upper=True)
        # Backward: da = L^-T (L^-1 f1 - L^-1 C db)
        rest = torch.baddbmm(half.view(batch, -1, 1), self.cross, b, alpha=-1)
        a = solve(self.row.mT, rest.view(half.shape), upper=True)
        return a.view(f1.shape), b.view(f2.shape)

    def _blocks(self) -> Float64[Tensor, "batch n1 answers n2 answers"]:
        """Compute the block r (diag(e) + e e^T / s) of each pair: C of the system."""
        q = self.point.coupling
        blocks = q.mT.contiguous()[..., None] * self.share[:, :, None]
        blocks.diagonal(dim1=2, dim2=4).add_(q)
        return blocks

    def _cross(self, blocks: Tensor) -> Float64[Tensor, "batch rows columns"]:
        """Compute L^-1 C as the transpose of C^T L^-T, so that the blocks stay in memory order."""
        batch, n1, answers, n2, _ = blocks.shape
        turned = blocks.view(batch, n1, answers, n2 * answers).mT
        solved = torch.linalg.solve_triangular(self.row.mT, turned, upper=True, left=False)
        return solved.mT.reshape(batch, n1 * answers, n2 * answers)

    def _rows(self) -> Float64[Tensor, "batch n1 answers answers"]:
        """Compute the diagonal blocks A: the sum of the pairs' blocks over source 2."""
        rows = self.point.coupling.mT @ self.share
        rows.diagonal(dim1=2, dim2=3).add_(self.held + self.tables.empty)
        return rows

    def _schur(self, columns: Tensor) -> Float64[Tensor, "batch columns columns"]:
        """Compute the Schur complement for b: D - (L^-1 C)^T (L^-1 C), with the gauge pinned.

        ``columns`` are the diagonal blocks D, the sum of the pairs' blocks over source 1.
        """
        batch, answers, n2, _ = columns.shape
        schur = torch.baddbmm(self.tables.pins, self.cross.mT, self.cross, alpha=-1)
        shape = batch, n2, answers, n2, answers
        schur.view(shape).diagonal(dim1=1, dim2=3).add_(columns.transpose(2, 3))
        return schur


def _total(x: Tensor) -> Float64[Tensor, "batch 1 1"]:
    return x.abs().sum((1, 2), keepdim=True)


def _cholesky(matrices: Tensor) -> Tensor:
    """Compute Cholesky factors, with the smallest ridge that succeeds; NaN if none does."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    for ridge in _RIDGES:
        if not bool(failed.any()):
            return factor
        lift = torch.diag_embed(ridge * matrices.diagonal(dim1=-2, dim2=-1).abs() + 1e-300)
        again, still = torch.linalg.cholesky_ex(matrices + lift)
        factor = torch.where((failed > 0)[..., None, None], again, factor)
        failed = torch.where(failed > 0, still, 0)
    return factor.where((failed == 0)[..., None, None], torch.nan)
