"""Interior point: the union information of small tables by a batched primal-dual method."""

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
"""Size of the largest tensor of a batch; larger batches are solved in parts."""
_PATIENCE, _LESS = 12, 0.9
"""A problem is stuck when mu did not fall below _LESS times its least for _PATIENCE steps."""
_NEAR, _FINE = 100, 1e-7
"""Points are made into a certificate from mu < max(_NEAR tol, _FINE) on."""
_DUST = 1e-15
"""Masses up to this are left out of the Newton system."""
_LOW = -45.0
"""Potential of a mass that was left out: exp(-45) takes 3e-20 of a constraint."""


def solve(
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
    *,
    tol: float = 1e-9,
    max_iterations: int = 120,
) -> Solution:
    r"""Solve for I_Q of many pairs of tables by a primal-dual interior point, with certificates.

    Mehrotra's predictor-corrector on the dual of Bertschinger's programme. With potentials
    a(x1, y), b(x2, y), products of experts e = exp(a + b), slacks s of the constraints
    sum_y e <= 1 and their multipliers r, it follows the central path of the KKT conditions::

        sum over x2 of r e = p1     sum over x1 of r e = p2     sum_y e + s = 1     r s = mu w -> 0

    (the coupling q = r e has both marginals, dual feasibility, perturbed complementarity) with
    fixed weights w ~ sqrt(p(x1) p(x2)), so that symbols of next to no mass hold up no step.
    The Newton system has a block r (diag(e) + e e^T / s) for each pair (x1, x2); x1 is
    eliminated row by row and the Schur complement for b, dense of n2 * answers, is solved by
    Cholesky: O((n1 + n2) n2^2 answers^3) per step. Near the optimum, or where mu falls no more,
    the iterate is made into a certificate: r e is rounded to the exact marginals, (a, b) shifted
    to exact feasibility. The best bounds are kept, so that where steps stop helping the interval
    says how far they came. max(I1, I2) <= I_Q is used too.

    Source:
        Quantifying unique information (Bertschinger, Rauh, Olbrich, Jost, Ay, 2014),
        https://doi.org/10.3390/e16042161
        On the implementation of a primal-dual interior point method (Mehrotra, 1992),
        https://doi.org/10.1137/0802028

    Args:
        p1: masses p(x1, y), each table summing to 1; rows without mass are padding.
        p2: masses p(x2, y), with the same answer marginal.
        tol: duality gap in nats at which a problem is finished; 1e-12 is in reach of most.
        max_iterations: largest number of Newton steps.

    Returns:
        A ``Solution``; the result of a problem does not depend on the rest of the batch.

    Example:
        >>> copy = torch.tensor([[0.5, 0, 0], [0, 0.25, 0.25]], dtype=torch.float64)[None]
        >>> noise = copy.sum(1, keepdim=True)
        >>> solve(copy, noise).upper
        tensor([0.6931], dtype=torch.float64)
    """
    # The Schur complement is as large as source 2 has symbols: let that be the smaller source
    if p2.shape[1] > p1.shape[1]:
        return _swap_sources(solve(p2, p1, tol=tol, max_iterations=max_iterations))
    # Newton blocks [n1, answers, n2, answers] of a problem decide how many fit at once
    size = p1.shape[1] * p2.shape[1] * p1.shape[2] ** 2
    together = max(1, _NUMBERS_AT_ONCE // size)
    parts = [
        _Run(a, b).run_until(tol, max_iterations)
        for a, b in zip(p1.split(together), p2.split(together), strict=True)
    ]
    return _join(parts)


@dataclass(frozen=True)
class _Given:
    """The marginals as given, and masks of the masses that are left out of the Newton system."""

    p1: Float64[Tensor, "batch n1 answers"]
    p2: Float64[Tensor, "batch n2 answers"]
    dust1: Bool[Tensor, "batch n1 answers"]
    dust2: Bool[Tensor, "batch n2 answers"]


@dataclass(frozen=True)
class _Best:
    """The best bounds of I_Q - H so far, and what proves them: potentials (a, b), coupling q."""

    lower: Float64[Tensor, " batch"]
    upper: Float64[Tensor, " batch"]
    a: Float64[Tensor, "batch n1 answers"]
    b: Float64[Tensor, "batch n2 answers"]
    q: Float64[Tensor, "batch n1 n2 answers"]

    @property
    def width(self) -> Float64[Tensor, " batch"]:
        """Width of the interval."""
        return self.upper - self.lower


class _Run:
    """One batch of problems; finished problems leave it before the next step."""

    def __init__(self, p1: Tensor, p2: Tensor) -> None:
        self.prior = entropy(p1.sum(1))
        self.tables = _drop_dust(p1, p2)
        # Masses that the Newton system leaves out; certificates are about p1 and p2 as given
        dust = ((p > 0) & (seen <= 0) for p, seen in ((p1, self.tables.p1), (p2, self.tables.p2)))
        self.given = _Given(p1, p2, *dust)
        self.point = start_point(self.tables)
        # live: indices of unfinished problems; idle: steps since mu last fell; least: least mu
        self.live = torch.arange(len(p1), device=p1.device)
        self.best = _trivial_proofs(p1, p2)
        self.found = take(self.best, self.live)
        self.iterations, self.idle = torch.zeros_like(self.live), torch.zeros_like(self.live)
        self.least = torch.full_like(self.prior, torch.inf)

    def run_until(self, tol: float, max_iterations: int) -> Solution:
        """Iterate until each problem's gap is below ``tol``, it is stuck, or out of steps."""
        near = max(_NEAR * tol, _FINE)
        self._hand_in(self.best.width <= tol, 0)
        for steps in range(1, max_iterations + 1):
            if not len(self.live):
                break
            self._advance()
            last = steps == max_iterations
            # mu bounds the duality gap of a feasible point: certify where it is small or stalls
            due = (self.point.mu.flatten() < near) | (self.idle > 0) | last
            if bool(due.any()):
                self._prove(due.nonzero()[:, 0])
                self._hand_in((self.best.width <= tol) | (self.idle >= _PATIENCE) | last, steps)
        return self._solution()

    def _advance(self) -> None:
        """Take one step; where the Newton system is singular (NaN), keep the point and give up."""
        moved = take_step(self.tables, self.point)
        mu = moved.mu.flatten()
        lost = mu.isnan()
        if bool(lost.any()):
            moved = choose(lost, self.point, moved)
        self.point = moved
        # Stalled: mu is above 0.9 of its least so far
        self.idle = (self.idle + 1).masked_fill(mu < _LESS * self.least, 0)
        self.idle.masked_fill_(lost, _PATIENCE)
        self.least = torch.fmin(mu, self.least)

    def _prove(self, at: Int64[Tensor, " due"]) -> None:
        """Make the iterates of some problems into certificates and keep what improved."""
        given, point, best = take(self.given, at), take(self.point, at), take(self.best, at)
        # Primal: coupling r e, rounded to the marginals
        q = round_to_marginals(point.coupling, given.p1, given.p2)
        # Dual: potentials of all masses, shifted until sum_y exp(a + b) <= 1 everywhere
        a, b = point.a.masked_fill(given.dust1, _LOW), point.b.masked_fill(given.dust2, _LOW)
        a, b = lower_the_lighter(a, b, given.p1, given.p2)
        a, b, lower = shift_to_feasible(a, b, given.p1, given.p2)
        put(self.best, at, _keep_better(best, _Best(lower, value_of(q), a, b, q)))

    def _hand_in(self, done: Bool[Tensor, " live"], steps: int) -> None:
        """Store the certificates of finished problems and drop them from the batch."""
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
    """Drop masses up to 1e-15, which would slow down every Newton step.

    An answer of which one source keeps no mass is dropped from both; the rest is scaled to a
    common answer marginal.
    """
    p1, p2 = p1.where(p1 > _DUST, 0.0), p2.where(p2 > _DUST, 0.0)
    prior1, prior2 = p1.sum(1, keepdim=True), p2.sum(1, keepdim=True)
    prior = torch.minimum(prior1, prior2)
    return Tables.of(p1 * safe_ratio(prior, prior1), p2 * safe_ratio(prior, prior2))


def _trivial_proofs(p1: Tensor, p2: Tensor) -> _Best:
    """Compute the first bounds: conditional independence above, the better source alone below."""
    # Upper: q = p(x1, y) p(x2 | y). Lower: a = log p(y|x1), b = 0 is feasible and proves I(Y; X1)
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
    """Keep the better of both bounds, each with its proof; NaN is not an improvement."""
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
    """Swap vision and language."""
    q = s.coupling if s.coupling is None else s.coupling.transpose(1, 2)
    return replace(s, coupling=q, dual_vision=s.dual_language, dual_language=s.dual_vision)


def _join(parts: list[Solution]) -> Solution:
    names = [f.name for f in fields(Solution)]
    return Solution(**{k: torch.cat([getattr(p, k) for p in parts]) for k in names})
