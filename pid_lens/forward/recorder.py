"""Instrument: the hooks of one forward pass, from the model's input to its reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange

from pid_lens.forward.attention_mask import AttentionKnockouts
from pid_lens.forward.fork import fork_arguments
from pid_lens.forward.image_only_probe import (
    PROBE,
    is_image_only,
    require_image_first,
    require_unseen_text,
)
from pid_lens.forward.layer_answers import answers_at, residual_stream, stack_layers
from pid_lens.forward.occupancy import LENS, occupy
from pid_lens.forward.preconditions import (
    WHOLE_PROMPTS,
    confirm_last_layer,
    require_fresh_cache,
    require_image,
    require_options,
)
from pid_lens.forward.rows import keep_rows
from pid_lens.forward.user_hooks import UserHookGuard, guard_user_hooks
from pid_lens.inputs import Batch, Samples, resolve_samples
from pid_lens.model import (
    embed_arguments,
    hooked,
    is_user_call,
    named_arguments,
    require_known_pathways,
    without_method,
)
from pid_lens.readouts import LogitLens
from pid_lens.reads import Reads, mean_probability, spread_of

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor, nn

    from pid_lens.interventions import Intervention, Variation
    from pid_lens.model import Anatomy
    from pid_lens.readouts import Pooled, Readout


@dataclass(frozen=True, eq=False, kw_only=True)
class Recorder:
    """What to read of a model, and how: the hooks, in the order in which they fire.

    `see` (before the model) recognises the samples; `fork` (before the decoder) repeats the rows
    and hides what each variation hides; `reader` (after each layer) takes the answer; `join`
    (after the decoder) gives the caller the rows that were asked for; `confirm` (after the
    model) hands the reads on, and once holds the last layer's against the model's own logits.
    """

    anatomy: Anatomy
    processor: Any
    readout: Readout
    layers: tuple[int, ...]
    options: Int[Tensor, "1 answers"] | None
    states: tuple[Pooled, ...]
    conditions: tuple[str, ...]
    always: tuple[Intervention, ...]
    """What is in force in every condition."""
    settings: dict[str, Any]
    fork_edits: bool = False
    """Whether edits of the caller's own are meant for the rows of all conditions."""
    confirmed: list[bool] = field(default_factory=lambda: [False])
    """Whether the last layer's reads were found equal to the model's answer."""
    image_only: list[bool] = field(default_factory=lambda: [False])
    """Whether the image's last token was found not to see the text."""

    @property
    def probes(self) -> tuple[Variation, ...]:
        """What the next pass carries along to prove that the image does not see the text."""
        wanted = any(map(is_image_only, self.states)) and not self.image_only[0]
        return (replace(PROBE, interventions=(*self.always, *PROBE.interventions)),) * wanted

    @contextmanager
    def attached(
        self,
        variations: tuple[Variation, ...],
        given: Batch | None,
        sink: Callable[[Reads], None],
    ) -> Iterator[None]:
        """Hooks the model for a block: every forward pass in it ends in one call of ``sink``.

        What is ``given`` of a batch holds for one batch: others are refused.

        Raises:
            RuntimeError: another lens is open on this model, or interventions are in force.
            ValueError: the model is compiled, or its attention cannot be closed.
        """
        model, decoder = self.anatomy.model, self.anatomy.decoder
        if model.training:
            warnings.warn(
                "the model is in training mode, so dropout may make conditions differ: call "
                "model.eval()",
                stacklevel=4,
            )
        closing = [one for variation in variations for one in variation.attention]
        blockade = AttentionKnockouts(self.anatomy, closing)
        now = _Pass(self, variations, given, sink, blockade)
        layers = [(self.anatomy.layers[at], now.reader(at)) for at in self.layers]
        with (
            occupy(self.anatomy, LENS),
            without_method(model, "generate", WHOLE_PROMPTS),
            hooked(
                before=[(model, now.see), (decoder, now.fork), *blockade.before],
                after=[*blockade.after, *layers, (decoder, now.join), (model, now.confirm)],
                always=[(model, now.leave)],
                unless=is_user_call,
            ),
        ):
            yield
        if now.unfinished:
            warnings.warn(
                f"{now.unfinished} forward passes were stopped before their end (tracer.stop(), "
                "an exception), so their samples were not read: inside a lens, let the model run "
                "to its end",
                stacklevel=4,
            )


