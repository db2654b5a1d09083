"""Conditions: what is hidden in each of the passes that a decomposition needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pid_lens.interventions import Noise

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.batching import Samples
    from pid_lens.protocols import Intervention

CONDITIONS: Mapping[str, Iterable[Intervention]] = {
    "full": (),
    "vision": (Noise("question"),),
    "language": (Noise("image"),),
}
"""What each default condition hides: what is left gives it its name."""


@dataclass(frozen=True)
class Variation:
    """One copy of a batch in a forward pass: a condition, and a draw of its noise."""

    condition: str
    draw: int
    interventions: tuple[Intervention, ...] = ()

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples
    ) -> Float[Tensor, "n tokens width"]:
        """The embeddings with everything hidden that this condition hides."""
        for intervention in self.interventions:
            draw = self.draw % (intervention.draws or 1)
            embeddings = intervention.edit(embeddings, samples, draw)
        return embeddings


def variations(conditions: Mapping[str, tuple[Intervention, ...]]) -> tuple[Variation, ...]:
    """Every condition and draw, an untouched one first: its rows are the caller's.

    Example:
        >>> [v.condition for v in variations({"blind": (Noise("image", draws=2),), "full": ()})]
        ['full', 'blind', 'blind']
    """
    every = [
        Variation(name, draw, hidden)
        for name, hidden in conditions.items()
        for draw in range(max((i.draws or 1 for i in hidden), default=1))
    ]
    plain = next((v for v in every if not v.interventions), Variation("", 0))
    return (plain, *(v for v in every if v is not plain))
