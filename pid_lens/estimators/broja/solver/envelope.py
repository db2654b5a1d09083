"""Envelope theorem: the gradient of the union information in the masses."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.broja.solver.solution import Solution


class _Optimum(torch.autograd.Function):
    """Identity on a solved optimum, whose derivative in the masses are the dual potentials."""

    @staticmethod
    def forward(ctx: Any, p1: Tensor, p2: Tensor, value: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return the optimum unchanged."""
        ctx.save_for_backward(p1, a, b)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the vector-Jacobian product: dual potentials times the incoming gradient."""
        # dI_Q / dp1 = a + dH(Y) / dp1 with H = -sum p log p;  dI_Q / dp2 = b
        p1, a, b = ctx.saved_tensors
        slope = slopes[0][:, None, None]
        prior = -(p1.sum(1, keepdim=True).log() + 1)
        return slope * _zero_infinite(a + prior), slope * _zero_infinite(b), None, None, None


def attach_gradient(
    p1: Float64[Tensor, "batch n1 answers"],
    p2: Float64[Tensor, "batch n2 answers"],
    solution: Solution,
) -> Float64[Tensor, " batch"]:
    """Attach the gradient of the envelope theorem to I_Q (the middle of its interval, nats).

    Pointwise values (`posterior_pointwise`) average to the lower end of the interval instead.

    dI_Q / dp1 = a - log p(y) - 1 and dI_Q / dp2 = b, along changes that keep both tables'
    answer marginals equal. Where a unique atom is 0 the dual is not unique and this is one of
    the subgradients.

    Source:
        Envelope theorems for arbitrary choice sets (Milgrom, Segal, 2002),
        https://doi.org/10.1111/1468-0262.00296
    """
    middle = (solution.lower + solution.upper) / 2
    duals = solution.dual_vision, solution.dual_language
    return _Optimum.apply(p1, p2, middle, *duals)


def _zero_infinite(slope: Tensor) -> Tensor:
    """Replace infinite slopes by 0: those of masses of 0, whose potential is -inf."""
    return slope.where(slope.isfinite(), 0.0)
