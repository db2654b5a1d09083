"""Entrances: every way by which image and question come into a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

from pid_lens.forking import repeat_rows
from pid_lens.frameworks import unwatched
from pid_lens.hooks import hooked
from pid_lens.positions import closed_up
from pid_lens.spans import Spans

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import nn

    from pid_lens.anatomy import Anatomy
    from pid_lens.conditions import Variation
    from pid_lens.samples import Samples

EMBEDDINGS = "inputs_embeds"


@dataclass(frozen=True, eq=False)
class Entry:
    """Vectors that enter at one site, and how edited ones are put in their place."""

    vectors: Float[Tensor, "n tokens width"]
    samples: Samples
    """With the spans of these tokens: empty where a span does not enter here."""
    put: Callable[[dict[str, Any], Tensor], None]
    """Puts vectors, of any number of rows, into arguments of as many."""


class Entrance(Protocol):
    """A way into the decoder besides its embeddings."""

    @property
    def argument(self) -> str:
        """The decoder's argument that holds it."""

    def entries(self, arguments: Mapping[str, Any], samples: Samples) -> list[Entry]:
        """What enters, site by site."""


def embeddings_of(arguments: Mapping[str, Any], samples: Samples) -> Entry:
    """The main entrance, where images are merged in already."""

    def put(arguments: dict[str, Any], vectors: Tensor) -> None:
        arguments[EMBEDDINGS] = vectors

    return Entry(arguments[EMBEDDINGS], samples, put)


def embedded(decoder: nn.Module, arguments: dict[str, Any]) -> dict[str, Any]:
    """A decoder's arguments with embeddings in place of token ids, where it was given those."""
    ids = arguments.get("input_ids")
    if arguments.get(EMBEDDINGS) is not None or ids is None:
        return arguments
    table: Any = decoder
    return {**arguments, "input_ids": None, EMBEDDINGS: table.get_input_embeddings()(ids)}


def entering(
    entrances: Sequence[Entrance], arguments: Mapping[str, Any], samples: Samples
) -> list[Entry]:
    """Everything that enters, the embeddings first."""
    given = [one for one in entrances if arguments.get(one.argument) is not None]
    sides = [entry for one in given for entry in one.entries(arguments, samples)]
    return [embeddings_of(arguments, samples), *sides]


def varied(
    anatomy: Anatomy,
    given: Mapping[str, Any],
    arguments: dict[str, Any],
    samples: Samples,
    variations: Sequence[Variation],
) -> dict[str, Any]:
    """A decoder's arguments, repeated once a variation, with what each one hides hidden.

    Args:
        anatomy: the model's parts.
        given: the whole model's arguments.
        arguments: the decoder's, for n samples.
        samples: the n samples.
        variations: what to hide in each copy.
    """
    repeated = repeat_rows(arguments, samples.n, len(variations))
    main, *sides = entering(anatomy.entrances, arguments, samples)
    for entry in sides:
        entry.put(repeated, torch.cat([v.edit(entry.vectors, entry.samples) for v in variations]))
    embeddings = [v.edit(_base(anatomy, given, main, v), samples) for v in variations]
    main.put(repeated, torch.cat(embeddings))
    return closed_up(repeated, arguments, samples, variations)


def _base(
    anatomy: Anatomy, given: Mapping[str, Any], main: Entry, variation: Variation
) -> Float[Tensor, "n tokens width"]:
    """The embeddings before anything is hidden in them, the image as the variation sees it."""
    aware = anatomy.question_aware
    seen = None if aware is None else aware.seen(given, main.samples, variation)
    if seen is None:
        return main.vectors
    at = main.samples.spans["image"].to(main.vectors.device)
    return main.vectors.masked_scatter(at[..., None], seen.to(main.vectors))


@dataclass(frozen=True)
class DeepStack:
    """Image features that are added behind early layers, one tensor a layer.

    Source:
        DeepStack: deeply stacking visual tokens is surprisingly simple and effective for LMMs
        (Meng et al., 2024), https://arxiv.org/abs/2406.04334
    """

    argument: str = "deepstack_visual_embeds"
    mask: str = "visual_pos_masks"

    def entries(self, arguments: Mapping[str, Any], samples: Samples) -> list[Entry]:
        """The features of each layer, at the tokens that they are added to."""
        visual: Tensor = arguments[self.mask]
        inside = at_site(samples, f"{self.argument}.", visual)
        return [
            Entry(
                _scattered(features, visual),
                replace(inside, site=f"{inside.site}{layer}"),
                self._putter(layer),
            )
            for layer, features in enumerate(arguments[self.argument])
        ]

    def _putter(self, layer: int) -> Callable[[dict[str, Any], Tensor], None]:
        def put(arguments: dict[str, Any], vectors: Tensor) -> None:
            features = list(arguments[self.argument])
            features[layer] = vectors[arguments[self.mask].to(vectors.device)]
            arguments[self.argument] = features

        return put


@dataclass(frozen=True)
class CrossAttention:
    """Image states that text tokens look at in layers of their own; no token holds them."""

    argument: str = "cross_attention_states"

    def entries(self, arguments: Mapping[str, Any], samples: Samples) -> list[Entry]:
        """All of a sample's image states; a sample may have several images or tiles."""
        states: Tensor = arguments[self.argument]
        whole = rearrange(states, "(n tiles) tokens width -> n (tiles tokens) width", n=samples.n)
        seen = _seen_states(arguments.get("cross_attention_mask"), whole)
        inside = beside_tokens(samples.spans, seen)

        def put(arguments: dict[str, Any], vectors: Tensor) -> None:
            tokens = states.shape[1]
            arguments[self.argument] = rearrange(
                vectors, "n (tiles tokens) width -> (n tiles) tokens width", tokens=tokens
            )

        return [Entry(whole, replace(samples, spans=inside, site=self.argument), put)]


