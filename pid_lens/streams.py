"""Streams: what one pass of a model says at each layer, taken while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.image_only import is_image_only
from pid_lens.protocols import said_by_settings
from pid_lens.readouts import LogitLens
from pid_lens.reads import Reads

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.anatomy import Anatomy
    from pid_lens.protocols import Readout
    from pid_lens.readouts import Pooled
    from pid_lens.samples import Samples

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
        said_by_settings(self.readout)
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
            log_probs=stacked([self.answers[layer] for layer in self.layers])[:, None],
            options=self.samples.options,
            labels=self.samples.labels,
            states={
                one.name: stacked([self.pooled[layer, one.name] for layer in self.layers])
                for one in self.states
            },
            settings={
                "model": self.anatomy.fingerprint(),
                "readout": said_by_settings(self.readout),
                "last step": [self.anatomy.scale, self.anatomy.softcap],
            },
        ).cpu()


def answers_at(
    states: Float[Tensor, "rows tokens width"],
    samples: Samples,
    readout: Readout,
    anatomy: Anatomy,
    layer: int,
) -> Float[Tensor, "rows answers"]:
    """What a readout makes of a layer's states at the answer position.

    Rows are the samples, or several blocks of them, one behind the other.

    Raises:
        ValueError: the readout returns another shape.
    """
    times = len(states) // samples.n
    rows = torch.arange(len(states), device=states.device)
    at = samples.spans.positions("answer").repeat(times).to(states.device)
    options = samples.options.repeat(times, 1).to(states.device)
    answers = readout(states[rows, at], options, anatomy, layer)
    if answers.shape != options.shape:
        raise ValueError(
            f"{readout!r} must return one number an option, {list(options.shape)}; it returned "
            f"{list(answers.shape)}"
        )
    return answers


def stacked(layers: Sequence[Tensor]) -> Tensor:
    """Layers as one tensor; a model may lie on several devices."""
    return torch.stack([layer.to(layers[0].device) for layer in layers])


def layer_states(output: Any) -> Tensor:
    """The residual stream in a layer's output."""
    return output[0] if isinstance(output, tuple) else output


def chosen_layers(layers: Iterable[int] | int | None, count: int) -> tuple[int, ...]:
    """Numbers of layers in order, negative ones counted from the last; all for None.

    Raises:
        TypeError: layers that are no numbers.
        ValueError: a layer that is not there.

    Example:
        >>> chosen_layers([-1, 0], count=6)
        (0, 5)
    """
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of layer numbers; got {layers!r}")
    if layers is None:
        return tuple(range(count))
    asked = [layers] if isinstance(layers, int) else list(layers)
    chosen = sorted({i + count if i < 0 else i for i in asked})
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise ValueError(f"layers must lie in 0..{count - 1}; got {asked}")
    return tuple(chosen)
