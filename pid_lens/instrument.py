"""Instrument: the hooks of one forward pass, from the model's input to its reads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange

from pid_lens.batching import Batch, Samples, recognise
from pid_lens.forking import cached_tokens, keep_rows, repeat_rows
from pid_lens.hooks import hooked, named_arguments
from pid_lens.readouts import Pooled
from pid_lens.reads import Reads

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from pid_lens.anatomy import Anatomy
    from pid_lens.conditions import Variation
    from pid_lens.protocols import Readout


@dataclass(frozen=True, eq=False, kw_only=True)
class Instrument:
    """What to read of a model, and how: four kinds of hooks, in the order in which they fire.

    `see` (before the model) recognises the samples; `fork` (before the decoder) repeats the rows
    and hides what each variation hides; `read` (after each layer) takes the answer; `join`
    (after the decoder) hands the reads on and gives the caller the rows that were asked for.
    """

    anatomy: Anatomy
    processor: Any
    readout: Readout
    layers: tuple[int, ...]
    options: Int[Tensor, "1 answers"] | None
    states: tuple[Pooled, ...]
    conditions: tuple[str, ...]
    settings: dict[str, Any]

    @contextmanager
    def attached(
        self, variations: tuple[Variation, ...], given: Batch, sink: Callable[[Reads], None]
    ) -> Iterator[None]:
        """Hooks the model for a block: every forward pass in it ends in one call of ``sink``."""
        if self.anatomy.model.training:
            warnings.warn(
                "the model is in training mode, so dropout may make conditions differ: call "
                "model.eval()",
                stacklevel=4,
            )
        recording = _Recording(self, variations, given, sink)
        layers = [(self.anatomy.layers[at], recording.reader(at)) for at in self.layers]
        with hooked(
            before=[(self.anatomy.model, recording.see), (self.anatomy.decoder, recording.fork)],
            after=[*layers, (self.anatomy.decoder, recording.join)],
        ):
            yield


@dataclass
class _Recording:
    """The state between the hooks."""

    how: Instrument
    variations: tuple[Variation, ...]
    given: Batch
    sink: Callable[[Reads], None]
    samples: Samples | None = None
    answers: dict[int, Tensor] = field(default_factory=dict)
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the model: which samples are these?"""
        arguments = named_arguments(module, args, kwargs)
        if cached_tokens(arguments):
            raise ValueError(
                f"a KV cache that holds {cached_tokens(arguments)} tokens came in: a Lens reads "
                "prompts whole, so `generate` and chats that go on cannot run inside it. Call "
                "model(**inputs) on the whole prompt inside the lens, and generate outside"
            )
        if arguments.get("input_ids") is None:
            raise ValueError("a Lens needs input_ids in the model's call to find the image's span")
        self.samples = recognise(
            replace(self.given, inputs=arguments),
            self.how.processor,
            self.how.anatomy.image_token,
            self.how.options,
        )
        if not self.samples.options.numel():
            raise ValueError("no options: Lens(..., choices=('A', 'B')), or lens(options=...)")
        self.answers, self.states = {}, {}

    def fork(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before the decoder: repeats the rows and hides what each variation hides."""
        samples, times = self._seen(), len(self.variations)
        if times == 1 and not self.variations[0].interventions:
            return None
        arguments = named_arguments(module, args, kwargs)
        embeddings = arguments["inputs_embeds"]
        if embeddings.shape[:2] != samples.spans.shape:
            raise ValueError(
                f"the decoder was given [n, tokens] = {list(embeddings.shape[:2])} for an input "
                f"of {list(samples.spans.shape)}: this model widens its prompt, which a Lens "
                "cannot follow"
            )
        if times > 1 and arguments.get("past_key_values") is None:
            arguments.setdefault("use_cache", False)
        arguments = repeat_rows(arguments, len(embeddings), times)
        edited = [variation.edit(embeddings, samples) for variation in self.variations]
        arguments["inputs_embeds"] = torch.cat(edited)
        return (), arguments

    def reader(self, layer: int) -> Callable[..., None]:
        """After a layer: its answer, at the answer position alone."""

        @torch.no_grad()
        def read(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            samples, times = self._seen(), len(self.variations)
            states = output[0] if isinstance(output, tuple) else output
            rows = torch.arange(len(states), device=states.device)
            at = samples.spans.positions("answer").repeat(times).to(states.device)
            options = samples.options.repeat(times, 1).to(states.device)
            answers = self.how.readout(states[rows, at], options, self.how.anatomy, layer)
            self.answers[layer] = rearrange(answers, "(v n) answers -> v n answers", v=times)
            for pooled in self.how.states:
                self.states[layer, pooled.span] = pooled(states[: samples.n], samples.spans)

        return read

    def join(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """After the decoder: hands on what was read, gives back the caller's own rows."""
        n, times = self._seen().n, len(self.variations)
        self.sink(self._reads(self._seen()))
        self.samples = None
        return keep_rows(output, n, n * times) if times > 1 else None

    def _seen(self) -> Samples:
        if self.samples is None:
            raise RuntimeError(
                "the decoder ran without the model around it: inside a lens call the whole model"
            )
        return self.samples

    def _reads(self, samples: Samples) -> Reads:
        """One pass as Reads, draws averaged as probabilities."""
        answers = self._stacked([self.answers[layer] for layer in self.how.layers])
        of = [variation.condition for variation in self.variations]
        names = [name for name in self.how.conditions if name in of]
        blocks = [answers[:, [i for i, c in enumerate(of) if c == name]] for name in names]
        return Reads(
            ids=samples.ids,
            conditions=tuple(names),
            layers=self.how.layers,
            log_probs=torch.stack([mean_probability(block) for block in blocks], 1),
            options=samples.options.to(answers.device),
            labels=samples.labels.to(answers.device),
            states={
                pooled.span: self._stacked(
                    [self.states[layer, pooled.span] for layer in self.how.layers]
                )
                for pooled in self.how.states
            },
            settings=self.how.settings,
        )

    @staticmethod
    def _stacked(layers: list[Tensor]) -> Tensor:
        """Layers as one tensor; a model may lie on several devices."""
        return torch.stack([layer.to(layers[0].device) for layer in layers])


def mean_probability(
    answers: Float[Tensor, "layers draws n answers"],
) -> Float[Tensor, "layers n answers"]:
    """Log of the mean over draws of the probabilities whose logs come."""
    draws = answers.shape[1]
    return answers[:, 0] if draws == 1 else answers.logsumexp(1) - math.log(draws)
