"""Ablation and attention knockout, without reads, around any call of a model or ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.forward.attention_mask import AttentionKnockouts
from pid_lens.forward.fork import fork_arguments
from pid_lens.forward.occupancy import INTERVENTIONS, occupy
from pid_lens.forward.position_ids import positions_of, shift_of
from pid_lens.forward.prompt_resolver import PromptResolver, WholeBatch
from pid_lens.inputs import Batch, Samples
from pid_lens.interventions import (
    Moments,
    Variation,
    as_interventions,
    complete_each,
    require_same_model,
)
from pid_lens.model import (
    Anatomy,
    cached_tokens,
    dissect,
    embed_arguments,
    hooked,
    named_arguments,
    processor_of,
    require_known_pathways,
)

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor, nn

    from pid_lens.interventions import Intervention


@contextmanager
def intervene(
    model: Any = None,
    *interventions: Intervention,
    processor: Any = None,
    spans: Mapping[str, Bool[Tensor, "n tokens"]] | None = None,
    ids: Sequence[str] | None = None,
    moments: Moments | None = None,
    seed: int = 0,
    anatomy: Anatomy | None = None,
) -> Iterator[None]:
    """Apply interventions to every forward pass of a model inside a ``with`` block.

    ``generate`` runs as usual, with a KV cache or without: the spans of a prompt are found when
    the prompt comes in, and hold while tokens are generated, which continue the ``answer``.
    Outputs are those of the model under the interventions; nothing is read.

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        interventions: one or more, such as ``Knockout("image", "question")``.
        processor: finds the question in prompts of its chat template; the model's own by default.
        spans: masks [n, tokens] by name, in place of the processor's; they hold for prompts of
            that shape.
        ids: one name per sample, which seeds its noise; by default a hash of its content. Noise
            in ``generate`` needs them: it encodes the images first, and calls the model with
            their features and no pixels to hash, in the first call, too.
        moments: mean and standard deviation of the embeddings, for noise; from `calibrate`.
        seed: of the noise.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Raises:
        TypeError: something other than interventions, or no model.
        ValueError: no intervention, or a layer, head or span that is not there, or attention
            that takes no 4-D mask, or a compiled model.
        RuntimeError: a lens is open on this model.

    Example:
        >>> import pid_lens, torch
        >>> model, processor = pid_lens.demo.load()
        >>> inputs = next(iter(pid_lens.demo.batches("vision", n=4))).inputs
        >>> with torch.no_grad():
        ...     plain = model(**inputs).logits
        ...     with intervene(model, pid_lens.Knockout("image", "answer"), processor=processor):
        ...         blind = model(**inputs).logits
        >>> torch.equal(plain[:, -2], blind[:, -2]), torch.equal(plain[:, -1], blind[:, -1])
        (True, False)
    """
    found = anatomy or _dissect_given(model)
    completed = complete_interventions(interventions, found, moments=moments, seed=seed)
    variation = Variation("", 0, completed)
    said = Batch(inputs={}, spans=spans, ids=None if ids is None else tuple(ids))
    by_content = bool(variation.embedding)
    resolve = WholeBatch(found, said, processor_of(model, processor), by_content)
    with InterventionScope(found, variation, resolve).in_force():
        yield


def complete_interventions(
    interventions: Sequence[Intervention], anatomy: Anatomy, *, moments: Moments | None, seed: int
) -> tuple[Intervention, ...]:
    """Complete interventions with the moments and the seed that they leave open.

    Args:
        interventions: one or more.
        anatomy: of the model that they will run on.
        moments: from `calibrate`, for noise without its own; None if all noise has its own.
        seed: for noise that has none.

    Raises:
        TypeError: something other than interventions, or moments of another type.
        ValueError: there is none, or no moments for its noise, or another model's.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> moments = pid_lens.calibrate(model, pid_lens.demo.batches("vision", n=8))
        >>> noise, anatomy = pid_lens.Noise("image"), pid_lens.dissect(model)
        >>> complete_interventions([noise], anatomy, moments=moments, seed=3)
        (Noise(span='image', seed=3, draws=1),)
    """
    listed = as_interventions("interventions", list(interventions))
    if not listed:
        raise ValueError("no intervention: intervene(model, Knockout('image', 'question'))")
    if moments is not None and not isinstance(moments, Moments):
        raise TypeError(f"moments must be Moments of pid_lens.calibrate; got {moments!r}")
    completed = complete_each(listed, moments=moments, seed=seed, draws=1)
    require_same_model(completed, anatomy)
    return completed


def _dissect_given(model: Any) -> Anatomy:
    if model is None:
        raise TypeError("no model: intervene(model, Knockout(...)), or anatomy=...")
    return dissect(model)


@dataclass
class InterventionScope:
    """Hooks that apply interventions to a model, and the samples of the prompts that it runs.

    By default they apply in every forward pass. In a trace, a framework applies them in the one
    pass that begins next (``passes=1``), or in one that has begun already (`resume`).

    Attributes:
        anatomy: the model's parts.
        variation: the interventions, and which draw of their noise.
        resolve: finds the samples of the prompts in a call of the model.
        passes: number of passes in which the interventions apply, from the first that begins;
            None for all.

    Raises:
        ValueError: an intervention names a layer or head that the model does not have.

    Example:
        >>> import pid_lens, torch
        >>> from pid_lens.forward import WholeBatch
        >>> from pid_lens.interventions import Variation
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> model, _ = pid_lens.demo.load()
        >>> ablation = Variation("", 0, (pid_lens.Zero("image"),))
        >>> anatomy = pid_lens.dissect(model)
        >>> scope = InterventionScope(anatomy, ablation, WholeBatch(anatomy, batch), passes=1)
        >>> with torch.no_grad(), scope.in_force():
        ...     first, second = (model(**batch.inputs).logits[:, -1] for _ in range(2))
        >>> plain = model(**batch.inputs).logits[:, -1]
        >>> torch.equal(first, plain), torch.equal(second, plain)
        (False, True)
    """

    anatomy: Anatomy
    variation: Variation
    resolve: PromptResolver
    passes: int | None = None
    _begun: int = field(default=0, init=False)  # passes so far
    _samples: Samples | None = field(default=None, init=False)  # of the latest prompts
    _prompt: Tensor | None = field(default=None, init=False, repr=False)  # their token ids
    _length: int = field(default=0, init=False)  # their tokens so far, generated ones included
    _shift: Tensor | None = field(default=None, init=False, repr=False)  # of later positions
    _inputs: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _inside: bool = field(default=False, init=False)  # whether the whole model runs
    _knockouts: AttentionKnockouts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._knockouts = AttentionKnockouts(self.anatomy, self.variation.attention)

    @property
    def attentions(self) -> tuple[nn.Module, ...]:
        """The attention modules that are hooked."""
        hooks = (*self._knockouts.before, *self._knockouts.after)
        return tuple(module for module, _ in hooks)

    @property
    def holds(self) -> bool:
        """Whether the interventions apply in the current pass."""
        return self.passes is None or 1 <= self._begun <= self.passes

    @contextmanager
    def in_force(
        self, unless: Callable[[nn.Module], bool] = lambda module: False
    ) -> Iterator[None]:
        """Attach the hooks for a block; calls of which ``unless`` is true run without them.

        Raises:
            RuntimeError: a lens is open on this model.
            ValueError: the model is compiled, or its attention takes no 4-D mask.
        """
        model, decoder = self.anatomy.model, self.anatomy.decoder
        with (
            occupy(self.anatomy, INTERVENTIONS),
            hooked(
                before=[
                    (model, self._before_model),
                    (decoder, self._before_decoder),
                    *self._knockouts.before,
                ],
                after=self._knockouts.after,
                always=[(model, self._after_model)],
                unless=unless,
            ),
        ):
            yield

    def resume(self, prompt: dict[str, Any], arguments: dict[str, Any], *, decoding: bool) -> None:
        """Join a forward pass that has begun already, of a prompt or of tokens after one.

        Args:
            prompt: the model's arguments for the whole prompts, by name.
            arguments: the model's arguments for this pass, by name.
            decoding: whether the decoder module has been entered in this pass (not: whether
                tokens are generated).

        Raises:
            ValueError: the decoder runs already, and its input is to be ablated; prompts whose
                samples cannot be found.
        """
        ids = prompt["input_ids"]
        self._samples, self._prompt = self.resolve(ids, prompt), ids
        self._begun += 1
        self._enter(arguments)
        if not decoding:
            return
        if self.variation.edits_arguments:
            raise ValueError(
                "the decoder runs already, so its input cannot be edited any more: call this "
                "before the block reads anything of the decoder"
            )
        self._knockouts.begin(self._samples, [self.variation], cached_tokens(arguments))

    # ---------------------------------------------------------------- hooks

    def _before_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Resolve a new prompt's samples, or recognise its next token: the model's pre-hook."""
        self._end()  # a pass that was joined may have ended without `_after_model`
        self._begun += 1
        if not self.holds:
            return
        arguments = named_arguments(module, args, kwargs)
        ids = arguments.get("input_ids")
        if ids is None:
            raise ValueError("interventions need input_ids in the model's call to find spans")
        if cached_tokens(arguments):
            self._require_known_prompts(ids)
        elif not self._continues(ids):
            self._samples, self._prompt = self.resolve(ids, arguments), ids
        self._enter(arguments)

    def _enter(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments of the pass that the model begins."""
        self._length = cached_tokens(arguments) + arguments["input_ids"].shape[1]
        self._inputs, self._inside = arguments, True

    def _before_decoder(
        self, module: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        """Ablate the decoder's embeddings, and begin to mask attention: the decoder's pre-hook."""
        if not self.holds:
            return None
        if self._samples is None or not self._inside:
            raise ValueError(
                "the decoder ran without the whole model around it (as BLIP-2's generate does), "
                "so that nothing is known of its prompts: call model(**inputs)"
            )
        arguments = named_arguments(module, args, kwargs)
        before = cached_tokens(arguments)
        if before:
            arguments = self._move_up(arguments, before)
        elif self.variation.edits_arguments:
            arguments = embed_arguments(module, arguments)
            require_known_pathways(arguments, self.anatomy.known_ways)
            tokens = arguments["inputs_embeds"].shape[1]
            samples = self._samples.extended(tokens, answering=False)
            self._keep_shift(arguments, samples)
            arguments = fork_arguments(
                self.anatomy, self._inputs, arguments, samples, [self.variation]
            )
        self._knockouts.begin(self._samples, [self.variation], before)
        return (), arguments

    def _after_model(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """End the pass, also where it raised: the model's hook."""
        self._end()

    def _end(self) -> None:
        """End the pass."""
        self._knockouts.end()
        self._inputs, self._inside = {}, False

    # ---------------------------------------------------------------- prompts

    def _continues(self, ids: Tensor) -> bool:
        """Return whether these are the latest prompts, with one more generated token."""
        if self._prompt is None or self._samples is None:
            return False
        n, tokens = self._prompt.shape
        grown = len(ids) == n and ids.shape[1] == self._length + 1
        return grown and torch.equal(ids[:, :tokens], self._prompt.to(ids.device))

    def _require_known_prompts(self, ids: Tensor) -> None:
        """Require that a filled KV cache is of prompts that ran inside, without a new image.

        Raises:
            ValueError: the cache is of a prompt that ran before, or an image comes in.
        """
        if self._samples is None:
            raise ValueError(
                "a filled KV cache came in, of a prompt that ran before the interventions: run "
                "the whole prompt inside, `with intervene(...): model(**inputs)`"
            )
        image = self.anatomy.image_token
        if image is not None and bool((ids == image).any()):
            raise ValueError(
                "another image came in after a prompt that is in the KV cache, and its spans are "
                "not known: run the whole prompt at once, without the cache"
            )

    # ---------------------------------------------------------------- positions

    def _keep_shift(self, arguments: dict[str, Any], samples: Samples) -> None:
        """Keep by how much position ids after a prompt fall, where tokens are removed from it."""
        removed = self.variation.removed(samples)
        self._shift = None
        if bool(removed.any()):
            self._shift = shift_of(positions_of(arguments, samples), removed, samples)[..., -1:]

    def _move_up(self, arguments: dict[str, Any], before: int) -> dict[str, Any]:
        """Return the arguments of generated tokens, their position ids less what was removed."""
        if self._shift is None:
            return arguments
        given = arguments.get("position_ids")
        if given is None:
            given = torch.arange(before, self._length, device=self._shift.device)[None]
        return {**arguments, "position_ids": given - self._shift.to(given.device)}
