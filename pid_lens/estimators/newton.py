"""The Newton step of the interior point: its unknowns, and the one linear system behind it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from pid_lens.estimators.measures import ratio


@dataclass(frozen=True)
class Tables:
    """The marginals p(x1, y) and p(x2, y) of a batch of problems."""

    p1: Float64[Tensor, "batch n1 answers"]
    p2: Float64[Tensor, "batch n2 answers"]

    @cached_property
    def masses(self) -> Float64[Tensor, "batch n1 n2"]:
        """p(x1) p(x2) of the pairs that have answers in common."""
        return (self.p1.sum(-1)[:, :, None] * self.p2.sum(-1)[:, None]).where(self.pairs, 0.0)

    @cached_property
    def weights(self) -> Float64[Tensor, "batch n1 n2"]:
        """Shares of mu: between equal ones and masses, so that light rows hold up no step."""
        root = self.masses.sqrt()
        return root / root.sum((1, 2), keepdim=True)

    @cached_property
    def pairs(self) -> Bool[Tensor, "batch n1 n2"]:
        """Which symbols have an answer in common."""
        return ((self.p1 > 0)[:, :, None] & (self.p2 > 0)[:, None]).any(-1)


@dataclass(frozen=True)
class Point:
    """Potentials, multipliers and slacks; also a move from one such point to another."""

    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    r: Float64[Tensor, "batch n1 n2"]
    s: Float64[Tensor, "batch n1 n2"]

    @property
    def experts(self) -> Float64[Tensor, "batch n1 n2 answers"]:
        """The products exp(a + b)."""
        return (self.a[:, :, None] + self.b[:, None]).exp()

    def moved(self, move: Point, length: Float64[Tensor, " batch"]) -> Point:
        """The point after part of a move; slacks are made true where that is not much less."""
        far = length[:, None, None]
        names = [f.name for f in fields(self)]
        point = Point(*(getattr(self, k) + far * getattr(move, k) for k in names))
        slack = 1 - point.experts.sum(-1)
        return replace(point, s=torch.where(slack > 0.1 * point.s, slack, point.s))


class Newton:
    """The linear system of one step, factored.

    Each pair (x1, x2) has the block r (diag(e) + e e^T / s). Source 1 is eliminated row by row;
    the Schur complement for b is [n2 * answers, n2 * answers].
    """

    def __init__(self, tables: Tables, point: Point) -> None:
        """Factors the system at a point; NaN where float64 cannot."""
        self.point, self.tables = point, tables
        self.e = point.experts
        self.re = point.r[..., None] * self.e
        self.short1 = tables.p1 - self.re.sum(2)
        self.short2 = tables.p2 - self.re.sum(1)
        self.excess = 1 - self.e.sum(-1) - point.s
        over_slack = self.re / point.s[..., None]
        self.row = _cholesky(self._diagonal(over_slack, 2, tables.p1))
        self.cross = self._cross(over_slack)
        self.schur = _cholesky(self._schur(self._diagonal(over_slack, 1, tables.p2)))

    @property
    def violation(self) -> Float64[Tensor, "batch 1 1"]:
        """How far the marginals are off; mu must not run ahead of it, or steps lose meaning."""
        short = self.short1.abs().sum((1, 2)) + self.short2.abs().sum((1, 2))
        return short[:, None, None]

    def direction(self, target: Float64[Tensor, "batch n1 n2"]) -> Point:
        """The move after which r s would be ``target`` and all else 0."""
        p = self.point
        t = (target - p.r * p.s - p.r * self.excess) / p.s
        push = self.e * t[..., None]
        f1, f2 = self.short1 - push.sum(2), self.short2 - push.sum(1)
        batch, n2, answers = f2.shape
        half = torch.linalg.solve_triangular(self.row, f1[..., None], upper=False)
        right = f2.reshape(batch, -1, 1) - self.cross.mT @ half.reshape(batch, -1, 1)
        b = torch.cholesky_solve(right, self.schur)
        rest = half - (self.cross @ b).reshape(half.shape)
        a = torch.linalg.solve_triangular(self.row.mT, rest, upper=True)[..., 0]
        a = a.where(self.tables.p1 > 0, 0.0)
        b = b.reshape(batch, n2, answers).where(self.tables.p2 > 0, 0.0)
        change = (self.e * (a[:, :, None] + b[:, None])).sum(-1)
        return Point(a, b, t + p.r * change / p.s, self.excess - change)

    def _diagonal(self, over_slack: Tensor, axis: int, p: Tensor) -> Tensor:
        """Sum over the other source of r (diag(e) + e e^T / s), with 1 where p is 0."""
        letters = "bxyk,bxyl->bxkl" if axis == 2 else "bxyk,bxyl->bykl"
        blocks = torch.einsum(letters, over_slack, self.e)
        blocks.diagonal(dim1=-2, dim2=-1).add_(self.re.sum(axis) + (p <= 0))
        return blocks

    def _cross(self, over_slack: Tensor) -> Float64[Tensor, "batch rows columns"]:
        """The rows' factor applied to the off-diagonal blocks, [batch, n1 K, n2 K]."""
        batch, n1, n2, answers = self.e.shape
        blocks = over_slack[..., :, None] * self.e[..., None, :]
        blocks.diagonal(dim1=-2, dim2=-1).add_(self.re)
        blocks = blocks.transpose(2, 3).reshape(batch, n1, answers, n2 * answers)
        solved = torch.linalg.solve_triangular(self.row, blocks, upper=False)
        return solved.reshape(batch, n1 * answers, n2 * answers)

    def _schur(self, blocks: Tensor) -> Float64[Tensor, "batch columns columns"]:
        """What is left for b, with the free constants (a + c_y, b - c_y) pinned."""
        p2 = self.tables.p2
        batch, n2, answers = p2.shape
        schur = -(self.cross.mT @ self.cross)
        view = schur.view(batch, n2, answers, n2, answers)
        at, of = torch.arange(n2, device=p2.device), torch.arange(answers, device=p2.device)
        view[:, at, :, at] += blocks.transpose(0, 1)
        pin = p2[:, :, None] * ratio(p2, p2.sum(1, keepdim=True))[:, None]
        view[:, :, of, :, of] += pin.permute(3, 0, 1, 2)
        return schur


def _cholesky(matrices: Tensor) -> Tensor:
    """The factor, with a ridge only where and as large as it is needed; NaN if none helps."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    for ridge in (1e-14, 1e-12, 1e-10, 1e-8, 1e-6):
        if not bool(failed.any()):
            return factor
        lift = torch.diag_embed(ridge * matrices.diagonal(dim1=-2, dim2=-1).abs() + 1e-300)
        again, still = torch.linalg.cholesky_ex(matrices + lift)
        factor = torch.where((failed > 0)[..., None, None], again, factor)
        failed = torch.where(failed > 0, still, 0)
    return factor.where((failed == 0)[..., None, None], torch.nan)
