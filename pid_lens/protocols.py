"""The three extension points. Anything with these methods plugs in; nothing is registered.

Their ``repr`` must say their settings: it is how reads and results tell what they depend on.
Frozen dataclasses do that by themselves.

Data flow: an `Intervention` edits what the decoder is given or whom its tokens see, a `Readout`
turns a layer's state into an answer, an `Estimator` turns many answers into information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from pid_lens.anatomy import Anatomy
    from pid_lens.curves import Curve
    from pid_lens.moments import Moments
    from pid_lens.reads import Reads
    from pid_lens.samples import Samples
    from pid_lens.spectra import Spectrum


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


@runtime_checkable
class Readout(Protocol):
    """From the state at the answer position to the log-probability of each option."""

    def __call__(
        self,
        state: Float[Tensor, "n width"],
        options: Int[Tensor, "n answers"],
        anatomy: Anatomy,
        layer: int,
    ) -> Float[Tensor, "n answers"]:
        """Full-vocabulary log-probabilities of the options, -inf where an option is absent."""


@runtime_checkable
class Estimator(Protocol):
    """Running statistics over Reads: mutable while it is fed, frozen as a result."""

    def update(self, reads: Reads) -> Self:
        """Takes in more reads; a sample that came before is replaced."""

    def merge(self, other: Self) -> Self:
        """Takes in what another estimator of the same settings has seen."""

    def result(self) -> Spectrum | Curve:
        """The spectrum of everything seen, or its curve; ValueError if that is nothing."""


def said_by_settings(plugged_in: Any) -> str:
    """The repr of something plugged in, which must say its settings.

    Raises:
        TypeError: it is a class, or its repr is an address in memory, which tells nothing about
            it and is another one in every run.
    """
    said = repr(plugged_in)
    if isinstance(plugged_in, type) or " at 0x" in said:
        raise TypeError(
            f"{said} must be an instance whose repr says its settings, so that reads tell what "
            "they depend on: make it a frozen dataclass, or give it a __repr__"
        )
    return said
