"""The basis in which a layer's translator is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pid_lens.readouts.tuned_lens import Translator

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

NARROW_BASIS = 1e-2
"""A dimension counts as at least this wide, in shares of the typical one."""


@dataclass(frozen=True, eq=False)
class TrainingBasis:
    """A layer's own scale, in which every dimension is about as wide as any other."""

    mean: Float[Tensor, " width"]
    width: Float[Tensor, " width"]
    """Deviation of each dimension, none far below the typical one."""
    typical: Float[Tensor, ""]

    @classmethod
    def of(cls, states: Float[Tensor, "n width"]) -> TrainingBasis:
        """The basis of some states."""
        spread, mean = torch.std_mean(states.float(), 0, correction=0)
        typical = spread.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return cls(mean, spread.maximum(NARROW_BASIS * typical), typical)

    def zeros(self) -> tuple[Tensor, Tensor]:
        """Weights of the identity, to be trained."""
        size = len(self.mean)
        device = self.mean.device
        return (
            torch.zeros(size, size, device=device, requires_grad=True),
            torch.zeros(size, device=device, requires_grad=True),
        )

    def translator(
        self, matrix: Float[Tensor, "width width"], bias: Float[Tensor, " width"]
    ) -> Translator:
        """The weights of this basis as those of plain states."""
        plain = self.typical * matrix / self.width
        return Translator(plain, self.typical * bias - plain @ self.mean)
