"""BatchAtoms: what BATCH comes to, and how far it is to be believed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.entropy import NATS_PER_BIT
from pid_lens.results import ATOMS, NATS, Atoms, Unit

ENOUGH = 0.9
"""Below this share of converged projections numbers are not to be relied on."""
MOST_VIOLATION = 0.05
"""Nor are they where marginals are off by more than this, summed over answers, a sample,"""
MOST_SHIFT = 0.1
"""or where the answers that are evaluated are this far from those trained on, bits."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BatchAtoms(Atoms):
    """Means over batches, scalars; ``gap`` is NaN, as nothing is certified."""

    batches: Atoms
    """Each evaluated batch, [batches]."""
    loss: Float64[Tensor, " epochs"]
    """Unique language in the last training batch of each epoch, which is what is minimised."""
    converged: float
    """Share of the evaluated projections that met both marginals; one an answer and batch."""
    converged_training: float
    """The same while training."""
    steps: float
    """Mean rounds a projection took, trained and evaluated."""
    violation: Float64[Tensor, "batches 4"]
    """Largest error of vision's marginal and the sum of its errors over n, the same of
    language's. Errors are of p(y|x), so that 1 is a row without any mass."""
    shift: float
    """How much too high the informations are because p(y) is the mean of other samples: the
    largest KL(mean of a batch's p(y|x1,x2) || p(y))."""
    evaluated_on: str
    """``"validation"`` rows, or the ``"training"`` rows themselves."""

    @property
    def clipped(self) -> dict[str, float]:
        """What the released script prints: max(0, atom). The four need not add up."""
        return {name: max(0.0, float(getattr(self, name))) for name in ATOMS}

    @property
    def worst_violation(self) -> float:
        """How far the worst marginal of the worst batch is off, summed over answers, a sample."""
        return float(self.violation[:, [1, 3]].max())

    @property
    def sound(self) -> bool:
        """Whether projections converged (nine in ten), marginals are met and answers familiar.

        No batch's marginals are off by .05, nor its answers .1 bits from those trained on.
        """
        met = self.converged >= ENOUGH and self.worst_violation <= MOST_VIOLATION
        return met and self.shift * NATS[self.unit] <= MOST_SHIFT * NATS_PER_BIT

    def to(self, unit: Unit) -> Self:
        """The same in another unit, ``"bits"`` or ``"nats"``.

        Raises:
            ValueError: an unknown unit.
        """
        whole, batches = super().to(unit), self.batches.to(unit)
        factor = NATS[self.unit] / NATS[unit]
        loss, shift = self.loss * factor, self.shift * factor
        return replace(whole, batches=batches, loss=loss, shift=shift)

    def __repr__(self) -> str:
        return (
            f"BatchAtoms({self._line(())} {self.unit}; {len(self.violation)} batches, "
            f"{self.converged:.0%} of projections converged)"
        )
