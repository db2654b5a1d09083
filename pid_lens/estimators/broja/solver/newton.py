"""The Newton step of the interior point: its unknowns, and the one linear system behind it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.entropy import safe_ratio

_RIDGES = (1e-14, 1e-12, 1e-10, 1e-8, 1e-6)


@dataclass(frozen=True)
class Tables:
    """The marginals of a batch of problems, and what every step needs of them."""

    p1: Float64[Tensor, "batch n1 answers"]
    """p(x1, y)."""
    p2: Float64[Tensor, "batch n2 answers"]
    """p(x2, y)."""
    apart: Float64[Tensor, "batch n1 n2"]
    """1 for symbols without an answer in common, whose r is and stays 0; else 0."""
    weights: Float64[Tensor, "batch n1 n2"]
    """Shares of mu: between equal ones and masses, so that light rows hold up no step."""
    empty: Float64[Tensor, "batch n1 answers"]
    """1 where p1 is 0: what no equation knows stays as it is."""
    pins: Float64[Tensor, "batch columns columns"]
    """The same for p2, and what pins the free constants of (a + c_y, b - c_y)."""

    @classmethod
    def of(
        cls, p1: Float64[Tensor, "batch n1 answers"], p2: Float64[Tensor, "batch n2 answers"]
    ) -> Tables:
        """The tables of these marginals."""
        pairs = ((p1 > 0).double() @ (p2 > 0).double().mT).clamp_max(1)
        root = (p1.sum(-1)[:, :, None] * p2.sum(-1)[:, None] * pairs).sqrt()
        weights = root / root.sum((1, 2), keepdim=True)
        return cls(p1, p2, 1 - pairs, weights, (p1 <= 0).double(), _pins(p2))


def _pins(p2: Tensor) -> Float64[Tensor, "batch columns columns"]:
    """p(x2, y) p(x2'|y) between equal answers, and 1 where p2 is 0."""
    pins = torch.diag_embed((p2 <= 0).double().flatten(1))
    same = p2[:, :, None] * safe_ratio(p2, p2.sum(1, keepdim=True))[:, None]
    pins.view(*p2.shape, *p2.shape[1:]).diagonal(dim1=2, dim2=4).add_(same)
    return pins


@dataclass(frozen=True)
class Point:
    """Potentials, multipliers and slacks, with what follows from them."""

    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    r: Float64[Tensor, "batch n1 n2"]
    s: Float64[Tensor, "batch n1 n2"]
    experts: Float64[Tensor, "batch n1 n2 answers"]
    """The products exp(a + b)."""
    excess: Float64[Tensor, "batch n1 n2"]
    """1 - sum_y exp(a + b) - s."""

    @classmethod
    def at(cls, a: Tensor, b: Tensor, r: Tensor, s: Tensor) -> Point:
        """The point with slacks made true where that is not much less."""
        experts = (a[:, :, None] + b[:, None]).exp()
        slack = 1 - experts.sum(-1)
        s = torch.where(slack > 0.1 * s, slack, s)
        return cls(a, b, r, s, experts, slack - s)

    @cached_property
    def coupling(self) -> Float64[Tensor, "batch n1 n2 answers"]:
        """The masses r exp(a + b)."""
        return self.r[..., None] * self.experts

    @cached_property
    def products(self) -> Float64[Tensor, "batch n1 n2"]:
        """The products r s, to become 0."""
        return self.r * self.s

    @cached_property
    def mu(self) -> Float64[Tensor, "batch 1 1"]:
        """Their sum."""
        return self.products.sum((1, 2), keepdim=True)

    @cached_property
    def room(self) -> Float64[Tensor, "batch n1 n2 answers"]:
        """By how much a + b may change: until it draws on a third of the slack, or by 2."""
        room = (self.s.log() - 1)[..., None] - self.a[:, :, None] - self.b[:, None]
        return room.clamp_min_(2)

    def move_by(self, move: Move, length: Float64[Tensor, "batch 1 1"]) -> Point:
        """The point after part of a move."""
        return Point.at(
            torch.addcmul(self.a, length, move.a),
            torch.addcmul(self.b, length, move.b),
            torch.addcmul(self.r, length, self.r * move.r),
            torch.addcmul(self.s, length, self.s * move.s),
        )


@dataclass(frozen=True)
class Move:
    """Changes of potentials; relative ones of multipliers and slacks."""

    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    r: Float64[Tensor, "batch n1 n2"]
    s: Float64[Tensor, "batch n1 n2"]
    experts: Float64[Tensor, "batch n1 n2 answers"]
    """The changes of a + b."""


class Newton:
    """The linear system of one step, factored.

    Each pair (x1, x2) has the block r (diag(e) + e e^T / s). Source 1 is eliminated row by row;
    the Schur complement for b is [n2 * answers, n2 * answers].
    """

    def __init__(self, tables: Tables, point: Point) -> None:
        """Factors the system at a point; NaN where float64 cannot."""
        self.tables, self.point = tables, point
        self.actual = point.r * (point.s + point.excess)
        self.inverse = 1 / (point.products + tables.apart)
        self.share = point.experts / point.s[..., None]
        self.held = point.coupling.sum(2)
        self.short1, self.short2 = tables.p1 - self.held, tables.p2 - point.coupling.sum(1)
        blocks = self._blocks()
        self.row = _cholesky(self._rows())
        self.cross = self._cross(blocks)
        self.schur = _cholesky(self._schur(blocks.sum(1)))

    @property
    def infeasibility(self) -> Float64[Tensor, "batch 1 1"]:
        """How far the marginals are off, and the constraints, by their weights."""
        marginals = _total(self.short1) + _total(self.short2)
        return marginals + _total(self.tables.weights * self.point.excess)

    def direction(self, target: Float64[Tensor, "batch n1 n2"]) -> Move:
        """The move after which, to first order, r s is ``target`` and nothing is off.

        With d = a + b it satisfies, for the relative changes of r and s::

            change of s = excess / s - sum_y e d / s
            change of r = (target - r (1 - sum_y e)) / (r s) + sum_y e d / s
        """
        pull = target - self.actual
        push = self.share * pull[..., None]
        a, b = self._solve(self.short1 - push.sum(2), self.short2 - push.sum(1))
        experts = a[:, :, None] + b[:, None]
        drawn = (self.share * experts).sum(-1)
        r = torch.addcmul(drawn, pull, self.inverse)
        return Move(a, b, r, self.point.excess / self.point.s - drawn, experts)

    def _solve(self, f1: Tensor, f2: Tensor) -> tuple[Tensor, Tensor]:
        """The potentials of a right-hand side, by the factors."""
        batch = len(f1)
        solve = torch.linalg.solve_triangular
        half = solve(self.row, f1[..., None], upper=False)
        right = f2.view(batch, 1, -1) - torch.bmm(half.view(batch, 1, -1), self.cross)
        b = solve(self.schur.mT, solve(self.schur, right.mT, upper=False), upper=True)
        rest = torch.baddbmm(half.view(batch, -1, 1), self.cross, b, alpha=-1)
        a = solve(self.row.mT, rest.view(half.shape), upper=True)
        return a.view(f1.shape), b.view(f2.shape)

    def _blocks(self) -> Float64[Tensor, "batch n1 answers n2 answers"]:
        """The matrix r (diag(e) + e e^T / s) of each pair."""
        q = self.point.coupling
        blocks = q.mT.contiguous()[..., None] * self.share[:, :, None]
        blocks.diagonal(dim1=2, dim2=4).add_(q)
        return blocks

    def _cross(self, blocks: Tensor) -> Float64[Tensor, "batch rows columns"]:
        """The rows' factor applied to the blocks, from the right, which leaves them in order."""
        batch, n1, answers, n2, _ = blocks.shape
        turned = blocks.view(batch, n1, answers, n2 * answers).mT
        solved = torch.linalg.solve_triangular(self.row.mT, turned, upper=True, left=False)
        return solved.mT.reshape(batch, n1 * answers, n2 * answers)

    def _rows(self) -> Float64[Tensor, "batch n1 answers answers"]:
        """Their sum over source 2."""
        rows = self.point.coupling.mT @ self.share
        rows.diagonal(dim1=2, dim2=3).add_(self.held + self.tables.empty)
        return rows

    def _schur(self, columns: Tensor) -> Float64[Tensor, "batch columns columns"]:
        """What is left for b of the sum over source 1, once a is eliminated."""
        batch, answers, n2, _ = columns.shape
        schur = torch.baddbmm(self.tables.pins, self.cross.mT, self.cross, alpha=-1)
        shape = batch, n2, answers, n2, answers
        schur.view(shape).diagonal(dim1=1, dim2=3).add_(columns.transpose(2, 3))
        return schur


def _total(x: Tensor) -> Float64[Tensor, "batch 1 1"]:
    return x.abs().sum((1, 2), keepdim=True)


def _cholesky(matrices: Tensor) -> Tensor:
    """The factor, with a ridge only where and as large as it is needed; NaN if none helps."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    for ridge in _RIDGES:
        if not bool(failed.any()):
            return factor
        lift = torch.diag_embed(ridge * matrices.diagonal(dim1=-2, dim2=-1).abs() + 1e-300)
        again, still = torch.linalg.cholesky_ex(matrices + lift)
        factor = torch.where((failed > 0)[..., None, None], again, factor)
        failed = torch.where(failed > 0, still, 0)
    return factor.where((failed == 0)[..., None, None], torch.nan)
