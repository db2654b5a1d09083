"""Intervene: interventions by themselves, around any call of a model, ``generate`` included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.forward.attention_mask import AttentionKnockouts
from pid_lens.forward.fork import fork_arguments
from pid_lens.forward.occupancy import INTERVENTIONS, occupy
from pid_lens.forward.position_ids import positions_of, shift_of
from pid_lens.inputs import Batch, Samples, Spans, resolve_samples
from pid_lens.interventions import Moments, Variation, as_interventions, require_same_model
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
    found = anatomy or _dissected(model)
    completed = complete_interventions(interventions, found, moments=moments, seed=seed)
    said = Batch(inputs={}, spans=spans, ids=None if ids is None else tuple(ids))
    now = InterventionScope(
        found, Variation("", 0, completed), said, processor_of(model, processor)
    )
    with now.in_force():
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
    completed = tuple(i.complete(moments=moments, seed=seed, draws=1) for i in listed)
    require_same_model(completed, anatomy)
    return completed


def _dissected(model: Any) -> Anatomy:
    if model is None:
        raise TypeError("no model: intervene(model, Knockout(...)), or anatomy=...")
    return dissect(model)


@dataclass
class InterventionScope:
    """What is known of the prompts that a block is at, and the hooks that hide."""

    anatomy: Anatomy
    variation: Variation
    said: Batch
    processor: Any
    samples: Samples | None = None
    """Those of the prompts that came last."""
    prompt: Tensor | None = field(default=None, repr=False)
    length: int = 0
    """How many tokens of theirs there are by now."""
    shift: Tensor | None = field(default=None, repr=False)
    """How far what follows the prompts moves up."""
    inputs: dict[str, Any] = field(default_factory=dict, repr=False)
    inside: bool = False
    """Whether the model is at work, and not its decoder alone."""
    blockade: AttentionKnockouts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.blockade = AttentionKnockouts(self.anatomy, self.variation.attention)

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
                before=[(model, self.see), (decoder, self.edit), *self.blockade.before],
                after=self.blockade.after,
                always=[(model, self.leave)],
                unless=unless,
            ),
        ):
            yield

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the model: a new prompt, or the next token of one?"""
        arguments = named_arguments(module, args, kwargs)
        ids = arguments.get("input_ids")
        if ids is None:
            raise ValueError("interventions need input_ids in the model's call to find spans")
        if cached_tokens(arguments):
            self._require_known_prompts(ids)
        elif not self._continues(ids):
            self.samples, self.prompt = self._recognised(ids, arguments), ids
        self.length = cached_tokens(arguments) + ids.shape[1]
        self.inputs, self.inside = arguments, True

    def edit(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before the decoder: hides in its embeddings what is to be hidden."""
        if self.samples is None or not self.inside:
            raise ValueError(
                "the decoder ran without the whole model around it (as BLIP-2's generate does), "
                "so that nothing is known of its prompts: call model(**inputs)"
            )
        arguments = named_arguments(module, args, kwargs)
        before = cached_tokens(arguments)
        if before:
            arguments = self._moved_up(arguments, before)
        elif self.variation.edits_arguments:
            arguments = embed_arguments(module, arguments)
            require_known_pathways(arguments, self.anatomy.known_ways)
            tokens = arguments["inputs_embeds"].shape[1]
            samples = self.samples.extended(tokens, answering=False)
            self._keep_shift(arguments, samples)
            arguments = fork_arguments(
                self.anatomy, self.inputs, arguments, samples, [self.variation]
            )
        self.blockade.begin(self.samples, [self.variation], before)
        return (), arguments

    def leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """After the model, whether it came to an end or raised."""
        self.blockade.end()
        self.inputs, self.inside = {}, False

    # ---------------------------------------------------------------- prompts

    def _recognised(self, ids: Tensor, arguments: dict[str, Any]) -> Samples:
        """The samples of new prompts; the beams of one have its name."""
        names = self._names(ids)
        apart = None if names is None else tuple(map(str, range(len(ids))))
        given = replace(self.said, inputs=arguments, spans=self._spans(ids), ids=apart)
        samples = resolve_samples(given, self.processor, self.anatomy.image_token)
        return samples if names is None else replace(samples, ids=names)

    def _continues(self, ids: Tensor) -> bool:
        """Whether these are the prompts seen last, with one more token that was generated."""
        if self.prompt is None or self.samples is None:
            return False
        n, tokens = self.prompt.shape
        grown = len(ids) == n and ids.shape[1] == self.length + 1
        return grown and torch.equal(ids[:, :tokens], self.prompt.to(ids.device))

    def _require_known_prompts(self, ids: Tensor) -> None:
        """With a filled cache nothing new may come but what was generated.

        Raises:
            ValueError: the cache is of a prompt that ran before, or an image comes in.
        """
        if self.samples is None:
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

    def _spans(self, ids: Tensor) -> Spans | None:
        """The masks that were said, once for each beam of a sample."""
        if self.said.spans is None:
            return None
        masks = {k: torch.as_tensor(m) for k, m in self.said.spans.items()}
        times = self._beams(ids, len(next(iter(masks.values()))))
        return Spans(**{k: m.repeat_interleave(times, 0) for k, m in masks.items()})

    def _names(self, ids: Tensor) -> tuple[str, ...] | None:
        """Those that were said; None, a hash of the content, where noise is drawn by them."""
        if self.said.ids is not None:
            times = self._beams(ids, len(self.said.ids))
            return tuple(name for name in self.said.ids for _ in range(times))
        return None if self.variation.embedding else tuple(map(str, range(len(ids))))

    @staticmethod
    def _beams(ids: Tensor, n: int) -> int:
        """How often each of n samples stands beside itself."""
        times = len(ids) // max(n, 1)
        same = times > 1 and torch.equal(ids, ids[::times].repeat_interleave(times, 0))
        return times if same else 1

    # ---------------------------------------------------------------- positions

    def _keep_shift(self, arguments: dict[str, Any], samples: Samples) -> None:
        removed = self.variation.removed(samples)
        self.shift = None
        if bool(removed.any()):
            self.shift = shift_of(positions_of(arguments, samples), removed, samples)[..., -1:]

    def _moved_up(self, arguments: dict[str, Any], before: int) -> dict[str, Any]:
        """The arguments of tokens that follow a prompt."""
        if self.shift is None:
            return arguments
        assert self.samples is not None
        given = arguments.get("position_ids")
        if given is None:
            given = torch.arange(before, self.length, device=self.shift.device)[None]
        return {**arguments, "position_ids": given - self.shift.to(given.device)}