@dataclass
class _Pass:
    """The state between the hooks."""

    how: Recorder
    variations: tuple[Variation, ...]
    given: Batch | None
    sink: Callable[[Reads], None]
    blockade: AttentionKnockouts
    samples: Samples | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    expected: Tensor | None = None
    answers: dict[int, Tensor] = field(default_factory=dict)
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    unfinished: int = 0
    """How many passes have begun and not come to an end."""
    watch: ExitStack = field(default_factory=ExitStack)
    watched: UserHookGuard | None = None
    """What others see of a fork, and that they write nothing."""

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the model: which samples are these?"""
        arguments = named_arguments(module, args, kwargs)
        require_fresh_cache(arguments)
        if arguments.get("input_ids") is None:
            raise ValueError("a Lens needs input_ids in the model's call to find the image's span")
        require_image(arguments, self.how.anatomy.image_token)
        self._same_input(arguments["input_ids"])
        self.samples = resolve_samples(
            replace(self.given or Batch(inputs={}), inputs=arguments),
            self.how.processor,
            self.how.anatomy.image_token,
            self.how.options,
        )
        require_options(self.samples.options, self.how.anatomy)
        if any(map(is_image_only, self.how.states)):
            require_image_first(self.samples.spans)
        self.answers, self.states, self.inputs = {}, {}, arguments
        self.unfinished += 1
        n, times = self.samples.n, len(self.variations)
        if times > 1:
            decoder, edits = self.how.anatomy.decoder, self.how.fork_edits
            self.watched = self.watch.enter_context(
                guard_user_hooks(decoder, n, n * times, self.samples.spans.shape[1], edits=edits)
            )

    def fork(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before the decoder: repeats the rows and hides what each variation hides."""
        samples, times = self._seen(), len(self.variations)
        self.blockade.begin(samples, self.variations)
        if times == 1 and not self.variations[0].edits_arguments:
            return None
        arguments = embed_arguments(module, named_arguments(module, args, kwargs))
        embeddings = arguments["inputs_embeds"]
        if embeddings.shape[:2] != samples.spans.shape:
            raise ValueError(
                f"the decoder was given [n, tokens] = {list(embeddings.shape[:2])} for an input "
                f"of {list(samples.spans.shape)}: this model widens its prompt, which a Lens "
                "cannot follow"
            )
        require_known_pathways(arguments, self.how.anatomy.known_ways)
        if self.watched is not None:
            self.watched.forked = True
        if times > 1 and arguments.get("past_key_values") is None:
            arguments.setdefault("use_cache", False)
        return (), fork_arguments(
            self.how.anatomy, self.inputs, arguments, samples, self.variations
        )

    def reader(self, layer: int) -> Callable[..., None]:
        """After a layer: its answer, at the answer position alone."""

        @torch.no_grad()
        def read(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            samples, times = self._seen(), len(self.variations)
            how, states = self.how, residual_stream(output)
            answers = answers_at(states, samples, how.readout, how.anatomy, layer)
            self.answers[layer] = rearrange(answers, "(v n) answers -> v n answers", v=times)
            for pooled in self.how.states if self._untouched() else ():
                self.states[layer, pooled.name] = pooled(states[: samples.n], samples.spans)
                if self._probing() and is_image_only(pooled):
                    ends = states[: samples.n], states[-samples.n :]
                    own, other = (pooled.unrounded(end, samples.spans) for end in ends)
                    require_unseen_text(own, other, layer, states.dtype)

        return read

    def join(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """After the decoder: gives back the caller's own rows."""
        self.watch.close()
        n, times = self._seen().n, len(self.variations)
        return keep_rows(output, n, n * times) if times > 1 else None

    @torch.no_grad()
    def confirm(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """After the model: hands the reads on; once, the last layer's against the logits."""
        samples = self._seen()
        logits = output[0] if isinstance(output, tuple) else getattr(output, "logits", None)
        last = len(self.how.anatomy.layers) - 1
        known = last in self.answers and isinstance(self.how.readout, LogitLens)
        if known and self._untouched() and logits is not None and not self.how.confirmed[0]:
            confirm_last_layer(self.answers[last][0], logits, samples)
            self.how.confirmed[0] = True
        self.sink(self._reads(samples))
        self.unfinished -= 1
        if self._probing():
            self.how.image_only[0], self.variations = True, self.variations[:-1]

    def leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """After the model, whether it came to an end or raised."""
        self.blockade.end()
        self.watch.close()
        self.watched = None
        self.samples, self.inputs = None, {}

    def _untouched(self) -> bool:
        return self.variations[0].interventions == self.how.always

    def _probing(self) -> bool:
        return self.variations[-1].interventions[-1:] == PROBE.interventions

    def _seen(self) -> Samples:
        if self.samples is None:
            raise RuntimeError(
                "the decoder ran without the model around it: inside a lens call the whole model"
            )
        return self.samples

    def _same_input(self, input_ids: Tensor) -> None:
        """What was said of one batch holds for that batch alone."""
        if self.given is None:
            return
        if self.expected is None:
            self.expected = self.given.inputs.get("input_ids", input_ids)
        if not torch.equal(self.expected.to(input_ids.device), input_ids):
            raise ValueError(
                "these are not the inputs of the batch that this lens was opened with: open it "
                "anew for each batch, `with lens(batch): model(**batch.inputs)`"
            )

    def _reads(self, samples: Samples) -> Reads:
        """One pass as Reads, draws averaged as probabilities."""
        answers = stack_layers([self.answers[layer] for layer in self.how.layers])
        of = [variation.condition for variation in self.variations]
        names = [name for name in self.how.conditions if name in of] or of
        blocks = [answers[:, [i for i, c in enumerate(of) if c == name]] for name in names]
        drawn = any(block.shape[1] > 1 for block in blocks)
        kept = [pooled.name for pooled in self.how.states if self._untouched()]
        return Reads(
            ids=samples.ids,
            contents=samples.contents,
            conditions=tuple(names),
            layers=self.how.layers,
            log_probs=torch.stack([mean_probability(block) for block in blocks], 1),
            spread=torch.stack([spread_of(block) for block in blocks], 1) if drawn else None,
            options=samples.options.to(answers.device),
            labels=samples.labels.to(answers.device),
            states={
                name: stack_layers([self.states[layer, name] for layer in self.how.layers])
                for name in kept
            },
            settings=self.how.settings,
        )
