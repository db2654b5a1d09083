"""Two answers: the decomposition in closed form, by the curves of two decision makers."""

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
    r"""The union information I_Q of two sources about a binary answer, exactly.

    A decision maker who is paid 1 - t for a right "yes" and loses t by a wrong one gains
    h_i(t) = sum over x of max(0, (1 - t) p_i(x, yes) - t p_i(x, no)) from source i. With two
    answers the channels form a lattice (they do not with three), so that the least channel
    above both sources gains max(h_1, h_2) at every t, and as neg-entropy is a mixture of these
    games with density 1 / (t (1 - t))::

        I_Q = I(Y; X2) + integral of max(0, h_1 - h_2) dt / (t (1 - t))      (U1 is the integral)

    The h_i are linear between posteriors: sorting and sums, O((n1 + n2) log(n1 + n2)), no
    quantisation, no iterations. The set where h_1 > h_2 gives a feasible dual pair of the same
    value: ``lower`` is what that pair is worth, ``upper`` the closed form, and their difference
    what float64 sums leave. That nothing lies below ``upper`` is proven by the pair; that
    something lies there, by the lattice.

    Source:
        The Blackwell relation defines no lattice (Bertschinger, Rauh, 2014),
        https://arxiv.org/abs/1401.3146
        A novel approach to the partial information decomposition (Kolchinsky, 2022),
        https://doi.org/10.3390/e24030403

    Args:
        p1: masses p(x1, y) of source 1, summing to 1; rows without mass are padding.
        p2: masses p(x2, y) of source 2, with the same label marginal.

    Returns:
        A ``Solution`` without coupling; its dual pair is in nats.

    Example:
        >>> bit = torch.eye(2, dtype=torch.float64)[None] / 2
        >>> noise = torch.full((1, 1, 2), 0.5, dtype=torch.float64)
        >>> solve_binary(bit, noise).upper
        tensor([0.6931], dtype=torch.float64)
    """
    vision, language = _log_odds(p1), _log_odds(p2)
    games = _games(p1, p2, vision, language)
    by_vision = table_information(p1) + games.excess(-1.0)
    by_language = table_information(p2) + games.excess(1.0)
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
    """The optimal potentials of one problem, as functions of a posterior, at other rows.

    They are feasible at any pair of posteriors, as they are integrals over disjoint sets.

    Returns:
        a and b for the new rows, nats.
    """
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
    """h_1 - h_2 = (1 - t) yes - t no between neighbouring log-odds of t."""

    odds: Float64[Tensor, "batch points"]
    yes: Float64[Tensor, "batch intervals"]
    no: Float64[Tensor, "batch intervals"]

    def excess(self, sign: float) -> Float64[Tensor, " batch"]:
        """The integral of max(0, sign (h_1 - h_2)) dt / (t (1 - t))."""
        yes, no = sign * self.yes, sign * self.no
        low, high = self._won_part(yes, no)
        return (_multiply(yes, _rise(low, high)) + _multiply(no, _rise(-low, -high))).sum(-1)

    def pieces(self) -> tuple[Tensor, Tensor]:
        """Integrals of (dt / t, -dt / (1 - t)) where h_1 wins, and over what is left."""
        start, end = self.odds[:, :-1], self.odds[:, 1:]
        low, high = self._won_part(self.yes, self.no)
        won = torch.stack([_rise(-low, -high), _rise(low, high)], -1)
        before = torch.stack([_rise(-start, -low), _rise(start, low)], -1)
        after = torch.stack([_rise(-high, -end), _rise(high, end)], -1)
        return won, before + after

    def _won_part(self, yes: Tensor, no: Tensor) -> tuple[Tensor, Tensor]:
        """The part of each interval where (1 - t) yes > t no."""
        start, end = self.odds[:, :-1], self.odds[:, 1:]
        root = ((yes * no.sign()).clamp_min(0) / no.abs()).log()
        root = root.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf).clamp(start, end)
        none = (yes <= 0) & (no >= 0)
        low = torch.where(no < 0, root, start)
        high = torch.where(no > 0, root, end)
        return low.where(~none, start), high.where(~none, start)


def _games(p1: Tensor, p2: Tensor, vision: Tensor, language: Tensor) -> _Games:
    """The gains' difference from the sums above each point; below it in the lower half.

    The point t = 1/2 always stands among the points. Sums start at the nearer end, where a
    posterior of exactly 0 or 1 must meet a sum of exactly 0.
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
    """Log t at the end minus log t at the start, 0 on an empty interval."""
    sigmoid = torch.nn.functional.logsigmoid
    return (sigmoid(high) - sigmoid(low)).where(low != high, 0.0)


def _multiply(mass: Tensor, length: Tensor) -> Tensor:
    """Their product, 0 where there is no mass even if the length is infinite."""
    return (mass * length).where(mass != 0, 0.0)


def _potentials(odds: Tensor, pieces: Tensor, rows: Tensor) -> Float64[Tensor, "batch n 2"]:
    """Each row's sum of pieces between t = 1/2 and its own posterior, no and yes."""
    upper = (odds[:, :-1] >= 0)[..., None]
    zero = torch.zeros_like(pieces[:, :1])
    up = torch.cat([zero, pieces.where(upper, 0.0).cumsum(1)], 1)
    down = torch.cat([pieces.where(~upper, 0.0).flip(1).cumsum(1).flip(1), zero], 1)
    at = torch.searchsorted(odds, rows.contiguous())[..., None].expand(-1, -1, 2)
    return up.gather(1, at) - down.gather(1, at)
