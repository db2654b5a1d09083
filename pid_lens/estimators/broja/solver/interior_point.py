"""The union information of small tables: a batched primal-dual interior point, with proof."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from pid_lens.estimators.broja.solver.central_path import start_point, take_step
from pid_lens.estimators.broja.solver.certificate import (
    dual_pairing,
    lower_the_lighter,
    round_to_marginals,
    shift_to_feasible,
    value_of,
)
from pid_lens.estimators.broja.solver.newton import Tables
from pid_lens.estimators.broja.solver.problems import choose, put, take
from pid_lens.estimators.broja.solver.solution import Solution
from pid_lens.estimators.common.entropy import entropy, safe_ratio

_NUMBERS_AT_ONCE = 2**24
_PATIENCE, _LESS = 12, 0.9
_NEAR, _FINE = 100, 1e-7
_DUST = 1e-15
_LOW = -45.0


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
    end r e is the coupling. Iterates that are near the optimum, or come no nearer, are mended
    into an exact coupling and an exactly feasible pair, and the best of each are kept: when
    steps stop helping, the interval says how far it came. max(I1, I2) <= I_Q is used too.

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
        return _swap_sources(solve(p2, p1, tol=tol, max_iterations=max_iterations))
    size = p1.shape[1] * p2.shape[1] * p1.shape[2] ** 2
    together = max(1, _NUMBERS_AT_ONCE // size)
    parts = [
        _Run(a, b).run_until(tol, max_iterations)
        for a, b in zip(p1.split(together), p2.split(together), strict=True)
    ]
    return _join(parts)


@dataclass(frozen=True)
class _Given:
    """Problems as they came, and which of their masses no step sees."""

    p1: Float64[Tensor, "batch n1 answers"]
    p2: Float64[Tensor, "batch n2 answers"]
    dust1: Bool[Tensor, "batch n1 answers"]
    dust2: Bool[Tensor, "batch n2 answers"]


@dataclass(frozen=True)
class _Best:
    """The best proofs so far."""

    lower: Float64[Tensor, " batch"]
    upper: Float64[Tensor, " batch"]
    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    q: Float64[Tensor, "batch n1 n2 answers"]

    @property
    def width(self) -> Float64[Tensor, " batch"]:
        """Of the interval."""
        return self.upper - self.lower


class _Run:
    """One batch of problems on its way; finished ones are left out of the next step."""

    def __init__(self, p1: Tensor, p2: Tensor) -> None:
        self.prior = entropy(p1.sum(1))
        self.tables = _drop_dust(p1, p2)
        dust = ((p > 0) & (seen <= 0) for p, seen in ((p1, self.tables.p1), (p2, self.tables.p2)))
        self.given = _Given(p1, p2, *dust)
        self.point = start_point(self.tables)
        self.live = torch.arange(len(p1), device=p1.device)
        self.best = _trivial_proofs(p1, p2)
        self.found = take(self.best, self.live)
        self.iterations, self.idle = torch.zeros_like(self.live), torch.zeros_like(self.live)
        self.least = torch.full_like(self.prior, torch.inf)

    def run_until(self, tol: float, max_iterations: int) -> Solution:
        """Steps until each problem is proven to ``tol``, stuck, or out of steps."""
        near = max(_NEAR * tol, _FINE)
        self._hand_in(self.best.width <= tol, 0)
        for steps in range(1, max_iterations + 1):
            if not len(self.live):
                break
            self._advance()
            last = steps == max_iterations
            due = (self.point.mu.flatten() < near) | (self.idle > 0) | last
            if bool(due.any()):
                self._prove(due.nonzero()[:, 0])
                self._hand_in((self.best.width <= tol) | (self.idle >= _PATIENCE) | last, steps)
        return self._solution()

    def _advance(self) -> None:
        """One step; a problem that float64 has none for stays where it is and is given up."""
        moved = take_step(self.tables, self.point)
        mu = moved.mu.flatten()
        lost = mu.isnan()
        if bool(lost.any()):
            moved = choose(lost, self.point, moved)
        self.point = moved
        self.idle = (self.idle + 1).masked_fill(mu < _LESS * self.least, 0)
        self.idle.masked_fill_(lost, _PATIENCE)
        self.least = torch.fmin(mu, self.least)

    def _prove(self, at: Int64[Tensor, " due"]) -> None:
        """Mends the points of some problems into proofs and keeps what improved."""
        given, point, best = take(self.given, at), take(self.point, at), take(self.best, at)
        q = round_to_marginals(point.coupling, given.p1, given.p2)
        a, b = point.a.masked_fill(given.dust1, _LOW), point.b.masked_fill(given.dust2, _LOW)
        a, b = lower_the_lighter(a, b, given.p1, given.p2)
        a, b, lower = shift_to_feasible(a, b, given.p1, given.p2)
        put(self.best, at, _keep_better(best, _Best(lower, value_of(q), a, b, q)))

    def _hand_in(self, done: Bool[Tensor, " live"], steps: int) -> None:
        """Files the proofs of problems that are finished, and goes on without them."""
        if not bool(done.any()):
            return
        out, on = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
        put(self.found, self.live[out], take(self.best, out))
        self.iterations[self.live[out]] = steps
        self.given, self.tables = take(self.given, on), take(self.tables, on)
        self.point, self.best = take(self.point, on), take(self.best, on)
        self.live, self.idle, self.least = self.live[on], self.idle[on], self.least[on]

    def _solution(self) -> Solution:
        return Solution(
            lower=self.found.lower + self.prior,
            upper=self.found.upper + self.prior,
            coupling=self.found.q,
            dual_vision=self.found.a,
            dual_language=self.found.b,
            iterations=self.iterations,
        )


def _drop_dust(p1: Tensor, p2: Tensor) -> Tables:
    """Masses too small to matter would hold up every step: Newton does not see them.

    An answer of which one side has dust alone is left out on both; what stays is scaled to one
    label marginal.
    """
    p1, p2 = p1.where(p1 > _DUST, 0.0), p2.where(p2 > _DUST, 0.0)
    prior1, prior2 = p1.sum(1, keepdim=True), p2.sum(1, keepdim=True)
    prior = torch.minimum(prior1, prior2)
    return Tables.of(p1 * safe_ratio(prior, prior1), p2 * safe_ratio(prior, prior2))


def _trivial_proofs(p1: Tensor, p2: Tensor) -> _Best:
    """Sources independent given the answer above, the better source alone below."""
    q = p1[:, :, None] * safe_ratio(p2, p2.sum(1, keepdim=True))[:, None]
    a, b = _log_posterior(p1), _log_posterior(p2)
    lower1, lower2 = dual_pairing(a, p1), dual_pairing(b, p2)
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


def _keep_better(old: _Best, new: _Best) -> _Best:
    """Whatever is NaN is no better."""
    raised = (new.lower > old.lower)[:, None, None]
    lowered = (new.upper < old.upper)[:, None, None, None]
    return _Best(
        torch.fmax(new.lower, old.lower),
        torch.fmin(new.upper, old.upper),
        torch.where(raised, new.a, old.a),
        torch.where(raised, new.b, old.b),
        torch.where(lowered, new.q, old.q),
    )


def _swap_sources(s: Solution) -> Solution:
    """Vision and language exchanged."""
    q = s.coupling if s.coupling is None else s.coupling.transpose(1, 2)
    return replace(s, coupling=q, dual_vision=s.dual_language, dual_language=s.dual_vision)


def _join(parts: list[Solution]) -> Solution:
    names = [f.name for f in fields(Solution)]
    return Solution(**{k: torch.cat([getattr(p, k) for p in parts]) for k in names})
