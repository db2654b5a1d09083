"""Solution for the union information: certified interval, primal coupling, dual potentials."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64, Int64
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The union information I_Q of a batch of problems, with its certificate. Nats.

    The primal and the dual problem, with p1 = p(x1, y), p2 = p(x2, y) and H the entropy of Y::

        I_Q = H + min over q of  sum q log(q / sum_y q)   q has the marginals p1 and p2
            = H + max over a, b of  <a, p1> + <b, p2>     sum_y exp(a(x1,y) + b(x2,y)) <= 1

    By weak duality any coupling bounds I_Q from above and any feasible pair of potentials from
    below, so the interval holds however the solver found them. With two answers the upper end is
    a closed form, a theorem in place of a coupling. By the envelope theorem (a, b) is also the
    derivative of I_Q - H in p1 and p2.

    Attributes:
        lower: best proven lower bound of I_Q.
        upper: best proven upper bound of I_Q.
        dual_vision: potentials a, feasible together with b; may be -inf where p1 is 0.
        dual_language: potentials b; may be -inf where p2 is 0.
        coupling: the q that proves ``upper``; None where that needs none (two answers) or it is
            n x n (rows).
        iterations: number of steps, of scaling and of Newton.
    """

    lower: Float64[Tensor, " batch"]
    upper: Float64[Tensor, " batch"]
    dual_vision: Float64[Tensor, "batch n1 answers"]
    dual_language: Float64[Tensor, "batch n2 answers"]
    coupling: Float64[Tensor, "batch n1 n2 answers"] | None
    iterations: Int64[Tensor, " batch"]

    @property
    def gap(self) -> Float64[Tensor, " batch"]:
        """Duality gap: width of the interval; a few 1e-16 below 0, from rounding, become 0."""
        return (self.upper - self.lower).clamp_min(0)
