"""Stream: readouts of one forward pass, layer by layer, taken while it runs."""

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
    """Readouts of one forward pass under one condition, filled layer by layer.

    nnsight traces and TransformerLens hooks fill it (`pid_lens.adapters`); of each residual
    stream only the answer position is kept. After the pass `reads` are those that a `Lens` would
    have of this condition, and `decompose` takes the streams of several conditions.

    Attributes:
        anatomy: the model's parts.
        layers: numbers of the layers to read.
        readout: from a hidden state to log-probabilities of the options.
        states: pooled hidden states to keep along with the answers.
        samples: the n samples of the pass; None before `begin`.
        answers: layer -> log-probabilities of the options, [n, answers].
        pooled: layer and name -> pooled hidden states, [n, width].

    Raises:
        TypeError: the repr of the readout does not say its settings.
        ValueError: ``states`` has an image-only state, which a single pass cannot prove to be so.

    Example:
        >>> import pid_lens, torch
        >>> from pid_lens.inputs import resolve_samples
        >>> model, processor = pid_lens.demo.load()
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> stream = Stream(anatomy=pid_lens.dissect(model), layers=(4,))
        >>> stream.begin(resolve_samples(batch, processor))
        >>> with torch.no_grad():  # entry 0 is the embeddings, the last is normed already
        ...     found = model(**batch.inputs, output_hidden_states=True).hidden_states
        >>> stream.take(4, found[5])
        >>> stream.reads.layers, stream.reads.accuracy()
        ((4,), 1.0)
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
                "one pass cannot prove that the image's last token is independent of the text: "
                "read Pooled('image', token='last') with a pid_lens.Lens, whose first pass does"
            )

    def begin(self, samples: Samples) -> None:
        """Begin a pass over these samples; the readouts of an earlier one are dropped."""
        self.samples = samples
        self.answers.clear()
        self.pooled.clear()

    @torch.no_grad()
    def take(self, layer: int, states: Float[Tensor, "n tokens width"]) -> None:
        """Apply the readout to the residual stream of one layer, and keep the answers."""
        assert self.samples is not None
        self.answers[layer] = answers_at(states, self.samples, self.readout, self.anatomy, layer)
        for one in self.states:
            self.pooled[layer, one.name] = one(states, self.samples.spans)

    @property
    def reads(self) -> Reads:
        """Reads of the pass, on the CPU.

        Raises:
            ValueError: no pass ran, or not all layers were taken.
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