@dataclass(frozen=True, eq=False)
class QuestionAwareImage:
    """A Q-Former that reads the question while it looks: image features know the question.

    Where the question is hidden, the features are computed anew with the Q-Former's words
    hidden too, so that the vision tower runs once more for each such condition and draw.
    """

    words: nn.Module
    """The Q-Former's word embeddings."""
    features: Callable[..., Any]
    """From ``pixel_values`` and the Q-Former's inputs to image features, ``pooler_output``."""
    inputs: tuple[str, str] = ("qformer_input_ids", "qformer_attention_mask")
    site: str = "qformer"

    def entry(self, given: Mapping[str, Any], samples: Samples) -> Entry:
        """The words' embeddings, of which padding is no part of the question."""
        ids, attended = (given.get(name) for name in self.inputs)
        if ids is None or given.get("pixel_values") is None:
            raise ValueError(
                "this model's image features depend on the question, so pixel_values and "
                f"{self.inputs[0]} are needed in the model's call"
            )
        mask = torch.ones_like(ids).bool() if attended is None else attended.bool()
        inside = replace(
            samples, spans=standing_for("question", samples.spans, mask), site=self.site
        )
        return Entry(unwatched(self.words)(ids), inside, lambda arguments, vectors: None)

    @torch.no_grad()
    def seen(
        self, given: Mapping[str, Any], samples: Samples, variation: Variation
    ) -> Float[Tensor, "n tokens width"] | None:
        """The image's features in a variation; None where they are as they were."""
        entry = self.entry(given, samples)
        words = variation.edit(entry.vectors, entry.samples)
        removed = variation.removed(entry.samples)
        if torch.equal(words, entry.vectors) and not bool(removed.any()):
            return None
        ids: Tensor = given[self.inputs[0]]
        attended = given.get(self.inputs[1])
        mask = torch.ones_like(ids) if attended is None else attended
        named = dict(zip(self.inputs, (ids, mask * ~removed.to(mask.device)), strict=True))
        with hooked(after=[(self.words, lambda module, args, kwargs, output: words)]):
            found = self.features(given["pixel_values"], **named, return_dict=True)
        return found.pooler_output


def beside_tokens(spans: Spans, seen: Bool[Tensor, "n states"] | None = None) -> Spans:
    """The spans of states that no token holds: all of them the image's."""
    n, _ = spans.shape
    seen = torch.ones(n, 1, dtype=torch.bool) if seen is None else seen
    return standing_for("image", spans, seen)


def standing_for(whole: str, spans: Spans, inside: Bool[Tensor, "n vectors"]) -> Spans:
    """Spans of vectors that stand for all of one span, and for nothing else.

    A span that covers that one is as good as it; of one that covers a part nobody knows which
    vectors are its: asking for it is a ValueError.
    """
    known = spans.get(whole)
    masks, parts = {}, []
    for name, mask in spans.items():
        covered = known is not None and bool((mask | ~known).all())
        if known is not None and not covered and bool((mask & known).any()):
            parts.append(name)
        else:
            masks[name] = inside & (covered or name == whole)
    return _Entering(masks, whole, tuple(parts))


def _seen_states(
    mask: Tensor | None, states: Float[Tensor, "n tokens width"]
) -> Bool[Tensor, "n tokens"]:
    """Image states that some token looks at: others are tiles of padding."""
    if mask is None or mask.shape[-1] != states.shape[1]:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    seen = (mask == 0).flatten(1, -2)
    telling = ~seen.all(-1, keepdim=True)  # rows of text before the image have no mask at all
    return (seen & telling).any(1) | ~telling.any(1)


def at_site(samples: Samples, site: str, entering: Bool[Tensor, "n tokens"]) -> Samples:
    """The samples at a site where some tokens alone enter."""
    masks = {name: mask & entering.to(mask.device) for name, mask in samples.spans.items()}
    return replace(samples, spans=_Entering(masks), site=site)


class _Entering(Spans):
    """Spans of which some may have no token, and some are not known."""

    def __init__(
        self, masks: Mapping[str, Tensor], whole: str = "", parts: tuple[str, ...] = ()
    ) -> None:
        """Takes masks, and the names of spans that are parts of the whole one."""
        self._masks, self._whole, self._parts = dict(masks), whole, parts

    def __getitem__(self, name: str) -> Bool[Tensor, "n tokens"]:
        if name in self._parts:
            raise ValueError(
                f"span {name!r} is a part of the {self._whole}, which reaches this decoder in "
                f"another way too, where its parts cannot be told apart: take {self._whole!r}"
            )
        return super().__getitem__(name)


def _scattered(
    features: Float[Tensor, "visual width"], visual: Bool[Tensor, "n tokens"]
) -> Float[Tensor, "n tokens width"]:
    """Features at their tokens, 0 elsewhere."""
    whole = features.new_zeros(*visual.shape, features.shape[-1])
    whole[visual.to(whole.device)] = features
    return whole
