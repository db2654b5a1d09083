"""Deterministic: what all interventions share in which nothing is random and nothing left open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pid_lens.interventions.moments import Moments


class Deterministic:
    """An intervention that is the same in every draw.

    Example:
        >>> Deterministic().draws
        1
    """

    @property
    def draws(self) -> int | None:
        """Nothing is random."""
        return 1

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Nothing is left open."""
        return self
