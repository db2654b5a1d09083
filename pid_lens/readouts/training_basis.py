"""Training basis of a tuned lens: a layer's residual stream centred and scaled per dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pid_lens.readouts.tuned_lens import Translator

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

NARROW_BASIS = 1e-2
"""Least deviation that a dimension is divided by, in shares of the typical one."""


@dataclass(frozen=True, eq=False)
class TrainingBasis:
    """Mean and deviation of a layer's residual stream, by which its dimensions are standardised.

    ::

        z = (h - mean) / width
        h + A h + b = h + typical (M z + c)

    M and c are trained, with dimensions of about the same scale, and turned into A and b.

    Attributes:
        mean: mean of each dimension, [width].
        width: deviation of each dimension, at least `NARROW_BASIS` times the typical one, [width].
        typical: root mean square of the deviations, the scale of what a translator adds.
    """

    mean: Float[Tensor, " width"]
    width: Float[Tensor, " width"]
    typical: Float[Tensor, ""]

    @classmethod
    def of(cls, states: Float[Tensor, "n width"]) -> TrainingBasis:
        """Measure the basis on hidden states of a layer."""
        # Population deviation; dimensions that hardly vary are not blown up
        spread, mean = torch.std_mean(states.float(), 0, correction=0)
        typical = spread.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return cls(mean, spread.maximum(NARROW_BASIS * typical), typical)

    def zeros(self) -> tuple[Tensor, Tensor]:
        """Make M = 0 and c = 0, the weights of the identity, to be trained."""
        size = len(self.mean)
        device = self.mean.device
        return (
            torch.zeros(size, size, device=device, requires_grad=True),
            torch.zeros(size, device=device, requires_grad=True),
        )

    def translator(
        self, matrix: Float[Tensor, "width width"], bias: Float[Tensor, " width"]
    ) -> Translator:
        """Convert weights M and c of this basis into A and b on plain hidden states."""
        # typical (M (h - mean) / width + c) = A h + b
        plain = self.typical * matrix / self.width
        return Translator(plain, self.typical * bias - plain @ self.mean)
