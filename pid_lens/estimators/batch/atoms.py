"""BatchAtoms: the atoms of BATCH, with diagnostics of its projections."""

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
"""Nor where a marginal is off by more than this, summed over answers, per sample,"""
MOST_SHIFT = 0.1
"""or where evaluated answers are this far, by KL divergence in bits, from those trained on."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BatchAtoms(Atoms):
    """PID by BATCH: means over batches, scalars; ``gap`` is NaN, as nothing is certified.

    Attributes:
        batches: atoms of each evaluated batch, [batches].
        loss: unique language in the last training batch of each epoch, which is minimised,
            [epochs], in ``unit``.
        converged: share of the evaluated projections, one per answer and batch, that met both
            marginals.
        converged_training: the same while training.
        steps: mean rounds of Sinkhorn scaling in a projection, trained and evaluated.
        violation: largest error of vision's marginal and the sum of its errors over n, then the
            same of language's, [batches, 4]. Errors are of p(y|x), so that 1 is a row without
            any mass.
        shift: how much too high the informations are because p(y) is the mean of other samples:
            the largest KL(mean of a batch's p(y|x1,x2) || p(y)), in ``unit``.
        evaluated_on: ``"validation"`` rows, or the ``"training"`` rows themselves.

    Example:
        >>> import torch
        >>> from pid_lens.estimators import batch_pid
        >>> x1, x2 = torch.arange(64) // 32, torch.arange(64) // 16 % 2
        >>> bit, coin = torch.eye(2), torch.full((64, 2), 0.5)
        >>> xor = (bit[x1], bit[x2], coin, coin, bit[x1 ^ x2])
        >>> found = batch_pid(xor, epochs=1, progress=False)
        >>> {name: round(atom, 1) for name, atom in found.clipped.items()}
        {'redundancy': 0.0, 'unique_vision': 0.0, 'unique_language': 0.0, 'synergy': 1.0}
        >>> found.sound, found.evaluated_on, found.converged
        (True, 'training', 1.0)
    """

    batches: Atoms
    loss: Float64[Tensor, " epochs"]
    converged: float
    converged_training: float
    steps: float
    violation: Float64[Tensor, "batches 4"]
    shift: float
    evaluated_on: str

    @property
    def clipped(self) -> dict[str, float]:
        """Atoms as the released script prints them: max(0, atom). The four need not add up."""
        return {name: max(0.0, float(getattr(self, name))) for name in ATOMS}

    @property
    def worst_violation(self) -> float:
        """Error of the worst marginal of the worst batch, summed over answers, per sample."""
        return float(self.violation[:, [1, 3]].max())

    @property
    def sound(self) -> bool:
        """Whether projections converged (nine in ten), marginals are met and priors agree.

        No batch's marginals are off by .05, nor its answers .1 bits from those trained on.
        """
        met = self.converged >= ENOUGH and self.worst_violation <= MOST_VIOLATION
        return met and self.shift * NATS[self.unit] <= MOST_SHIFT * NATS_PER_BIT

    def to(self, unit: Unit) -> Self:
        """Convert to another unit, ``"bits"`` or ``"nats"``.

        Raises:
            ValueError: an unknown unit.
        """
        # Atoms of the batches, losses and shift have the unit, too
        whole, batches = super().to(unit), self.batches.to(unit)
        factor = NATS[self.unit] / NATS[unit]
        loss, shift = self.loss * factor, self.shift * factor
        return replace(whole, batches=batches, loss=loss, shift=shift)

    def __repr__(self) -> str:
        return (
            f"BatchAtoms({self._line(())} {self.unit}; {len(self.violation)} batches, "
            f"{self.converged:.0%} of projections converged)"
        )
