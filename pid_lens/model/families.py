"""Image features besides the embeddings: DeepStack, cross-attention, question-aware Q-Former."""

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
    """DeepStack: image features that are added to the residual stream after early layers.

    Attributes:
        argument: the decoder's argument: a list of features, [visual, width] per layer.
        mask: the decoder's argument with the tokens that they are added to, [n, tokens].

    Source:
        DeepStack: deeply stacking visual tokens is surprisingly simple and effective for LMMs
        (Meng et al., 2024), https://arxiv.org/abs/2406.04334

    Example:
        >>> import torch
        >>> from pid_lens.inputs import Samples, Spans
        >>> ids = torch.tensor([[9, 9, 5]])
        >>> samples = Samples.of_spans(Spans(image=ids == 9, question=ids == 5))
        >>> call = {"deepstack_visual_embeds": [torch.ones(2, 4)], "visual_pos_masks": ids == 9}
        >>> [entry] = DeepStack().entries(call, samples)
        >>> entry.samples.site, entry.vectors.sum(-1).tolist()
        ('deepstack_visual_embeds.0', [[4.0, 4.0, 0.0]])
    """

    argument: str = "deepstack_visual_embeds"
    mask: str = "visual_pos_masks"

    def entries(self, arguments: Mapping[str, Any], samples: Samples) -> list[Entry]:
        """List the features of each layer, at the tokens that they are added to."""
        visual: Tensor = arguments[self.mask]
        inside = samples_at_site(samples, f"{self.argument}.", visual)
        return [
            Entry(
                _scatter(features, visual),
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
    """Cross-attention: image features at no token position, to which text tokens attend.

    Attributes:
        argument: the decoder's argument that holds them, [(n tiles), tokens, width].

    Example:
        >>> import torch
        >>> from pid_lens.inputs import Samples, Spans
        >>> ids = torch.tensor([[9, 5]])
        >>> samples = Samples.of_spans(Spans(image=ids == 9, question=ids == 5))
        >>> two_tiles = {"cross_attention_states": torch.zeros(2, 3, 4)}
        >>> [entry] = CrossAttention().entries(two_tiles, samples)
        >>> {name: mask.sum().item() for name, mask in entry.samples.spans.items()}
        {'image': 6, 'question': 0}
    """

    argument: str = "cross_attention_states"

    def entries(self, arguments: Mapping[str, Any], samples: Samples) -> list[Entry]:
        """List one entry: all image features of each sample, of all its images and tiles."""
        states: Tensor = arguments[self.argument]
        whole = rearrange(states, "(n tiles) tokens width -> n (tiles tokens) width", n=samples.n)
        attended = _attended_states(arguments.get("cross_attention_mask"), whole)
        inside = spans_beside_tokens(samples.spans, attended)

        def put(arguments: dict[str, Any], vectors: Tensor) -> None:
            tokens = states.shape[1]
            arguments[self.argument] = rearrange(
                vectors, "n (tiles tokens) width -> (n tiles) tokens width", tokens=tokens
            )

        return [Entry(whole, replace(samples, spans=inside, site=self.argument), put)]


@dataclass(frozen=True, eq=False)
class QuestionAwareImage:
    """A question-aware Q-Former: it reads the question, so the image features depend on it.

    Where the question is ablated, the features are recomputed with the Q-Former's words ablated
    too, so that the vision tower runs once more for each such condition and draw.

    Attributes:
        words: the Q-Former's word embeddings.
        features: from ``pixel_values`` and the Q-Former's inputs to image features,
            ``pooler_output``.
        inputs: names of the Q-Former's token ids and attention mask in the model's call.
        site: name of the place where the words enter.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> words = torch.nn.Embedding(10, 4)
        >>> def features(pixels, qformer_input_ids, qformer_attention_mask, return_dict):
        ...     return SimpleNamespace(pooler_output=pixels + words(qformer_input_ids).sum((1, 2)))
        >>> aware = QuestionAwareImage(words, features)
        >>> call = {"pixel_values": torch.ones(1), "qformer_input_ids": torch.tensor([[3, 5]])}
        >>> aware.image_features(call, torch.full((1, 2, 4), 0.5), torch.zeros(1, 2).bool())
        tensor([5.])
    """

    words: nn.Module
    features: Callable[..., Any]
    inputs: tuple[str, str] = ("qformer_input_ids", "qformer_attention_mask")
    site: str = "qformer"

    def entry(self, given: Mapping[str, Any], samples: Samples) -> Entry:
        """Return the entry of the Q-Former's word embeddings; padding has no span.

        Raises:
            ValueError: the call has no pixel_values, or no token ids of the Q-Former.
        """
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
        """Recompute the image features with other word embeddings in the Q-Former.

        Args:
            given: the whole model's arguments.
            words: word embeddings, in place of the model's own.
            removed: words that are masked from the Q-Former's attention.
        """
        ids: Tensor = given[self.inputs[0]]
        attended = given.get(self.inputs[1])
        mask = torch.ones_like(ids) if attended is None else attended
        named = dict(zip(self.inputs, (ids, mask * ~removed.to(mask.device)), strict=True))
        with hooked(after=[(self.words, lambda module, args, kwargs, output: words)]):
            found = self.features(given["pixel_values"], **named, return_dict=True)
        features: Tensor = found.pooler_output
        return features


def _attended_states(
    mask: Tensor | None, states: Float[Tensor, "n tokens width"]
) -> Bool[Tensor, "n tokens"]:
    """Mask the image features that some token attends to: the rest are tiles of padding."""
    if mask is None or mask.shape[-1] != states.shape[1]:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    attended = (mask == 0).flatten(1, -2)
    masked = ~attended.all(-1, keepdim=True)  # rows of text before the image have no mask at all
    return (attended & masked).any(1) | ~masked.any(1)


def _scatter(
    features: Float[Tensor, "visual width"], visual: Bool[Tensor, "n tokens"]
) -> Float[Tensor, "n tokens width"]:
    """Scatter features to their tokens, 0 elsewhere."""
    whole = features.new_zeros(*visual.shape, features.shape[-1])
    whole[visual.to(whole.device)] = features
    return whole
