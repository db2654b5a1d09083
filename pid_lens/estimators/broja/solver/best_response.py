"""The best potentials of one source against given potentials of the other, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.entropy import safe_ratio

_STEPS = 30
_NUMBERS_AT_ONCE = 2**22


def respond(
    rows: Float64[Tensor, "n answers"],
    others: Float64[Tensor, "m answers"],
    *,
    enough: float = 1e-7,
) -> Float64[Tensor, "n answers"]:
    r"""The a(x) that maximise <a(x), p(x, .)> while sum_y exp(a(x, y) + b_j(y)) <= 1 for all j.

    With u = exp(a) and B = exp(b) this is max sum_y p log u under B u <= 1, a small concave
    problem for each row; primal-dual interior point, all rows at once, one system of
    answers x answers each. The result is scaled to be exactly feasible, so that in the dual of
    I_Q it can replace any a: the bound rises, or falls by what the steps left undone: at most
    30 are taken, and they stop within 1e-7 nats of a row's optimum.

    Args:
        rows: masses p(x, y), positive row sums.
        others: potentials b_j, nats; -inf is allowed.
        enough: a row's distance from its optimum at which it is left alone, nats.

    Returns:
        a, nats; feasible together with ``others``.

    Example:
        >>> p = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
        >>> respond(p, torch.zeros(1, 2, dtype=torch.float64)).exp()
        tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    step = max(1, _NUMBERS_AT_ONCE // len(others))
    shift = others.amax(0)
    shift = shift.where(shift > -torch.inf, 0.0)
    b = (others - shift).exp()
    parts = [safe_ratio(part, part.sum(1, keepdim=True)) for part in rows.split(step)]
    best = [_respond(part, b, enough) for part in parts]
    return torch.cat(best).log() - shift


@dataclass(frozen=True)
class _Point:
    u: Float64[Tensor, "n answers"]
    r: Float64[Tensor, "n m"]
    s: Float64[Tensor, "n m"]


def _respond(p: Tensor, b: Tensor, enough: float) -> Float64[Tensor, "n answers"]:
    """Exp(a) for posteriors p against b, whose columns have maximum 1."""
    u = torch.full_like(p, 0.5 / p.shape[1])
    point = _Point(u, p.new_full((len(p), len(b)), 1 / len(b)), 1 - u @ b.mT)
    best, most = _scale_to_boundary(point.u, b, p)
    squares = (b[:, :, None] * b[:, None]).flatten(1)
    for _ in range(_STEPS):
        point, go = _step(point, p, b, squares, enough)
        u, value = _scale_to_boundary(point.u, b, p)
        better = value > most
        best, most = torch.where(better, u, best), torch.where(better, value, most)
        if not bool(go.any()):
            break
    return best


def _scale_to_boundary(u: Tensor, b: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """U on the boundary of B u <= 1, and its value sum p log u; never NaN."""
    u = u / (u @ b.mT).amax(1, keepdim=True)
    value = torch.xlogy(p, u).sum(1, keepdim=True)
    return u, value.where(value.isfinite(), -torch.inf)


def _error(point: _Point, p: Tensor, b: Tensor) -> Float64[Tensor, "n 1"]:
    """How far a row is from optimal: sum r s and sum |p - u B^T r|."""
    slope = (p - point.u * (point.r @ b)).abs().sum(1, keepdim=True)
    return slope + (point.r * point.s).sum(1, keepdim=True)


def _step(
    point: _Point, p: Tensor, b: Tensor, squares: Tensor, enough: float
) -> tuple[_Point, Tensor]:
    """One predictor-corrector step of every row, and which rows it moved: not done, not stuck."""
    u, r, s = point.u, point.r, point.s
    hessian = ((r / s) @ squares).view(*u.shape, -1) * u[..., None] * u[:, None]
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(p + 1e-13 * diagonal + 1e-30)
    factor = torch.linalg.cholesky_ex(hessian)[0]

    def move(target: Tensor | float) -> _Point:
        slope = p - u * (r @ b + ((target - r * s) / s) @ b)
        du = u * torch.cholesky_solve(slope[..., None], factor)[..., 0]
        ds = -du @ b.mT
        return _Point(du, (target - r * s - r * ds) / s, ds)

    mu = (r * s).mean(1, keepdim=True)
    guess = move(0.0)
    on_u, on_r = _reach(point, guess)
    after = ((r + on_r * guess.r) * (s + on_u * guess.s)).mean(1, keepdim=True)
    target = (after / mu).clamp(0, 1) ** 3 * mu - guess.r * guess.s * on_u * on_r
    step = move(target.clamp_min(0))
    on_u, on_r = (0.99 * x for x in _reach(point, step))
    new = _Point(u + on_u * step.u, r + on_r * step.r, s + on_u * step.s)
    sound = torch.cat([new.u, new.r, new.s], 1).isfinite().all(1, keepdim=True)
    go = sound & (_error(point, p, b) > enough)
    pairs = ((new.u, u), (new.r, r), (new.s, s))
    return _Point(*(torch.where(go, x, y) for x, y in pairs)), go


def _reach(point: _Point, move: _Point) -> tuple[Tensor, Tensor]:
    """The longest steps of (u, s) and of r that leave all of them positive."""

    def inside(x: Tensor, dx: Tensor) -> Tensor:
        return 1 / (-dx / x).amax(1, keepdim=True).clamp_min(1)

    return torch.minimum(inside(point.u, move.u), inside(point.s, move.s)), inside(point.r, move.r)
