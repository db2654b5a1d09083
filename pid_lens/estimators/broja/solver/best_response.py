"""Best response: maximise the dual over one source's potentials, row by row, the other's given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.entropy import safe_ratio

_STEPS = 30
"""Interior-point steps at most."""
_NUMBERS_AT_ONCE = 2**22
"""Entries of r and of s held at a time."""


def respond(
    rows: Float64[Tensor, "n answers"],
    others: Float64[Tensor, "m answers"],
    *,
    enough: float = 1e-7,
) -> Float64[Tensor, "n answers"]:
    r"""Maximise <a(x), p(x, .)> over a(x) under sum_y exp(a(x, y) + b_j(y)) <= 1 for all j.

    One half of block coordinate ascent on the dual of I_Q. With u = exp(a) and B = exp(b) it is
    max sum_y p log u under B u <= 1, a small concave problem for each row, solved by a
    primal-dual interior point, all rows at once, with one answers x answers system each. The
    result is scaled to be exactly feasible, so that in the dual of I_Q it can replace any a. The
    bound rises, or falls by at most the rows' remaining objective gaps, averaged with weights
    p(x): at most 30 steps are taken, and a row's stop where its error is below ``enough``.

    Args:
        rows: masses p(x, y), positive row sums.
        others: potentials b_j, nats; -inf is allowed.
        enough: optimality error of a row's posterior at which it is finished, nats.

    Returns:
        a, nats; feasible together with ``others``.

    Example:
        >>> p = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
        >>> respond(p, torch.zeros(1, 2, dtype=torch.float64)).exp()
        tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    # Scale B so that each column has maximum 1: b - shift, hence a + shift, undone at the end
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
    """Solve max sum_y p log u under B u <= 1 for posteriors p; columns of B have maximum 1.

    The KKT conditions along the central path: p = u B^T r, B u + s = 1, r s = mu -> 0.
    """
    # Start: a strictly feasible u, multipliers that sum to 1
    u = torch.full_like(p, 0.5 / p.shape[1])
    point = _Point(u, p.new_full((len(p), len(b)), 1 / len(b)), 1 - u @ b.mT)
    best, most = _scale_to_boundary(point.u, b, p)
    squares = (b[:, :, None] * b[:, None]).flatten(1)
    for _ in range(_STEPS):
        point, go = _step(point, p, b, squares, enough)
        # Keep the best feasible u, as the iterate's value need not rise at each step
        u, value = _scale_to_boundary(point.u, b, p)
        better = value > most
        best, most = torch.where(better, u, best), torch.where(better, value, most)
        if not bool(go.any()):
            break
    return best


def _scale_to_boundary(u: Tensor, b: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Scale u to the boundary of B u <= 1; compute its value sum p log u, -inf rather than NaN."""
    u = u / (u @ b.mT).amax(1, keepdim=True)
    value = torch.xlogy(p, u).sum(1, keepdim=True)
    return u, value.where(value.isfinite(), -torch.inf)


def _error(point: _Point, p: Tensor, b: Tensor) -> Float64[Tensor, "n 1"]:
    """Compute each row's optimality error: complementarity sum r s plus sum |p - u B^T r|."""
    slope = (p - point.u * (point.r @ b)).abs().sum(1, keepdim=True)
    return slope + (point.r * point.s).sum(1, keepdim=True)


def _step(
    point: _Point, p: Tensor, b: Tensor, squares: Tensor, enough: float
) -> tuple[_Point, Tensor]:
    """Take one Mehrotra step of every row; also return which rows moved: not done, not stuck.

    Unknown of the Newton system: the relative change d of u. With u B^T r replaced by p, its
    value at the optimum, the matrix is positive definite: diag(p) + diag(u) B^T (r / s) B diag(u).
    """
    u, r, s = point.u, point.r, point.s
    # Newton matrix, with a tiny ridge, and its Cholesky factor
    hessian = ((r / s) @ squares).view(*u.shape, -1) * u[..., None] * u[:, None]
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(p + 1e-13 * diagonal + 1e-30)
    factor = torch.linalg.cholesky_ex(hessian)[0]

    # Direction to r s = target: du from the Newton system, ds = -B du, dr by substitution
    def move(target: Tensor | float) -> _Point:
        slope = p - u * (r @ b + ((target - r * s) / s) @ b)
        du = u * torch.cholesky_solve(slope[..., None], factor)[..., 0]
        ds = -du @ b.mT
        return _Point(du, (target - r * s - r * ds) / s, ds)

    # Predictor (affine scaling), and mu after its longest step
    mu = (r * s).mean(1, keepdim=True)
    guess = move(0.0)
    on_u, on_r = _reach(point, guess)
    after = ((r + on_r * guess.r) * (s + on_u * guess.s)).mean(1, keepdim=True)
    # Corrector: centring sigma = (mu_affine / mu)^3, less the second-order term dr ds
    target = (after / mu).clamp(0, 1) ** 3 * mu - guess.r * guess.s * on_u * on_r
    step = move(target.clamp_min(0))
    on_u, on_r = (0.99 * x for x in _reach(point, step))
    new = _Point(u + on_u * step.u, r + on_r * step.r, s + on_u * step.s)
    # Only rows that are finite and not yet at their optimum move
    sound = torch.cat([new.u, new.r, new.s], 1).isfinite().all(1, keepdim=True)
    go = sound & (_error(point, p, b) > enough)
    pairs = ((new.u, u), (new.r, r), (new.s, s))
    return _Point(*(torch.where(go, x, y) for x, y in pairs)), go


def _reach(point: _Point, move: _Point) -> tuple[Tensor, Tensor]:
    """Compute the longest steps of (u, s) and of r, at most 1, that keep them non-negative."""

    def inside(x: Tensor, dx: Tensor) -> Tensor:
        return 1 / (-dx / x).amax(1, keepdim=True).clamp_min(1)

    return torch.minimum(inside(point.u, move.u), inside(point.s, move.s)), inside(point.r, move.r)
