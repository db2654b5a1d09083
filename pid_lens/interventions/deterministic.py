"""Base class of deterministic interventions: one draw, and no setting left to the Lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pid_lens.interventions.moments import Moments


class Deterministic:
    """A deterministic intervention: the same in every draw. Add `edit` or `ends` (`protocol`).

    Example:
        >>> from pid_lens.interventions import Zero
        >>> zero = Zero("image")
        >>> isinstance(zero, Deterministic), zero.draws
        (True, 1)
        >>> zero.complete(moments=None, seed=0, draws=8) is zero
        True
    """

    @property
    def draws(self) -> int | None:
        """Number of draws: 1, for nothing is random."""
        return 1

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Return the intervention itself: no setting is left to the Lens."""
        return self
