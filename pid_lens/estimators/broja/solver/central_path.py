"""Steps along the central path: where it starts, how far each step aims and goes."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.broja.solver.newton import Move, Newton, Point, Tables
from pid_lens.estimators.broja.solver.problems import choose

_INSIDE = 0.05
_PACE, _SLOWEST = 0.02, 0.3
_BOUNDARY = 0.995
_CORRECTORS, _LONG, _LONGER = 4, 0.8, 1.05


def start_point(tables: Tables) -> Point:
    """Sources independent given the answer: a = log p(y|x1) - log p(y) / 2, shifted inside.

    The multipliers are such that the products r s are as their weights.
    """
    half = tables.p1.sum(1, keepdim=True).log() / 2
    a, b = _log_posterior(tables.p1) - half, _log_posterior(tables.p2) - half
    a, b = a.where(tables.p1 > 0, -torch.inf), b.where(tables.p2 > 0, -torch.inf)
    sums = (a[:, :, None] + b[:, None]).exp().sum(-1)
    shift = sums.amax((1, 2), keepdim=True).log().clamp_min(0) + _INSIDE
    s = 1 - sums * (-shift).exp()
    mu = (tables.weights * s).sum((1, 2), keepdim=True)
    return Point.at(a - shift, b, mu * tables.weights / s, s)


def _log_posterior(p: Tensor) -> Tensor:
    return (p / p.sum(-1, keepdim=True)).log()


def take_step(tables: Tables, point: Point) -> Point:
    """A predictor to see how far mu can fall, then correctors towards that mu.

    Where marginals or constraints are far off, mu falls less: once it is ahead of them, moves
    are no longer small, and each undoes what the last one mended.

    Source: On the implementation of a primal-dual interior point method (Mehrotra, 1992),
    https://doi.org/10.1137/0802028
    """
    newton = Newton(tables, point)
    guess = newton.direction(torch.zeros_like(point.r))
    on_r, on_s = _length_until_zero(guess.r), _length_until_zero(guess.s)
    after = _products(point, guess, on_r, on_s).sum((1, 2), keepdim=True)
    pace = (_PACE * newton.infeasibility / point.mu).clamp_max(_SLOWEST)
    sigma = torch.maximum((after / point.mu).clamp(0, 1) ** 3, pace)
    aim = point.mu * sigma * tables.weights
    second_order = point.products * guess.r * guess.s * (on_r * on_s)
    return _correct(newton, aim, (aim - second_order).clamp_min(0))


def _correct(newton: Newton, aim: Tensor, target: Tensor) -> Point:
    """Pulls outlying products r s towards ``aim`` while that lets a short step be longer.

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
        far = (1.5 * length + 0.1).clamp_max(1)
        after = _products(point, move, far, far)
        pull = (after.clamp(0.1 * aim, 10 * aim) - after).clamp_min(-10 * aim)
        pulled = target + pull
        other = newton.direction(pulled)
        reach = _length(point, other)
        longer = short & (reach > _LONGER * length)
        if not bool(longer.any()):
            break
        target, length = torch.where(longer, pulled, target), torch.where(longer, reach, length)
        move = choose(longer.flatten(), other, move)
    return point.move_by(move, length)


def _products(
    point: Point, move: Move, on_r: Tensor, on_s: Tensor
) -> Float64[Tensor, "batch n1 n2"]:
    """The products r s after parts of a move."""
    return point.products * (1 + on_r * move.r) * (1 + on_s * move.s)


def _length(point: Point, move: Move) -> Float64[Tensor, "batch 1 1"]:
    """The part of a move, at most all, that keeps r and s above 0 and experts within bounds."""
    fall = -torch.minimum(move.r, move.s).amin((1, 2), keepdim=True) / _BOUNDARY
    growth = (move.experts.abs() / point.room).amax((1, 2, 3))[:, None, None]
    return 1 / torch.maximum(fall, growth).clamp_min(1)


def _length_until_zero(change: Tensor) -> Float64[Tensor, "batch 1 1"]:
    """How far a relative change can go before an entry reaches 0, at most 1."""
    return 1 / (-change.amin((1, 2), keepdim=True)).clamp_min(1)
