"""Families whose image features enter a decoder besides its embeddings, or know the question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from pid_lens.model.decoder_inputs import (
    Entry,
    samples_at_site,
    spans_beside_tokens,
    spans_of_whole,
)
from pid_lens.model.frameworks import forward_without_hooks
from pid_lens.model.hooks import hooked

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import nn

    from pid_lens.inputs import Samples


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
        inside = samples_at_site(samples, f"{self.argument}.", visual)
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
        inside = spans_beside_tokens(samples.spans, seen)

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
            samples, spans=spans_of_whole("question", samples.spans, mask), site=self.site
        )
        return Entry(
            forward_without_hooks(self.words)(ids), inside, lambda arguments, vectors: None
        )

    @torch.no_grad()
    def image_features(
        self,
        given: Mapping[str, Any],
        words: Float[Tensor, "n words width"],
        removed: Bool[Tensor, "n words"],
    ) -> Float[Tensor, "n tokens width"]:
        """The image's features that the Q-Former computes from other words.

        Args:
            given: the whole model's arguments.
            words: the words' embeddings, in place of the model's own.
            removed: words that are not there at all.
        """
        ids: Tensor = given[self.inputs[0]]
        attended = given.get(self.inputs[1])
        mask = torch.ones_like(ids) if attended is None else attended
        named = dict(zip(self.inputs, (ids, mask * ~removed.to(mask.device)), strict=True))
        with hooked(after=[(self.words, lambda module, args, kwargs, output: words)]):
            found = self.features(given["pixel_values"], **named, return_dict=True)
        features: Tensor = found.pooler_output
        return features


def _seen_states(
    mask: Tensor | None, states: Float[Tensor, "n tokens width"]
) -> Bool[Tensor, "n tokens"]:
    """Image states that some token looks at: others are tiles of padding."""
    if mask is None or mask.shape[-1] != states.shape[1]:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    seen = (mask == 0).flatten(1, -2)
    telling = ~seen.all(-1, keepdim=True)  # rows of text before the image have no mask at all
    return (seen & telling).any(1) | ~telling.any(1)


def _scattered(
    features: Float[Tensor, "visual width"], visual: Bool[Tensor, "n tokens"]
) -> Float[Tensor, "n tokens width"]:
    """Features at their tokens, 0 elsewhere."""
    whole = features.new_zeros(*visual.shape, features.shape[-1])
    whole[visual.to(whole.device)] = features
    return whole
