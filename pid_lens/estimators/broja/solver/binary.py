"""Closed form of the union information for two answers, by decision problems (Blackwell order)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.broja.solver.certificate import dual_pairing
from pid_lens.estimators.broja.solver.solution import Solution
from pid_lens.estimators.common.entropy import entropy, table_information


def solve_binary(p1: Float64[Tensor, "batch n1 2"], p2: Float64[Tensor, "batch n2 2"]) -> Solution:
    r"""Compute the union information I_Q of two sources about a binary answer in closed form.

    In the decision problem with threshold t, a right "yes" is worth 1 - t and a wrong one -t, so
    that source i gains h_i(t) = sum over x of max(0, (1 - t) p_i(x, yes) - t p_i(x, no)). With
    two answers the channels form a lattice under the Blackwell order (they do not with three), so
    that the least channel above both sources gains max(h_1, h_2) at every t; and as neg-entropy
    is a mixture of these decision problems with density 1 / (t (1 - t))::

        I_Q = I(Y; X2) + integral of max(0, h_1 - h_2) dt / (t (1 - t))      (U1 is the integral)

    The h_i are linear between posteriors: sorting and sums, O((n1 + n2) log(n1 + n2)), no
    quantisation, no iterations. The set where h_1 > h_2 gives a feasible dual pair of the same
    value: ``lower`` is the dual objective of that pair, ``upper`` the closed form, and their
    difference the rounding of float64 sums. The pair proves that no coupling is below ``upper``;
    the lattice, that one attains it.

    Source:
        The Blackwell relation defines no lattice (Bertschinger, Rauh, 2014),
        https://arxiv.org/abs/1401.3146
        A novel approach to the partial information decomposition (Kolchinsky, 2022),
        https://doi.org/10.3390/e24030403

    Args:
        p1: masses p(x1, y) of source 1, summing to 1; rows without mass are padding.
        p2: masses p(x2, y) of source 2, with the same answer marginal.

    Returns:
        A ``Solution`` without coupling; its dual pair is in nats.

    Example:
        >>> bit = torch.eye(2, dtype=torch.float64)[None] / 2
        >>> noise = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
        >>> solve_binary(bit, noise).upper
        tensor([0.6931], dtype=torch.float64)
    """
    # h_1 - h_2 is linear in t between neighbouring posteriors, given here as log-odds
    vision, language = _log_odds(p1), _log_odds(p2)
    games = _games(p1, p2, vision, language)
    # Upper: I(Y; X1) + U2 and I(Y; X2) + U1, equal but for rounding
    by_vision = table_information(p1) + games.excess(-1.0)
    by_language = table_information(p2) + games.excess(1.0)
    # Lower: dual pair (a, b), the scores of both answers integrated over disjoint sets of t
    pieces, rest = games.pieces()
    a = _potentials(games.odds, pieces, vision) + math.log(0.5)
    b = _potentials(games.odds, rest, language)
    dual = entropy(p1.sum(1)) + dual_pairing(a, p1) + dual_pairing(b, p2)
    return Solution(
        lower=dual.fmax(torch.maximum(table_information(p1), table_information(p2))),
        upper=torch.maximum(by_vision, by_language),
        coupling=None,
        dual_vision=a,
        dual_language=b,
        iterations=torch.zeros(len(p1), dtype=torch.long, device=p1.device),
    )


def potentials_of(
    p1: Float64[Tensor, "batch n1 2"],
    p2: Float64[Tensor, "batch n2 2"],
    new1: Float64[Tensor, "batch m1 2"],
    new2: Float64[Tensor, "batch m2 2"],
) -> tuple[Float64[Tensor, "batch m1 2"], Float64[Tensor, "batch m2 2"]]:
    """Evaluate the optimal dual potentials of one problem, functions of a posterior, at new rows.

    They are feasible at any pair of posteriors, as they are integrals over disjoint sets.

    Args:
        p1: masses p(x1, y) of the problem.
        p2: masses p(x2, y) of the problem.
        new1: masses of new rows of source 1; only their posteriors matter.
        new2: masses of new rows of source 2.

    Returns:
        a and b for the new rows, nats.
    """
    # The new rows are among the points, with mass 0, so that the integrals end at them
    one, two = _log_odds(new1), _log_odds(new2)
    points = torch.cat([_log_odds(p1), one, two], 1), _log_odds(p2)
    nothing = torch.zeros_like(torch.cat([new1, new2], 1))
    games = _games(torch.cat([p1, nothing], 1), p2, *points)
    pieces, rest = games.pieces()
    return (
        _potentials(games.odds, pieces, one) + math.log(0.5),
        _potentials(games.odds, rest, two),
    )


@dataclass(frozen=True)
class _Games:
    """Piecewise linear difference of gains: h_1 - h_2 = (1 - t) yes - t no on each interval.

    ``odds`` are the ends of the intervals, log(t / (1 - t)) in ascending order.
    """

    odds: Float64[Tensor, "batch points"]
    yes: Float64[Tensor, "batch intervals"]
    no: Float64[Tensor, "batch intervals"]

    def excess(self, sign: float) -> Float64[Tensor, " batch"]:
        """Integrate max(0, sign (h_1 - h_2)) dt / (t (1 - t)), in closed form on each interval."""
        # yes times the integral of dt / t, no times that of -dt / (1 - t)
        yes, no = sign * self.yes, sign * self.no
        low, high = self._won_part(yes, no)
        return (_multiply(yes, _rise(low, high)) + _multiply(no, _rise(-low, -high))).sum(-1)

    def pieces(self) -> tuple[Tensor, Tensor]:
        """Integrate (-dt / (1 - t), dt / t), of (no, yes), where h_1 > h_2 and over the rest."""
        start, end = self.odds[:, :-1], self.odds[:, 1:]
        low, high = self._won_part(self.yes, self.no)
        won = torch.stack([_rise(-low, -high), _rise(low, high)], -1)
        before = torch.stack([_rise(-start, -low), _rise(start, low)], -1)
        after = torch.stack([_rise(-high, -end), _rise(high, end)], -1)
        return won, before + after

    def _won_part(self, yes: Tensor, no: Tensor) -> tuple[Tensor, Tensor]:
        """Find the part of each interval where (1 - t) yes > t no."""
        # The sign changes at log-odds log(yes / no), clamped to the interval
        start, end = self.odds[:, :-1], self.odds[:, 1:]
        root = ((yes * no.sign()).clamp_min(0) / no.abs()).log()
        root = root.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf).clamp(start, end)
        none = (yes <= 0) & (no >= 0)
        low = torch.where(no < 0, root, start)
        high = torch.where(no > 0, root, end)
        return low.where(~none, start), high.where(~none, start)


def _games(p1: Tensor, p2: Tensor, vision: Tensor, language: Tensor) -> _Games:
    """Compute h_1 - h_2 from cumulative sums of p1 - p2 above each point, sorted by posterior.

    In the lower half the sums run from below, as sums above and below add up to 0: they start at
    the nearer end, where a posterior of exactly 0 or 1 must meet a sum of exactly 0. The point
    t = 1/2 is always among the points.
    """
    half = torch.zeros_like(p1[:, :1])
    points = torch.cat([vision, half[..., 0], language], 1)
    masses = torch.cat([p1, half, -p2], 1)
    odds, order = points.sort(dim=1, stable=True)
    masses = masses.gather(1, order[..., None].expand_as(masses))
    below = masses.cumsum(1)[:, :-1]
    above = masses.flip(1).cumsum(1).flip(1)[:, 1:]
    upper = (odds[:, :-1] >= 0)[..., None]
    no, yes = torch.where(upper, above, -below).unbind(-1)
    return _Games(odds, yes, no)


def _log_odds(joint: Float64[Tensor, "batch n 2"]) -> Float64[Tensor, "batch n"]:
    odds = joint[..., 1].log() - joint[..., 0].log()
    return odds.where(joint.sum(-1) > 0, 0.0)


def _rise(low: Tensor, high: Tensor) -> Tensor:
    """Integrate dt / t between two log-odds: log t at the end minus log t at the start."""
    sigmoid = torch.nn.functional.logsigmoid
    return (sigmoid(high) - sigmoid(low)).where(low != high, 0.0)


def _multiply(mass: Tensor, length: Tensor) -> Tensor:
    """Multiply mass by length, with 0 times infinity = 0."""
    return (mass * length).where(mass != 0, 0.0)


def _potentials(odds: Tensor, pieces: Tensor, rows: Tensor) -> Float64[Tensor, "batch n 2"]:
    """Sum the pieces between t = 1/2 and each row's own posterior, for no and yes."""
    # Cumulative sums from t = 1/2 upwards and downwards, read off at the row's posterior
    upper = (odds[:, :-1] >= 0)[..., None]
    zero = torch.zeros_like(pieces[:, :1])
    up = torch.cat([zero, pieces.where(upper, 0.0).cumsum(1)], 1)
    down = torch.cat([pieces.where(~upper, 0.0).flip(1).cumsum(1).flip(1), zero], 1)
    at = torch.searchsorted(odds, rows.contiguous())[..., None].expand(-1, -1, 2)
    return up.gather(1, at) - down.gather(1, at)
