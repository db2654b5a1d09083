"""Interventions: the extension points; anything with the methods of one plugs in.

Nothing is registered. The ``repr`` must say the settings: it is how reads and results tell what
they depend on. Frozen dataclasses do that by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Bool, Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions.moments import Moments


@runtime_checkable
class Intervention(Protocol):
    """What is hidden from the model: an `EmbeddingIntervention` or `AttentionIntervention`."""

    @property
    def draws(self) -> int | None:
        """How many independent draws to average over; 1 for a deterministic intervention."""

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """The same intervention with whatever it left open filled in from its Lens."""


@runtime_checkable
class EmbeddingIntervention(Intervention, Protocol):
    """What is hidden at the decoder's input."""

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """The embeddings with something hidden; they are a copy and may be changed in place."""


@runtime_checkable
class AttentionIntervention(Intervention, Protocol):
    """What some tokens may not see of others, in some layers and heads."""

    @property
    def layers(self) -> Iterable[int] | None:
        """Numbers of layers, negative ones from the last; None for all."""

    @property
    def heads(self) -> Iterable[int] | None:
        """Numbers of query heads; None for all."""

    def ends(self, samples: Samples) -> tuple[Bool[Tensor, "n tokens"], Bool[Tensor, "n tokens"]]:
        """Which tokens may not see, and which they may not see."""
