"""The union information of small tables: a batched primal-dual interior point, with proof."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from pid_lens.estimators.certificate import (
    pairing,
    round_to_marginals,
    shift_to_feasible,
    value_of,
)
from pid_lens.estimators.measures import entropy, ratio
from pid_lens.estimators.newton import Newton, Point, Tables
from pid_lens.estimators.solution import Solution

_NUMBERS_AT_ONCE = 2**24
_PATIENCE = 12
_CORRECTORS = 4
_DUST = 1e-15
_LOW = -45.0
_PACE = 0.3


def solve(
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
    *,
    tol: float = 1e-9,
    max_iterations: int = 120,
) -> Solution:
    r"""I_Q of many pairs of tables at once, each with its own certificate.

    Mehrotra's predictor-corrector on the dual of Bertschinger's programme. With potentials
    a(x1, y), b(x2, y), products of experts e = exp(a + b), slacks s of the constraints
    sum_y e <= 1 and their multipliers r, it follows::

        sum over x2 of r e = p1     sum over x1 of r e = p2     sum_y e + s = 1     r s = mu w -> 0

    with fixed weights w ~ sqrt(p(x1) p(x2)), under which symbols of next to no mass do no harm.
    A Newton step has r (diag(e) + e e^T / s) for each pair (x1, x2); x1 is eliminated row by
    row and a dense system of n2 * answers is left, O((n1 + n2) n2^2 answers^3) a step. At the
    end r e is the coupling. Every iterate is mended into an exact coupling and an exactly
    feasible pair, and the best of each are kept: when steps stop helping, the interval says how
    far it came. max(I1, I2) <= I_Q is used too.

    Source:
        Quantifying unique information (Bertschinger, Rauh, Olbrich, Jost, Ay, 2014),
        https://doi.org/10.3390/e16042161
        On the implementation of a primal-dual interior point method (Mehrotra, 1992),
        https://doi.org/10.1137/0802028

    Args:
        p1: masses p(x1, y), each table summing to 1; rows without mass are padding.
        p2: masses p(x2, y), with the same label marginal.
        tol: the width in nats at which a problem is left alone; 1e-12 is in reach of most.
        max_iterations: Newton steps at the most.

    Returns:
        A ``Solution``; each problem's is independent of the others in the batch.

    Example:
        >>> copy = torch.tensor([[0.5, 0, 0], [0, 0.25, 0.25]], dtype=torch.float64)[None]
        >>> noise = copy.sum(1, keepdim=True)
        >>> solve(copy, noise).upper
        tensor([0.6931], dtype=torch.float64)
    """
    if p2.shape[1] > p1.shape[1]:
        return _swapped(solve(p2, p1, tol=tol, max_iterations=max_iterations))
    size = p1.shape[1] * p2.shape[1] * p1.shape[2] ** 2
    step = max(1, _NUMBERS_AT_ONCE // size)
    parts = [
        _Run(a, b).until(tol, max_iterations)
        for a, b in zip(p1.split(step), p2.split(step), strict=True)
    ]
    return _joined(parts)


@dataclass(frozen=True)
class _Best:
    """The best proofs so far."""

    lower: Float64[Tensor, " batch"]
    upper: Float64[Tensor, " batch"]
    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    q: Float64[Tensor, "batch n1 n2 answers"]


class _Run:
    """One batch of problems on its way; finished ones are left out of the next step."""

    def __init__(self, p1: Tensor, p2: Tensor) -> None:
        self.given = Tables(p1, p2)
        self.tables = _without_dust(p1, p2)
        self.point = _start(self.tables)
        self.best = _trivial(self.given)
        self.iterations = torch.zeros(len(p1), dtype=torch.long, device=p1.device)
        self.idle = torch.zeros_like(self.iterations)
        self.reached = torch.full_like(self.best.lower, torch.inf)

    def until(self, tol: float, max_iterations: int) -> Solution:
        """Steps until each problem is proven to ``tol``, stuck, or out of steps."""
        live = torch.arange(len(self.tables.p1), device=self.tables.p1.device)
        for _ in range(max_iterations + 1):
            live = live[self._prove(live, tol)]
            if not len(live):
                break
            moved = _step(_take(self.tables, live), _take(self.point, live))
            _put(self.point, live, moved)
            self.iterations[live] += 1
        return self._solution()

    def _prove(self, live: Tensor, tol: float) -> Bool[Tensor, " live"]:
        """Keeps what improved; true where another step is worth it."""
        tables, point, best = (_take(x, live) for x in (self.given, self.point, self.best))
        q = round_to_marginals(point.r[..., None] * point.experts, tables.p1, tables.p2)
        upper = value_of(q)
        seen = _take(self.tables, live)
        a = _with_dust(point.a, tables.p1, seen.p1)
        b = _with_dust(point.b, tables.p2, seen.p2)
        a, b, lower = shift_to_feasible(a, b, tables.p1, tables.p2)
        better = _better(best, _Best(lower, upper, a, b, q))
        _put(self.best, live, better)
        width, own = better.upper - better.lower, upper - lower
        self.idle[live] = torch.where(own < 0.9 * self.reached[live], 0, self.idle[live] + 1)
        self.reached[live] = torch.fmin(own, self.reached[live])
        alive = torch.stack([x.flatten(1).isfinite().all(1) for x in (point.r, point.s)]).all(0)
        return (width > tol) & alive & (self.idle[live] < _PATIENCE)

    def _solution(self) -> Solution:
        prior = entropy(self.given.p1.sum(1))
        return Solution(
            lower=self.best.lower + prior,
            upper=self.best.upper + prior,
            coupling=self.best.q,
            dual_vision=self.best.a,
            dual_language=self.best.b,
            iterations=self.iterations,
        )


def _without_dust(p1: Tensor, p2: Tensor) -> Tables:
    """Masses too small to matter would hold up every step: Newton does not see them.

    An answer of which one side has dust alone is left out on both; what stays is scaled to one
    label marginal.
    """
    p1, p2 = p1.where(p1 > _DUST, 0.0), p2.where(p2 > _DUST, 0.0)
    prior1, prior2 = p1.sum(1, keepdim=True), p2.sum(1, keepdim=True)
    prior = torch.minimum(prior1, prior2)
    return Tables(p1 * ratio(prior, prior1), p2 * ratio(prior, prior2))


def _with_dust(a: Tensor, given: Tensor, seen: Tensor) -> Tensor:
    """A low potential for the masses left out, as a proof needs one for each."""
    return a.where((given <= 0) | (seen > 0), _LOW)


def _start(tables: Tables) -> Point:
    """Independent given the answer: a = log p(y|x1) - log p(y) / 2, shifted inside."""
    p1, p2 = tables.p1, tables.p2
    half = p1.sum(1, keepdim=True).log() / 2
    a, b = _log_posterior(p1) - half, _log_posterior(p2) - half
    a, b = a.where(p1 > 0, -torch.inf), b.where(p2 > 0, -torch.inf)
    sums = (a[:, :, None] + b[:, None]).exp().sum(-1)
    a = a - (sums.amax((1, 2)).log().clamp_min(0) + 0.3)[:, None, None]
    s = 1 - (a[:, :, None] + b[:, None]).exp().sum(-1)
    return Point(a, b, tables.masses, s)


def _trivial(tables: Tables) -> _Best:
    """Sources independent given the answer above, the better source alone below."""
    p1, p2 = tables.p1, tables.p2
    q = p1[:, :, None] * ratio(p2, p2.sum(1, keepdim=True))[:, None]
    a, b = _log_posterior(p1), _log_posterior(p2)
    lower1, lower2 = pairing(a, p1), pairing(b, p2)
    first = (lower1 >= lower2)[:, None, None]
    zero1, zero2 = torch.zeros_like(a), torch.zeros_like(b)
    return _Best(
        torch.maximum(lower1, lower2),
        value_of(q),
        torch.where(first, a, zero1),
        torch.where(first, zero2, b),
        q,
    )


def _log_posterior(p: Tensor) -> Tensor:
    rows = p.sum(-1, keepdim=True)
    return (p / rows).log().where(rows > 0, 0.0)


def _better(old: _Best, new: _Best) -> _Best:
    raised = (new.lower > old.lower) & new.lower.isfinite()
    lowered = (new.upper < old.upper) & new.upper.isfinite()
    return _Best(
        _choose(raised, new.lower, old.lower),
        _choose(lowered, new.upper, old.upper),
        _choose(raised, new.a, old.a),
        _choose(raised, new.b, old.b),
        _choose(lowered, new.q, old.q),
    )


def _step(tables: Tables, point: Point) -> Point:
    """A predictor to see how far mu can fall, then correctors towards that mu."""
    newton = Newton(tables, point)
    mu = (point.r * point.s).sum((1, 2), keepdim=True)
    guess = newton.direction(torch.zeros_like(point.r))
    on_r, on_s = _inside(point.r, guess.r), _inside(point.s, guess.s)
    after = _products(point, guess, on_r, on_s).sum((1, 2), keepdim=True)
    sigma = (after / mu).clamp(0, 1) ** 3
    sigma = torch.where(newton.violation > mu, sigma.clamp_min(_PACE), sigma)
    aim = mu * sigma * tables.weights
    second_order = guess.r * guess.s * (on_r * on_s)[:, None, None]
    target = (aim - second_order).clamp_min(0).where(tables.pairs, 0.0)
    return _corrected(newton, aim, target)


def _corrected(newton: Newton, aim: Tensor, target: Tensor) -> Point:
    """Pulls outlying products r s towards ``aim`` while that lets the step be longer.

    Source: Multiple centrality corrections in a primal-dual method for linear programming
    (Gondzio, 1996), https://doi.org/10.1007/BF00249643
    """
    tables, point = newton.tables, newton.point
    move = newton.direction(target)
    length = _length(point, move)
    for _ in range(_CORRECTORS):
        far = (1.5 * length + 0.1).clamp_max(1)
        after = _products(point, move, far, far)
        pull = (after.clamp(0.1 * aim, 10 * aim) - after).clamp_min(-10 * aim)
        pulled = target + pull.where(tables.pairs, 0.0)
        other = newton.direction(pulled)
        reach = _length(point, other)
        longer = reach > 1.05 * length
        if not bool(longer.any()):
            break
        target, length = _choose(longer, pulled, target), _choose(longer, reach, length)
        move = _chosen(longer, other, move)
    return point.moved(move, length)


def _products(
    point: Point, move: Point, on_r: Tensor, on_s: Tensor
) -> Float64[Tensor, "batch n1 n2"]:
    return (point.r + on_r[:, None, None] * move.r) * (point.s + on_s[:, None, None] * move.s)


def _length(point: Point, move: Point) -> Float64[Tensor, " batch"]:
    inside = torch.minimum(_inside(point.r, move.r), _inside(point.s, move.s))
    return torch.minimum(0.995 * inside, _trust(point, move)).clamp_max(1)


def _inside(x: Tensor, dx: Tensor) -> Float64[Tensor, " batch"]:
    """How far x can go along dx before an entry reaches 0, at most 1/0.995."""
    far = torch.where(dx < 0, -x / dx.clamp_max(-1e-300), 1e30)
    return far.amin((1, 2)).clamp_max(1 / 0.995)


def _trust(point: Point, move: Point) -> Float64[Tensor, " batch"]:
    """No expert changes by more than e^3, unless it stays below the slack it draws on."""
    change = (move.a[:, :, None] + move.b[:, None]).abs()
    room = point.s.log()[..., None] - point.a[:, :, None] - point.b[:, None]
    return 1 / (change / room.clamp_min(3.0)).amax((1, 2, 3)).clamp_min(1e-300)


def _choose(which: Bool[Tensor, " batch"], yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (yes.ndim - 1)), yes, no)


def _chosen(which: Bool[Tensor, " batch"], yes: Point, no: Point) -> Point:
    names = (f.name for f in fields(Point))
    return Point(*(_choose(which, getattr(yes, k), getattr(no, k)) for k in names))


def _take(x: Any, at: Tensor) -> Any:
    return type(x)(*(getattr(x, f.name)[at] for f in fields(x)))


def _put(x: Any, at: Tensor, values: Any) -> None:
    for f in fields(x):
        getattr(x, f.name)[at] = getattr(values, f.name)


def _swapped(s: Solution) -> Solution:
    """Vision and language exchanged."""
    q = s.coupling if s.coupling is None else s.coupling.transpose(1, 2)
    return replace(s, coupling=q, dual_vision=s.dual_language, dual_language=s.dual_vision)


def _joined(parts: list[Solution]) -> Solution:
    names = [f.name for f in fields(Solution)]
    return Solution(**{k: torch.cat([getattr(p, k) for p in parts]) for k in names})
