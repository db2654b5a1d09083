"""Intervene: interventions by themselves, around any call of a model, ``generate`` included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.anatomy import Anatomy, dissect
from pid_lens.attention import Blockade
from pid_lens.conditions import Variation, checked, refuse_strangers
from pid_lens.entrances import closed_up, embedded, varied
from pid_lens.forking import cached_tokens, refuse_ways_around
from pid_lens.hooks import hooked, named_arguments
from pid_lens.moments import Moments
from pid_lens.samples import Batch, Samples, recognise
from pid_lens.spans import Spans

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor, nn

    from pid_lens.protocols import Intervention


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
        processor: finds the question in prompts of its chat template.
        spans: masks [n, tokens] by name, in its place; they hold for prompts of that shape.
        ids: one name a sample, for the noise; by default a hash of its content, which
            ``generate`` does not show.
        moments: what noise looks like, of `calibrate`.
        seed: of the noise.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Raises:
        TypeError: no interventions.
        ValueError: none was given, or a layer, head or span that is not there, or attention
            that takes no masks.

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
    found = anatomy or dissect(model)
    listed = checked("interventions", list(interventions))
    if not listed:
        raise ValueError("no intervention: intervene(model, Knockout('image', 'question'))")
    completed = tuple(i.complete(moments=moments, seed=seed, draws=1) for i in listed)
    refuse_strangers(completed, found.fingerprint(), found.site)
    variation = Variation("", 0, completed)
    now = _Intervening(
        found,
        variation,
        Blockade(found, variation.attention),
        Batch(inputs={}, spans=spans, ids=None if ids is None else tuple(ids)),
        processor,
    )
    before = [(found.model, now.see), (found.decoder, now.edit), *now.blockade.before]
    with hooked(before=before, after=[*now.blockade.after, (found.model, now.leave)]):
        yield


@dataclass
class _Intervening:
    """What is known of the prompts that a block is at."""

    anatomy: Anatomy
    variation: Variation
    blockade: Blockade
    said: Batch
    processor: Any
    samples: Samples | None = None
    inputs: dict[str, Any] = field(default_factory=dict, repr=False)
    prompt: Tensor | None = field(default=None, repr=False)

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the model: a new prompt, or the next token of one?"""
        arguments = named_arguments(module, args, kwargs)
        ids = arguments.get("input_ids")
        if ids is None:
            raise ValueError("interventions need input_ids in the model's call to find spans")
        if cached_tokens(arguments):
            if self.samples is None:
                raise ValueError(
                    "a filled KV cache came in, of a prompt that ran before the interventions: "
                    "run the whole prompt inside, `with intervene(...): model(**inputs)`"
                )
            return
        if not self._continues(ids):
            given = replace(
                self.said, inputs=arguments, spans=self._spans(ids), ids=self._names(ids)
            )
            self.samples = recognise(given, self.processor, self.anatomy.image_token)
            self.prompt = ids
        self.inputs = arguments

    def edit(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before the decoder: hides in its embeddings what is to be hidden."""
        if self.samples is None:
            raise ValueError(
                "the decoder ran without the whole model around it (as BLIP-2's generate does), "
                "so that nothing is known of its prompts: call model(**inputs)"
            )
        arguments = named_arguments(module, args, kwargs)
        samples, before = self.samples, cached_tokens(arguments)
        if before:
            arguments = self._continued(arguments, before)
        elif self.variation.edits_arguments:
            arguments = embedded(module, arguments)
            refuse_ways_around(arguments, self.anatomy.known_ways)
            samples = samples.extended(arguments["inputs_embeds"].shape[1])
            arguments = varied(self.anatomy, self.inputs, arguments, samples, [self.variation])
        self.blockade.begin(samples, [self.variation], before)
        return (), arguments

    def _continued(self, arguments: dict[str, Any], before: int) -> dict[str, Any]:
        """The arguments of tokens that follow a prompt."""
        assert self.samples is not None
        tokens = arguments.get("inputs_embeds")
        tokens = arguments["input_ids"] if tokens is None else tokens
        samples = self.samples.extended(before + tokens.shape[1])
        return closed_up(arguments, arguments, samples, [self.variation], before)

    def leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """After the model."""
        self.blockade.end()

    def _continues(self, ids: Tensor) -> bool:
        """Whether these are the prompts seen last, with tokens that were generated."""
        if self.prompt is None or self.samples is None:
            return False
        n, tokens = self.prompt.shape
        longer = len(ids) == n and ids.shape[1] > tokens
        return longer and torch.equal(ids[:, :tokens], self.prompt.to(ids.device))

    def _spans(self, ids: Tensor) -> Spans | None:
        """The masks that were said, once for each beam of a sample."""
        if self.said.spans is None:
            return None
        times = len(ids) // max(len(next(iter(self.said.spans.values()))), 1)
        masks = {k: torch.as_tensor(m) for k, m in self.said.spans.items()}
        return Spans(**{k: m.repeat_interleave(max(times, 1), 0) for k, m in masks.items()})

    def _names(self, ids: Tensor) -> tuple[str, ...] | None:
        """Those that were said; None, a hash of the content, where noise is drawn by them."""
        if self.said.ids is not None:
            times = max(len(ids) // max(len(self.said.ids), 1), 1)
            return tuple(name for name in self.said.ids for _ in range(times))
        return None if self.variation.embedding else tuple(map(str, range(len(ids))))
