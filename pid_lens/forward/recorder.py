"""Recorder: the hooks of one forward pass, from the model's call to its reads."""

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
    """Checks that the model met in an earlier forward pass, not repeated in later ones.

    Attributes:
        last_layer: whether the last layer's reads were found equal to the model's logits.
        image_only: whether the last image token was found independent of the text after it.

    Example:
        >>> verified = Verified(image_only=True)
        >>> verified.last_layer |= True  # a pass compared the logits
        >>> verified
        Verified(last_layer=True, image_only=True)
    """

    last_layer: bool = False
    image_only: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Recorder:
    """Hooks that read a model under several conditions in one forward pass (`attach`).

    In the order in which they fire (attention masks: `attention_mask`):

    ================ ==============================================================================
    before_model     resolves the samples
    before_decoder   repeats the rows, one block per variation, and ablates its embeddings
    after_layer      applies the readout to the layer's output at the answer position
    after_decoder    keeps the first row block, the caller's own
    after_model      hands the reads on; on the first pass, compares last-layer reads with logits
    ================ ==============================================================================

    Attributes:
        anatomy: the model's parts.
        processor: finds the question where a batch has no span of it.
        readout: from a hidden state to log-probabilities of the options.
        layers: numbers of the layers to read.
        options: token ids of the options, [1, answers]; None where each batch has its own.
        states: pooled hidden states to keep along with the answers.
        conditions: what each condition ablates, and the interventions common to all.
        settings: what the reads depend on.
        fork_edits: whether the caller's own edits are meant for the rows of all conditions.
        verified: checks that need not be repeated.

    Example:
        >>> import pid_lens, torch
        >>> from pid_lens import LogitLens
        >>> from pid_lens.interventions import Conditions, Zero
        >>> from pid_lens.reads import PassSettings
        >>> model, processor = pid_lens.demo.load()
        >>> anatomy, readout, seen = pid_lens.dissect(model), LogitLens(), []
        >>> conditions = Conditions.of({"full": [], "language": [Zero("image")]})
        >>> recorder = Recorder(
        ...     anatomy=anatomy, processor=processor, readout=readout, layers=(2, 5), options=None,
        ...     states=(), conditions=conditions, settings=PassSettings(),
        ... )
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=32)))
        >>> with torch.no_grad(), recorder.attach(conditions.variations, batch, seen.append):
        ...     logits = model(**batch.inputs).logits
        >>> len(logits), seen[0].accuracy(), seen[0].accuracy(condition="language") < 0.8
        (32, 1.0, True)
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
    verified: Verified = field(default_factory=Verified)

    @property
    def reads_image_only(self) -> bool:
        """Whether a pooled hidden state is kept that must carry no information about the text."""
        return any(map(is_image_only, self.states))

    @property
    def probes(self) -> tuple[Variation, ...]:
        """Row block that the next pass adds to prove its image states independent of the text."""
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
        """Attach the hooks for a block: every forward pass in it ends in one call of ``sink``.

        Args:
            variations: one row block each, in this order; the first is the caller's own.
            given: the one batch that may run in the block; None where samples are found from the
                inputs of each pass.
            sink: takes the reads of a pass.

        Raises:
            RuntimeError: another lens, or a block of `intervene`, is open on this model.
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
    """The current forward pass of a block: what its hooks share.

    Attributes:
        how: settings and checks.
        asked: variations that every pass of the block reads.
        given: the one batch that may run; None for any.
        sink: takes the reads of a pass.
        knockouts: the attention knockouts of the variations.
        variations: row blocks of this pass: `asked`, and a probe where one is needed.
        samples: the n samples; None outside a pass.
        inputs: the model's arguments, by name.
        expected: token ids of the batch that may run.
        answers: layer -> log-probabilities, [variations, n, answers].
        states: layer and name -> pooled hidden states, [n, width].
        unfinished: number of passes that began and were stopped before their end.
        guarding: takes the guards off the user's hooks.
        guard: what user hooks are given during a fork.
    """

    how: Recorder
    asked: tuple[Variation, ...]
    given: Batch | None
    sink: Callable[[Reads], None]
    knockouts: AttentionKnockouts
    variations: tuple[Variation, ...] = ()
    samples: Samples | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    expected: Tensor | None = None
    answers: dict[int, Tensor] = field(default_factory=dict)
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    unfinished: int = 0
    guarding: ExitStack = field(default_factory=ExitStack)
    guard: UserHookGuard | None = None

    # ---------------------------------------------------------------- hooks

    def before_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Resolve the samples, and guard the user's hooks: the model's pre-hook."""
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
        """Repeat the rows and ablate the embeddings of each row block: the decoder's pre-hook."""
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
        """Make a layer's hook: it applies the readout at the answer position."""

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
        """Keep the caller's own rows, the first block: the decoder's hook."""
        self.guarding.close()
        n = self._known_samples.n
        return keep_rows(output, n, n * len(self.variations)) if self._is_fork else None

    @torch.no_grad()
    def after_model(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Hand the reads on; on the first pass, compare them with the logits: the model's hook."""
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
        """End the pass, also where it raised: the model's last hook."""
        self.knockouts.end()
        self.guarding.close()
        self.guard, self.samples, self.inputs = None, None, {}

    # ---------------------------------------------------------------- what kind of pass this is

    @property
    def _is_fork(self) -> bool:
        return len(self.variations) > 1

    @property
    def _is_unablated(self) -> bool:
        """Whether the first row block has the interventions of ``always`` alone."""
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
        """Require that the batch that runs is the one that was described, if one was."""
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
        """Collect one pass as `Reads`, with probabilities averaged over noise draws."""
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
        """Split the answers by condition, in the order of the lens's conditions."""
        answers = stack_layers([self.answers[layer] for layer in self.how.layers])
        of = [variation.condition for variation in self.variations]
        names = [name for name in self.how.conditions.named if name in of] or of
        return {
            name: answers[:, [at for at, condition in enumerate(of) if condition == name]]
            for name in names
        }
