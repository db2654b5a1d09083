"""Conditions: what is hidden in each of the passes that a decomposition needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pid_lens.interventions import Noise
from pid_lens.protocols import Intervention, said_by_settings

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.samples import Samples

CONDITIONS: Mapping[str, tuple[Intervention, ...]] = {
    "full": (),
    "vision": (Noise("question"),),
    "language": (Noise("image"),),
}
"""What each default condition hides: what is left gives it its name."""


def listed(conditions: Mapping[str, Any]) -> dict[str, tuple[Intervention, ...]]:
    """Conditions by name, each with a tuple of interventions.

    Raises:
        TypeError: a condition is no list of interventions.
        ValueError: there is no condition.
    """
    if not conditions:
        raise ValueError("a Lens needs at least one condition; {'full': []} hides nothing")
    for name, hidden in conditions.items():
        sound = isinstance(hidden, list | tuple)
        if not sound or not all(isinstance(i, Intervention) for i in hidden):
            raise TypeError(
                f"condition {name!r} must be a list of interventions, [] for none; got {hidden!r}"
            )
        for intervention in hidden:
            said_by_settings(intervention)
    return {str(name): tuple(hidden) for name, hidden in conditions.items()}


@dataclass(frozen=True)
class Variation:
    """One copy of a batch in a forward pass: a condition, and a draw of its noise."""

    condition: str
    draw: int
    interventions: tuple[Intervention, ...] = ()

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples
    ) -> Float[Tensor, "n tokens width"]:
        """The embeddings with everything hidden that this condition hides.

        Interventions work on a copy: what other conditions and the caller see stays as it is.

        Raises:
            ValueError: an intervention returned embeddings of another shape.
        """
        edited = embeddings.clone() if self.interventions else embeddings
        for intervention in self.interventions:
            edited = intervention.edit(edited, samples, self.draw)
            if edited.shape != embeddings.shape:
                raise ValueError(
                    f"{intervention!r} must return embeddings of shape {list(embeddings.shape)}; "
                    f"it returned {list(edited.shape)}"
                )
        return edited


def variations(conditions: Mapping[str, tuple[Intervention, ...]]) -> tuple[Variation, ...]:
    """Every condition and draw, an untouched one first: its rows are the caller's.

    Raises:
        ValueError: interventions of one condition with different numbers of draws.

    Example:
        >>> [v.condition for v in variations({"blind": (Noise("image", draws=2),), "full": ()})]
        ['full', 'blind', 'blind']
    """
    every = [
        Variation(name, draw, hidden)
        for name, hidden in conditions.items()
        for draw in range(draws_of(name, hidden))
    ]
    plain = next((v for v in every if not v.interventions), Variation("", 0))
    return (plain, *(v for v in every if v is not plain))


def draws_of(name: str, hidden: tuple[Intervention, ...]) -> int:
    """How often a condition is drawn: what all its random interventions ask for."""
    counts = {i.draws or 1 for i in hidden} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"condition {name!r} has interventions of {sorted(counts)} draws: give them the same "
            "number, so that each draw counts alike"
        )
    return max(counts, default=1)
