"""Intervene: interventions by themselves, around any call of a model, ``generate`` included."""

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
    """Interventions in force for a block: every call of the model in it is made under them.

    ``generate`` runs as ever, with its cache or without: what a prompt's spans are is settled
    when the prompt comes in, and holds for the tokens that follow, which continue the
    ``answer``. Outputs are those of the model with the interventions; nothing is read.

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        interventions: one or more, such as ``Knockout("image", "question")``.
        processor: finds the question in prompts of its chat template; the model's own by default.
        spans: masks [n, tokens] by name, in its place; they hold for prompts of that shape.
        ids: one name a sample, for the noise; by default a hash of its content, which
            ``generate`` does not show.
        moments: what noise looks like, of `calibrate`.
        seed: of the noise.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Raises:
        TypeError: no interventions.
        ValueError: none was given, or a layer, head or span that is not there, or attention
            that takes no masks, or a compiled model.
        RuntimeError: a lens is open on this model.

    Example:
        >>> import pid_lens
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
    """Interventions with nothing left open.

    Raises:
        TypeError: something else than interventions, or moments of another kind.
        ValueError: there is none, or no moments for its noise, or another model's.
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
    """The hooks of interventions, and what is known of the prompts that a block is at.

    Around whole calls it holds in every pass; a framework's block may have it hold for the one
    pass that begins next (``passes=1``), or that has begun already (`resume`).
    """

    anatomy: Anatomy
    variation: Variation
    resolve: PromptResolver
    """Finds the samples of prompts that come in."""
    passes: int | None = None
    """In how many passes of the model it holds, from the first that begins; None for all."""
    _begun: int = field(default=0, init=False)
    """How many passes have begun."""
    _samples: Samples | None = field(default=None, init=False)
    """Those of the prompts that came last."""
    _prompt: Tensor | None = field(default=None, init=False, repr=False)
    _length: int = field(default=0, init=False)
    """How many tokens of theirs there are by now."""
    _shift: Tensor | None = field(default=None, init=False, repr=False)
    """How far what follows the prompts moves up."""
    _inputs: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _inside: bool = field(default=False, init=False)
    """Whether the model is at work, and not its decoder alone."""
    _knockouts: AttentionKnockouts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._knockouts = AttentionKnockouts(self.anatomy, self.variation.attention)

    @property
    def attentions(self) -> tuple[nn.Module, ...]:
        """The modules whose attention it masks."""
        hooks = (*self._knockouts.before, *self._knockouts.after)
        return tuple(module for module, _ in hooks)

    @property
    def holds(self) -> bool:
        """Whether it holds in the pass that the model is at."""
        return self.passes is None or 1 <= self._begun <= self.passes

    @contextmanager
    def in_force(
        self, unless: Callable[[nn.Module], bool] = lambda module: False
    ) -> Iterator[None]:
        """Hooks the model for a block, but for calls of which ``unless`` is true.

        Raises:
            RuntimeError: a lens is open on this model.
            ValueError: the model is compiled, or its attention cannot be closed.
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
        """Joins a pass that has begun already, of a prompt or of tokens behind one.

        Args:
            prompt: what the model was called with for the whole prompts, by name.
            arguments: what it was called with for this pass.
            decoding: whether the decoder runs already.

        Raises:
            ValueError: the decoder runs and its input was to be edited; prompts that cannot be
                resolved.
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
        """Before the model: a new prompt, or the next token of one?"""
        self._end()  # a pass that was joined may have ended without the hook that says so
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
        """The model is at work with these arguments."""
        self._length = cached_tokens(arguments) + arguments["input_ids"].shape[1]
        self._inputs, self._inside = arguments, True

    def _before_decoder(
        self, module: nn.Module, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        """Before the decoder: hides in its embeddings what is to be hidden."""
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
        """After the model, whether it came to an end or raised."""
        self._end()

    def _end(self) -> None:
        """The pass is over."""
        self._knockouts.end()
        self._inputs, self._inside = {}, False

    # ---------------------------------------------------------------- prompts

    def _continues(self, ids: Tensor) -> bool:
        """Whether these are the prompts seen last, with one more token that was generated."""
        if self._prompt is None or self._samples is None:
            return False
        n, tokens = self._prompt.shape
        grown = len(ids) == n and ids.shape[1] == self._length + 1
        return grown and torch.equal(ids[:, :tokens], self._prompt.to(ids.device))

    def _require_known_prompts(self, ids: Tensor) -> None:
        """With a filled cache nothing new may come but what was generated.

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
                "another image came in behind a prompt that is in the KV cache, and its spans are "
                "not known: run the whole prompt at once, without the cache"
            )

    # ---------------------------------------------------------------- positions

    def _keep_shift(self, arguments: dict[str, Any], samples: Samples) -> None:
        removed = self.variation.removed(samples)
        self._shift = None
        if bool(removed.any()):
            self._shift = shift_of(positions_of(arguments, samples), removed, samples)[..., -1:]

    def _move_up(self, arguments: dict[str, Any], before: int) -> dict[str, Any]:
        """The arguments of tokens that follow a prompt."""
        if self._shift is None:
            return arguments
        given = arguments.get("position_ids")
        if given is None:
            given = torch.arange(before, self._length, device=self._shift.device)[None]
        return {**arguments, "position_ids": given - self._shift.to(given.device)}
