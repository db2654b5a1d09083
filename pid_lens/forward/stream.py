"""Stream: what one pass of a model says at each layer, taken while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from pid_lens.forward.image_only_probe import is_image_only
from pid_lens.forward.layer_answers import answers_at, stack_layers
from pid_lens.forward.settings import settings_of_pass
from pid_lens.readouts import LogitLens
from pid_lens.reads import Reads
from pid_lens.records import settings_repr

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.model import Anatomy
    from pid_lens.readouts import Pooled, Readout

ONE = "full"
"""The name of a stream's only condition, until `Reads.join` gives it another."""


@dataclass(eq=False, kw_only=True)
class Stream:
    """One pass under one condition: of each layer the answer position alone is kept.

    Functions in a framework's own idiom fill it (`pid_lens.adapters`); when the pass is over,
    `reads` are what a `Lens` would have read of this condition, and `decompose` puts several
    together.

    Raises:
        TypeError: a readout that does not say its settings.
        ValueError: a state of the image alone, which one pass cannot prove to be that.
    """

    anatomy: Anatomy
    layers: tuple[int, ...]
    readout: Readout = field(default_factory=LogitLens)
    states: Sequence[Pooled] = ()
    samples: Samples | None = None
    answers: dict[int, Tensor] = field(default_factory=dict, repr=False)
    pooled: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        settings_repr(self.readout)
        if any(map(is_image_only, self.states)):
            raise ValueError(
                "one pass cannot prove that the image's last token does not see the text: read "
                "Pooled('image', token='last') with a pid_lens.Lens, whose first pass does"
            )

    def begin(self, samples: Samples) -> None:
        """A pass over these samples starts; an earlier one is forgotten."""
        self.samples = samples
        self.answers.clear()
        self.pooled.clear()

    @torch.no_grad()
    def take(self, layer: int, states: Float[Tensor, "n tokens width"]) -> None:
        """The answer at one layer."""
        assert self.samples is not None
        self.answers[layer] = answers_at(states, self.samples, self.readout, self.anatomy, layer)
        for one in self.states:
            self.pooled[layer, one.name] = one(states, self.samples.spans)

    @property
    def reads(self) -> Reads:
        """What was read, on the CPU.

        Raises:
            ValueError: no pass ran, or it came to an end before all layers did.
        """
        missing = [layer for layer in self.layers if layer not in self.answers]
        if self.samples is None or missing:
            raise ValueError(
                f"layers {missing or list(self.layers)} were not read: ask for a readout before "
                "these layers run, and for its reads when the pass is over"
            )
        return Reads(
            ids=self.samples.ids,
            contents=self.samples.contents,
            conditions=(ONE,),
            layers=self.layers,
            log_probs=stack_layers([self.answers[layer] for layer in self.layers])[:, None],
            options=self.samples.options,
            labels=self.samples.labels,
            states={
                one.name: stack_layers([self.pooled[layer, one.name] for layer in self.layers])
                for one in self.states
            },
            settings=settings_of_pass(self.anatomy, self.readout).record(),
        ).cpu()
