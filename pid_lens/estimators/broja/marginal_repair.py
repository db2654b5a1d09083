"""Marginal repair: raking of posteriors, or exponential tilting of sample weights.

One model's answers under full, vision and language rarely have the same mean distribution, which
the decomposition needs: a joint distribution has one marginal of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

_FEASIBLE = 1e-6
"""Largest balance residual of weights that exist."""
_AGREEING = 1e-3
"""Difference of answer marginals that may remain."""
_ROUNDING = 1e-8
"""Difference of answer marginals that needs no balancing."""
_FLAT = 1e-14
"""Gradient at which Newton's method has converged."""
_RANK = 1e-10
"""Relative cutoff of the pseudo-inverse."""
_STEPS = 100
_LONGEST_STEP = 10.0
"""Bound on a Newton step along each eigenvector of the Hessian."""
_Potential = Callable[[Tensor], Tensor]
_Derivatives = Callable[[Tensor], tuple[Tensor, Tensor]]


def rake(
    log_p: Float64[Tensor, "layers n answers"],
    target: Float64[Tensor, "layers answers"],
    weights: Float64[Tensor, "layers n"],
) -> tuple[Float64[Tensor, "layers n answers"], Float64[Tensor, " layers"]]:
    r"""Rake posteriors: one factor per answer, so that their weighted mean is the target.

    Raking (iterative proportional fitting) finds the q nearest to p in KL divergence that has
    given marginals. Here q_i(y) is p_i(y) exp(theta_y), normalised in each row, and theta
    minimises the convex dual ::

        sum_i w_i log sum_y p_i(y) exp(theta_y)   -   sum_y target(y) theta_y

    whose gradient is sum_i w_i q_i - target, by Newton steps with backtracking. theta is a bias
    on the answers' logits. The full predictor does not change. With positive posteriors and a
    positive target there is always one solution; otherwise the residual shows whether there is.
    An answer of target 0 gets the factor 0.

    Source:
        On a least squares adjustment of a sampled frequency table when the expected marginal
        totals are known (Deming, Stephan, 1940), https://doi.org/10.1214/aoms/1177731829

    Args:
        log_p: log-posteriors, each row normalised.
        target: the answer marginal to reach, each row summing to 1.
        weights: of the samples, summing to 1 in each layer.

    Returns:
        The corrected posteriors (probabilities) and the largest |mean - target| left in
        each layer.

    Example:
        >>> p = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]], dtype=torch.float64)
        >>> half = torch.full((1, 2), 0.5, dtype=torch.float64)
        >>> q, residual = rake(p.log(), target=half, weights=half)
        >>> q.mean(1)
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    log_p = log_p.where((target > 0)[:, None], -torch.inf)

    # Dual objective: mean log-partition function minus <theta, target>
    def potential(theta: Tensor) -> Tensor:
        bias = torch.logsumexp(log_p + theta[:, None], -1)
        return (weights * bias).sum(1) - (theta * target).sum(-1)

    # Gradient mean q - target; Hessian diag(mean q) - sum_i w_i q_i q_i^T
    def slope_and_curvature(theta: Tensor) -> tuple[Tensor, Tensor]:
        q = _posterior(log_p + theta[:, None])
        mass = weights[..., None] * q
        mean = mass.sum(1)
        return mean - target, torch.diag_embed(mean) - mass.mT @ q

    with torch.no_grad():
        theta = _minimise(potential, slope_and_curvature, torch.zeros_like(target))
    # Implicit function theorem: d theta = -H^+ d gradient
    if log_p.requires_grad or target.requires_grad:
        theta = theta - _implicit_step(*slope_and_curvature(theta))
    q = _posterior(log_p + theta[:, None])
    return q, ((weights[..., None] * q).sum(1) - target).abs().amax(-1)


def _implicit_step(slope: Tensor, curvature: Tensor) -> Float64[Tensor, "layers answers"]:
    """Compute a Newton step, 0 at the solution, whose derivative is that of -theta in the data.

    Implicit function theorem: the Hessian is held constant.
    """
    inverse = torch.linalg.pinv(curvature.detach(), hermitian=True, rtol=_RANK)
    return (inverse @ slope[..., None])[..., 0]


@dataclass(frozen=True)
class Tilt:
    """Sample weights under which the answer marginals agree.

    Attributes:
        weights: non-negative, summing to 1.
        residual: largest difference of the weighted answer marginals that is left.
        ess: effective sample size over n, 1 / (n sum w^2), in (0, 1].
        feasible: whether weights were found that leave at most 1e-3; never use the weights where
            this is False.
    """

    weights: Float64[Tensor, "layers n"]
    residual: Float64[Tensor, " layers"]
    ess: Float64[Tensor, " layers"]
    feasible: Bool[Tensor, " layers"]


def tilt(
    full: Float64[Tensor, "layers n answers"],
    vision: Float64[Tensor, "layers n answers"],
    language: Float64[Tensor, "layers n answers"],
) -> Tilt:
    r"""Compute the exponential tilting of sample weights that makes three answer marginals agree.

    Entropy balancing: the weights nearest to uniform in KL divergence. With the moments
    g_i = (vision_i - full_i, language_i - full_i), the last answer left out, the weights of
    largest entropy with sum_i w_i g_i = 0 are w_i ~ exp(g_i lambda), where lambda minimises
    log sum_i exp(g_i lambda): Newton steps with backtracking. No posterior changes, the
    population does. If 0 lies outside the convex hull of the g_i there are no such
    weights, lambda diverges, and residual, ``feasible`` and ess show it.

    Two saturated predictors may differ by 1e-5 in one direction for every sample, which no
    weights can undo and which does no harm: where there are no weights, a predictor whose
    marginal agrees to 1e-3 unweighted is left as it is, and only the other one is balanced. The
    difference that remains is ``residual``, at most 1e-3 where ``feasible``.

    Source:
        Entropy balancing for causal effects (Hainmueller, 2012),
        https://doi.org/10.1093/pan/mpr025

    Args:
        full: posteriors of the full predictor, probabilities.
        vision: posteriors given vision.
        language: posteriors given language.

    Returns:
        A ``Tilt``, one set of weights per layer.

    Example:
        >>> full = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]], dtype=torch.float64)
        >>> vision = torch.tensor([[[0.7, 0.3], [0.4, 0.6]]], dtype=torch.float64)
        >>> tilt(full, vision, full).weights
        tensor([[0.3333, 0.6667]], dtype=torch.float64)
    """
    # Balance both predictors; where that fails, only those that are off by more than 1e-3
    differences = [p - full for p in (vision, language)]
    w, left = _balance(_differences_beyond(differences, _ROUNDING))
    again, rest = _balance(_differences_beyond(differences, _AGREEING))
    short = left >= _FEASIBLE
    w, left = torch.where(short[:, None], again, w), torch.where(short, rest, left)
    means = [(w[..., None] * difference).sum(1) for difference in differences]
    residual = torch.cat(means, -1).abs().amax(-1)
    feasible = (left < _FEASIBLE) & (residual <= _AGREEING)
    return Tilt(w, residual, 1 / (w.shape[1] * (w**2).sum(1)), feasible)


def _differences_beyond(
    differences: list[Tensor], least: float
) -> Float64[Tensor, "layers n free"]:
    """Collect the moments g of predictors whose mean is off by more than ``least``; 0 elsewhere.

    The last answer is left out: differences sum to 0 over answers.
    """
    off = [d.mean(1, keepdim=True).abs().amax(-1, keepdim=True) > least for d in differences]
    kept = [d.where(far, 0.0) for d, far in zip(differences, off, strict=True)]
    return torch.cat([d[..., : max(1, d.shape[-1] - 1)] for d in kept], -1)


def _balance(g: Float64[Tensor, "layers n differences"]) -> tuple[Tensor, Tensor]:
    """Find the weights of largest entropy with sum_i w_i g_i = 0, and the largest mean left."""
    # Unit scale of g, so that steps in theta are of order 1
    scale = (g**2).mean((1, 2), keepdim=True).sqrt().clamp_min(1e-300)
    g = g / scale

    # Dual objective: the cumulant generating function log sum_i exp(g_i theta)
    def potential(theta: Tensor) -> Tensor:
        return torch.logsumexp((g @ theta[..., None])[..., 0], -1)

    # Gradient and Hessian: mean and covariance of g under the tilted weights
    def slope_and_curvature(theta: Tensor) -> tuple[Tensor, Tensor]:
        w = torch.softmax(g @ theta[..., None], 1)
        mean = (w * g).sum(1)
        centred = g - mean[:, None]
        return mean, (w * centred).mT @ centred

    theta = _minimise(potential, slope_and_curvature, torch.zeros_like(g[:, 0]))
    w = torch.softmax((g @ theta[..., None])[..., 0], 1)
    return w, ((w[..., None] * g).sum(1) * scale[:, 0]).abs().amax(-1)


def _posterior(logits: Tensor) -> Tensor:
    """Compute the softmax over answers; a row that is -inf throughout becomes 0."""
    top = logits.amax(-1, keepdim=True)
    e = (logits - top.where(top > -torch.inf, 0.0)).exp()
    return e / e.sum(-1, keepdim=True).clamp_min(1e-300)


def _minimise(
    potential: _Potential, slope_and_curvature: _Derivatives, theta: Tensor
) -> Float64[Tensor, "layers parameters"]:
    """Minimise a batch of smooth convex functions by damped Newton, each with its own step.

    The iterate of least gradient is returned. A minimum at infinity is approached by bounded
    steps; the gradient that remains shows that there is none.
    """
    best, least = theta, torch.full_like(theta[:, 0], torch.inf)
    for _ in range(_STEPS):
        slope, curvature = slope_and_curvature(theta)
        size = slope.abs().amax(-1)
        best = torch.where((size < least)[:, None], theta, best)
        least = torch.minimum(size, least)
        if bool((size < _FLAT).all()):
            break
        move = _newton_move(slope, curvature)
        theta = theta + _backtrack(potential, theta, move, slope)[:, None] * move
    return best


def _newton_move(slope: Tensor, curvature: Tensor) -> Tensor:
    """Compute the Newton step -H^-1 g, bounded along each eigenvector of the Hessian by itself.

    A flat direction, of rounding or leading to infinity, then shortens no other.
    """
    values, vectors = torch.linalg.eigh(curvature)
    along = (vectors.mT @ slope[..., None])[..., 0]
    move = (along / values.clamp_min(1e-300)).clamp(-_LONGEST_STEP, _LONGEST_STEP)
    return -(vectors @ move[..., None])[..., 0]


def _backtrack(potential: _Potential, theta: Tensor, move: Tensor, slope: Tensor) -> Tensor:
    """Backtrack: halve each step until it satisfies Armijo's condition of sufficient decrease."""
    start, promise = potential(theta), (slope * move).sum(-1)
    rounding = 1e-13 * (1 + start.abs())
    length = torch.ones_like(start)
    for _ in range(30):
        least = start + 1e-4 * length * promise + rounding
        short = potential(theta + length[:, None] * move) > least
        if not bool(short.any()):
            break
        length = torch.where(short, length / 2, length)
    return length
