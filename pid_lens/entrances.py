"""Entrances: every way by which image and question come into a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

from pid_lens.forking import repeat_rows
from pid_lens.hooks import hooked
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


def closed_up(
    repeated: dict[str, Any],
    arguments: Mapping[str, Any],
    samples: Samples,
    variations: Sequence[Variation],
    before: int = 0,
) -> dict[str, Any]:
    """The positions of each variation's tokens, counted without those that it removes.

    So many of the samples' tokens came ``before``, in passes of which a cache holds the keys.
    """
    removed = [variation.removed(samples) for variation in variations]
    if not any(bool(one.any()) for one in removed):
        return repeated
    mask, given = arguments.get("attention_mask"), arguments.get("position_ids")
    plain = isinstance(mask, Tensor) and mask.ndim == 2
    whole = torch.ones_like(removed[0], device=samples.spans["answer"].device)
    attended = mask.bool() if mask is not None and plain else whole
    positions = [_counted(attended, one.to(attended.device), given, before) for one in removed]
    changed = {**repeated, "position_ids": torch.cat(positions, -2)}
    if mask is None:  # without one, positions that stand still are taken for several prompts
        changed["attention_mask"] = attended.long().repeat(len(removed), 1)
    return changed


def _counted(
    attended: Bool[Tensor, "n tokens"],
    removed: Bool[Tensor, "n tokens"],
    given: Tensor | None,
    before: int,
) -> Tensor:
    """Positions without what is removed, of as many axes as those given; else as they are."""
    if given is not None and not bool(removed.any()):
        return given.expand(*given.shape[:-2], len(removed), -1)
    counted = ((attended & ~removed).long().cumsum(-1) - 1).clamp_min(0)[:, before:]
    return counted if given is None else counted.expand(*given.shape[:-2], -1, -1)


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
        everything = torch.ones(whole.shape[:2], dtype=torch.bool, device=whole.device)
        masks = {name: everything & (name == "image") for name in samples.spans}

        def put(arguments: dict[str, Any], vectors: Tensor) -> None:
            tokens = states.shape[1]
            arguments[self.argument] = rearrange(
                vectors, "n (tiles tokens) width -> (n tiles) tokens width", tokens=tokens
            )

        return [Entry(whole, replace(samples, spans=_some(masks), site=self.argument), put)]


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
        masks = {name: mask & (name == "question") for name in samples.spans}
        inside = replace(samples, spans=_some(masks), site=self.site)
        return Entry(self.words.forward(ids), inside, lambda arguments, vectors: None)

    @torch.no_grad()
    def seen(
        self, given: Mapping[str, Any], samples: Samples, variation: Variation
    ) -> Float[Tensor, "n tokens width"] | None:
        """The image's features in a variation; None where they are as they were."""
        entry = self.entry(given, samples)
        words = variation.edit(entry.vectors, entry.samples)
        if torch.equal(words, entry.vectors):
            return None
        named = {name: given[name] for name in self.inputs if given.get(name) is not None}
        with hooked(after=[(self.words, lambda module, args, kwargs, output: words)]):
            found = self.features(given["pixel_values"], **named, return_dict=True)
        return found.pooler_output


def beside_tokens(spans: Spans) -> Spans:
    """The spans of states that no token holds, [n, 1]: all of them the image's."""
    n, _ = spans.shape
    return _some({name: torch.full((n, 1), name == "image") for name in spans})


def at_site(samples: Samples, site: str, entering: Bool[Tensor, "n tokens"]) -> Samples:
    """The samples at a site where some tokens alone enter."""
    masks = {name: mask & entering.to(mask.device) for name, mask in samples.spans.items()}
    return replace(samples, spans=_some(masks), site=site)


def _some(masks: Mapping[str, Tensor]) -> Spans:
    """Spans of which some may have no token."""
    spans = Spans.__new__(Spans)
    spans._masks = dict(masks)
    return spans


def _scattered(
    features: Float[Tensor, "visual width"], visual: Bool[Tensor, "n tokens"]
) -> Float[Tensor, "n tokens width"]:
    """Features at their tokens, 0 elsewhere."""
    whole = features.new_zeros(*visual.shape, features.shape[-1])
    whole[visual.to(whole.device)] = features
    return whole
