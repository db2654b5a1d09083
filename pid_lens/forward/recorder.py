"""Recorder: the hooks of one forward pass, from the model's input to its reads."""

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
    require_prompt_width,
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
from pid_lens.reads import PassSettings, Reads, mean_probability, spread_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from pid_lens.interventions import Conditions, Variation
    from pid_lens.model import Anatomy
    from pid_lens.readouts import Pooled, Readout


@dataclass
class Verified:
    """What the passes so far have shown of a model, once for all those that follow."""

    last_layer: bool = False
    """Whether the last layer's reads were found equal to the model's answer."""
    image_only: bool = False
    """Whether the image's last token was found not to see the text."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Recorder:
    """What to read of a model, and how: it hooks the model for a block (`attach`).

    The hooks of a pass, in the order in which they fire:

    ================ ==============================================================================
    before_model     resolves the samples
    before_decoder   repeats the rows, one block a variation, and ablates what each one ablates
    after_layer      applies the readout to the residual stream at the answer position
    after_decoder    gives the caller the rows that were asked for
    after_model      hands the reads on; once, holds the last layer's against the model's logits
    ================ ==============================================================================
    """

    anatomy: Anatomy
    processor: Any
    readout: Readout
    layers: tuple[int, ...]
    options: Int[Tensor, "1 answers"] | None
    states: tuple[Pooled, ...]
    conditions: Conditions
    settings: PassSettings
    fork_edits: bool = False
    """Whether edits of the caller's own are meant for the rows of all conditions."""
    verified: Verified = field(default_factory=Verified)

    @property
    def reads_image_only(self) -> bool:
        """Whether a state is asked for that is to know nothing of the text."""
        return any(map(is_image_only, self.states))

    @property
    def probes(self) -> tuple[Variation, ...]:
        """What the next pass carries along to prove that the image does not see the text."""
        if self.verified.image_only or not self.reads_image_only:
            return ()
        return (replace(PROBE, interventions=(*self.conditions.always, *PROBE.interventions)),)

    @contextmanager
    def attach(
        self,
        variations: tuple[Variation, ...],
        given: Batch | None,
        sink: Callable[[Reads], None],
    ) -> Iterator[None]:
        """Hooks the model for a block: every forward pass in it ends in one call of ``sink``.

        What is ``given`` of a batch holds for one batch: others are refused.

        Raises:
            RuntimeError: another lens is open on this model, or interventions are in force.
            ValueError: the model is compiled, or its attention cannot be masked.
        """
        model, decoder = self.anatomy.model, self.anatomy.decoder
        if model.training:
            warnings.warn(
                "the model is in training mode, so dropout may make conditions differ: call "
                "model.eval()",
                stacklevel=4,
            )
        masked = [one for variation in variations for one in variation.attention]
        now = _Pass(self, variations, given, sink, AttentionKnockouts(self.anatomy, masked))
        layers = [(self.anatomy.layers[at], now.after_layer(at)) for at in self.layers]
        with (
            occupy(self.anatomy, LENS),
            without_method(model, "generate", WHOLE_PROMPTS),
            hooked(
                before=[
                    (model, now.before_model),
                    (decoder, now.before_decoder),
                    *now.knockouts.before,
                ],
                after=[
                    *now.knockouts.after,
                    *layers,
                    (decoder, now.after_decoder),
                    (model, now.after_model),
                ],
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
    """The pass that a block is at: what its hooks hand to one another."""

    how: Recorder
    asked: tuple[Variation, ...]
    """What every pass of the block reads."""
    given: Batch | None
    sink: Callable[[Reads], None]
    knockouts: AttentionKnockouts
    variations: tuple[Variation, ...] = ()
    """What this pass carries, a block of rows each; `asked`, and a probe where it is needed."""
    samples: Samples | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    expected: Tensor | None = None
    answers: dict[int, Tensor] = field(default_factory=dict)
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    unfinished: int = 0
    """How many passes have begun and not come to an end."""
    guarding: ExitStack = field(default_factory=ExitStack)
    guard: UserHookGuard | None = None
    """What others see of a fork, and that they write nothing."""

    # ---------------------------------------------------------------- hooks

    def before_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Pre-hook of the model: which samples are these?"""
        arguments, how = named_arguments(module, args, kwargs), self.how
        require_fresh_cache(arguments)
        if arguments.get("input_ids") is None:
            raise ValueError("a Lens needs input_ids in the model's call to find the image's span")
        require_image(arguments, how.anatomy.image_token)
        self._require_same_input(arguments["input_ids"])
        self.samples = resolve_samples(
            replace(self.given or Batch(inputs={}), inputs=arguments),
            how.processor,
            how.anatomy.image_token,
            how.options,
        )
        require_options(self.samples.options, how.anatomy)
        if how.reads_image_only:
            require_image_first(self.samples.spans)
        self.variations = (*self.asked, *how.probes)
        self.answers, self.states, self.inputs = {}, {}, arguments
        self.unfinished += 1
        if self._is_fork:
            n, rows = self.samples.n, self.samples.n * len(self.variations)
            tokens = self.samples.spans.shape[1]
            self.guard = self.guarding.enter_context(
                guard_user_hooks(how.anatomy.decoder, n, rows, tokens, edits=how.fork_edits)
            )

    def before_decoder(
        self, module: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        """Pre-hook of the decoder: repeats the rows and ablates what each variation ablates."""
        samples, anatomy = self._known_samples, self.how.anatomy
        self.knockouts.begin(samples, self.variations)
        if not self._is_fork and not self.variations[0].edits_arguments:
            return None
        arguments = embed_arguments(module, named_arguments(module, args, kwargs))
        require_prompt_width(arguments["inputs_embeds"], samples)
        require_known_pathways(arguments, anatomy.known_ways)
        if self.guard is not None:
            self.guard.forked = True
        if self._is_fork and arguments.get("past_key_values") is None:
            arguments.setdefault("use_cache", False)
        return (), fork_arguments(anatomy, self.inputs, arguments, samples, self.variations)

    def after_layer(self, layer: int) -> Callable[..., None]:
        """Hook of a layer: applies the readout to its output at the answer position."""

        @torch.no_grad()
        def read(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            samples, how, states = self._known_samples, self.how, residual_stream(output)
            answers = answers_at(states, samples, how.readout, how.anatomy, layer)
            self.answers[layer] = rearrange(
                answers, "(v n) answers -> v n answers", v=len(self.variations)
            )
            for pooled in how.states if self._is_unablated else ():
                self.states[layer, pooled.name] = pooled(states[: samples.n], samples.spans)
                if self._is_probing and is_image_only(pooled):
                    ends = states[: samples.n], states[-samples.n :]
                    own, other = (pooled.unrounded(end, samples.spans) for end in ends)
                    require_unseen_text(own, other, layer, states.dtype)

        return read

    def after_decoder(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """Hook of the decoder: gives back the caller's own rows."""
        self.guarding.close()
        n = self._known_samples.n
        return keep_rows(output, n, n * len(self.variations)) if self._is_fork else None

    @torch.no_grad()
    def after_model(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Hook of the model: hands the reads on; once, the last layer's against the logits."""
        samples, how = self._known_samples, self.how
        logits = output[0] if isinstance(output, tuple) else getattr(output, "logits", None)
        last = len(how.anatomy.layers) - 1
        comparable = last in self.answers and isinstance(how.readout, LogitLens)
        unproven = not how.verified.last_layer and self._is_unablated
        if unproven and comparable and logits is not None:
            confirm_last_layer(self.answers[last][0], logits, samples)
            how.verified.last_layer = True
        self.sink(self._reads(samples))
        self.unfinished -= 1
        how.verified.image_only |= self._is_probing

    def leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """After the model, whether it came to an end or raised."""
        self.knockouts.end()
        self.guarding.close()
        self.guard, self.samples, self.inputs = None, None, {}

    # ---------------------------------------------------------------- what kind of pass this is

    @property
    def _is_fork(self) -> bool:
        return len(self.variations) > 1

    @property
    def _is_unablated(self) -> bool:
        """Whether the first block of rows is the model's own, but for what is always in force."""
        return self.variations[0].interventions == self.how.conditions.always

    @property
    def _is_probing(self) -> bool:
        return self.variations[-1].probe

    @property
    def _known_samples(self) -> Samples:
        if self.samples is None:
            raise RuntimeError(
                "the decoder ran without the model around it: inside a lens call the whole model"
            )
        return self.samples

    def _require_same_input(self, input_ids: Tensor) -> None:
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

    # ---------------------------------------------------------------- its reads

    def _reads(self, samples: Samples) -> Reads:
        """One pass as Reads, draws averaged as probabilities."""
        blocks = self._draws()
        log_probs = torch.stack([mean_probability(block) for block in blocks.values()], 1)
        drawn = any(block.shape[1] > 1 for block in blocks.values())
        spreads = [spread_of(block) for block in blocks.values()] if drawn else []
        kept = [pooled.name for pooled in self.how.states if self._is_unablated]
        return Reads(
            ids=samples.ids,
            contents=samples.contents,
            conditions=tuple(blocks),
            layers=self.how.layers,
            log_probs=log_probs,
            spread=torch.stack(spreads, 1) if drawn else None,
            options=samples.options.to(log_probs.device),
            labels=samples.labels.to(log_probs.device),
            states={
                name: stack_layers([self.states[layer, name] for layer in self.how.layers])
                for name in kept
            },
            settings=self.how.settings.record(),
        )

    def _draws(self) -> dict[str, Float[Tensor, "layers draws n answers"]]:
        """The answers of each condition that is read, in the order of the lens's conditions."""
        answers = stack_layers([self.answers[layer] for layer in self.how.layers])
        of = [variation.condition for variation in self.variations]
        names = [name for name in self.how.conditions.named if name in of] or of
        return {
            name: answers[:, [at for at, condition in enumerate(of) if condition == name]]
            for name in names
        }
