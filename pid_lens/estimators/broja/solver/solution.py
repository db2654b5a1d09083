"""What a solver hands back: an interval, and the pair of objects that prove it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64, Int64
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The union information I_Q of a batch of problems, with its proof. Nats.

    The problem and its dual, with p1 = p(x1, y), p2 = p(x2, y) and H the entropy of Y::

        I_Q = H + min over q of  sum q log(q / sum_y q)   q has the marginals p1 and p2
            = H + max over a, b of  <a, p1> + <b, p2>     sum_y exp(a(x1,y) + b(x2,y)) <= 1

    Any coupling bounds I_Q from above and any feasible pair from below. With two answers the
    upper end is a closed form, so a theorem takes the coupling's place; otherwise nothing about
    the solver has to be believed. The pair is also the derivative of I_Q - H in p1 and p2.
    """

    lower: Float64[Tensor, " batch"]
    """The best proven lower bound of I_Q."""
    upper: Float64[Tensor, " batch"]
    """The best proven upper bound of I_Q."""
    dual_vision: Float64[Tensor, "batch n1 answers"]
    """a, feasible together with b; may be -inf where p1 is 0."""
    dual_language: Float64[Tensor, "batch n2 answers"]
    """b; may be -inf where p2 is 0."""
    coupling: Float64[Tensor, "batch n1 n2 answers"] | None
    """The q behind ``upper``; None where that needs none (two answers) or it is n x n (rows)."""
    iterations: Int64[Tensor, " batch"]
    """Steps taken, of scaling and of Newton."""

    @property
    def gap(self) -> Float64[Tensor, " batch"]:
        """Width of the interval; rounding can leave it a few 1e-16 below 0, which reads 0."""
        return (self.upper - self.lower).clamp_min(0)
