"""Central path of the interior point: start, predictor-corrector, centrality, step length."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.broja.solver.newton import Move, Newton, Point, Tables
from pid_lens.estimators.broja.solver.problems import choose

_INSIDE = 0.05
"""Nats by which the start lies below the constraints."""
_PACE, _SLOWEST = 0.02, 0.3
"""Least centring sigma: _PACE times infeasibility over mu, at most _SLOWEST."""
_BOUNDARY = 0.995
"""Fraction of the step to the boundary r = 0 or s = 0."""
_CORRECTORS, _LONG, _LONGER = 4, 0.8, 1.05
"""At most so many Gondzio corrections, of steps below _LONG that become _LONGER times as long."""


def start_point(tables: Tables) -> Point:
    """Compute the start: a = log p(y|x1) - log p(y) / 2, b alike, shifted into the interior.

    These are the potentials of sources independent given the answer. The multipliers
    r = mu w / s put the products r s on the central path, r s = mu w.
    """
    half = tables.p1.sum(1, keepdim=True).log() / 2
    a, b = _log_posterior(tables.p1) - half, _log_posterior(tables.p2) - half
    a, b = a.where(tables.p1 > 0, -torch.inf), b.where(tables.p2 > 0, -torch.inf)
    # Shift a until every sum_y exp(a + b) is at most exp(-.05): strictly feasible
    sums = (a[:, :, None] + b[:, None]).exp().sum(-1)
    shift = sums.amax((1, 2), keepdim=True).log().clamp_min(0) + _INSIDE
    s = 1 - sums * (-shift).exp()
    # mu = sum w s
    mu = (tables.weights * s).sum((1, 2), keepdim=True)
    return Point.at(a - shift, b, mu * tables.weights / s, s)


def _log_posterior(p: Tensor) -> Tensor:
    return (p / p.sum(-1, keepdim=True)).log()


def take_step(tables: Tables, point: Point) -> Point:
    """Take one step of Mehrotra's predictor-corrector along the central path.

    The affine-scaling predictor shows how far mu can fall; the corrector aims at that mu. Where
    infeasibility is large, mu falls less: if mu got ahead of it, steps would become short, and
    each would undo part of the last one's progress in feasibility.

    Source: On the implementation of a primal-dual interior point method (Mehrotra, 1992),
    https://doi.org/10.1137/0802028
    """
    newton = Newton(tables, point)
    # Predictor (affine scaling): Newton direction to r s = 0, and mu after its longest step
    guess = newton.direction(torch.zeros_like(point.r))
    on_r, on_s = _length_until_zero(guess.r), _length_until_zero(guess.s)
    after = _products(point, guess, on_r, on_s).sum((1, 2), keepdim=True)
    # Centring: sigma = (mu_affine / mu)^3, no less than infeasibility asks for
    pace = (_PACE * newton.infeasibility / point.mu).clamp_max(_SLOWEST)
    sigma = torch.maximum((after / point.mu).clamp(0, 1) ** 3, pace)
    # Corrector: aim at r s = sigma mu w, less the predictor's second-order term dr ds
    aim = point.mu * sigma * tables.weights
    second_order = point.products * guess.r * guess.s * (on_r * on_s)
    return _correct(newton, aim, (aim - second_order).clamp_min(0))


def _correct(newton: Newton, aim: Tensor, target: Tensor) -> Point:
    """Apply Gondzio's centrality corrections, as long as they lengthen a short step.

    They pull the products r s that a longer step would take far from ``aim``, the central path,
    back into [aim / 10, 10 aim].

    Source: Multiple centrality corrections in a primal-dual method for linear programming
    (Gondzio, 1996), https://doi.org/10.1007/BF00249643
    """
    point = newton.point
    move = newton.direction(target)
    length = _length(point, move)
    for _ in range(_CORRECTORS):
        short = length < _LONG
        if not bool(short.any()):
            break
        # Trial point beyond the current length, its products projected on [aim / 10, 10 aim]
        far = (1.5 * length + 0.1).clamp_max(1)
        after = _products(point, move, far, far)
        pull = (after.clamp(0.1 * aim, 10 * aim) - after).clamp_min(-10 * aim)
        pulled = target + pull
        other = newton.direction(pulled)
        reach = _length(point, other)
        # Accept the corrected direction where its step is at least 1.05 times as long
        longer = short & (reach > _LONGER * length)
        if not bool(longer.any()):
            break
        target, length = torch.where(longer, pulled, target), torch.where(longer, reach, length)
        move = choose(longer.flatten(), other, move)
    return point.move_by(move, length)


def _products(
    point: Point, move: Move, on_r: Tensor, on_s: Tensor
) -> Float64[Tensor, "batch n1 n2"]:
    """Compute the products r s after steps of these lengths in r and in s."""
    return point.products * (1 + on_r * move.r) * (1 + on_s * move.s)


def _length(point: Point, move: Move) -> Float64[Tensor, "batch 1 1"]:
    """Compute the step length, at most 1: fraction to the boundary, trust region of a + b."""
    # Ratio test: r and s keep at least .005 of themselves; |change of a + b| stays within room
    fall = -torch.minimum(move.r, move.s).amin((1, 2), keepdim=True) / _BOUNDARY
    growth = (move.experts.abs() / point.room).amax((1, 2, 3))[:, None, None]
    return 1 / torch.maximum(fall, growth).clamp_min(1)


def _length_until_zero(change: Tensor) -> Float64[Tensor, "batch 1 1"]:
    """Compute the step length at which the first entry reaches 0, at most 1 (ratio test)."""
    return 1 / (-change.amin((1, 2), keepdim=True)).clamp_min(1)
