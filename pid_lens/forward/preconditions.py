"""Preconditions of a forward pass: what it must fulfil so that its reads can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.model import cached_tokens, has_floats, tolerances_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.model import Anatomy

WHOLE_PROMPTS = (
    "a Lens reads prompts whole, so `generate` and chats that go on cannot run inside it: call "
    "model(**inputs) on the whole prompt inside the lens, and generate outside"
)


def require_options(options: Int[Tensor, "n answers"], anatomy: Anatomy) -> None:
    """Require that there are options, and that they are token ids of the model.

    Raises:
        ValueError: no options, or an id beyond the vocabulary.

    Example:
        >>> import pid_lens, torch
        >>> anatomy = pid_lens.dissect(pid_lens.demo.load()[0])
        >>> require_options(torch.tensor([[3, 5]]), anatomy)
        >>> require_options(torch.tensor([[3, 99]]), anatomy)
        Traceback (most recent call last):
            ...
        ValueError: option 99 is not a token id: this model has 56 tokens
    """
    if not options.numel():
        raise ValueError("no options: choices=('A', 'B'), or options in the batch")
    weight: Any = anatomy.unembed.weight
    if int(options.max()) >= len(weight):
        raise ValueError(
            f"option {int(options.max())} is not a token id: this model has {len(weight)} tokens"
        )


def require_image(arguments: Mapping[str, Any], image_token: int | None) -> None:
    """Require pixels for prompts with image tokens; without them the model runs on text alone.

    Raises:
        ValueError: image tokens without pixels.
    """
    ids: Tensor = arguments["input_ids"]
    if image_token is None or not bool((ids == image_token).any()):
        return
    given = arguments.values()
    if not any(has_floats(value) for value in given):
        raise ValueError(
            "these prompts have image tokens, and no pixels came with them, so the model would "
            "run on text alone: hand over the pixels, model(**inputs), bridge(ids, **vision)"
        )


def require_fresh_cache(arguments: Mapping[str, Any]) -> None:
    """Require that a KV cache is empty, and can grow to the rows of several conditions.

    Raises:
        ValueError: it holds tokens, or is not a DynamicCache.
    """
    cache = arguments.get("past_key_values")
    if cached_tokens(arguments):
        held = cached_tokens(arguments)
        raise ValueError(f"a KV cache that holds {held} tokens came in, but {WHOLE_PROMPTS}")
    if cache is not None and "DynamicCache" not in {c.__name__ for c in type(cache).__mro__}:
        raise ValueError(
            f"a {type(cache).__name__} cannot grow to the rows of several conditions: hand over "
            "none inside a lens, or a DynamicCache"
        )


def require_prompt_width(embeddings: Float[Tensor, "n tokens width"], samples: Samples) -> None:
    """Raise a ValueError where decoder and model get different numbers of rows or tokens."""
    if embeddings.shape[:2] != samples.spans.shape:
        raise ValueError(
            f"the decoder was given [n, tokens] = {list(embeddings.shape[:2])} for an input of "
            f"{list(samples.spans.shape)}: this model widens its prompt, which a Lens cannot "
            "follow"
        )


def confirm_last_layer(
    read: Float[Tensor, "n answers"],
    logits: Float[Tensor, "n tokens vocabulary"],
    samples: Samples,
) -> None:
    """Require that the last layer's reads equal the model's own logits, as log-probabilities.

    Args:
        read: log-probabilities of the options, read at the last layer.
        logits: the model's, of all positions or of the last alone (``logits_to_keep=1``).
        samples: the n samples, with their options and answer positions.

    Raises:
        ValueError: they differ by more than precision explains: the anatomy is wrong.
    """
    if logits.ndim != 3:
        return
    at = samples.spans.positions("answer").to(logits.device)
    tokens = samples.spans.shape[1]
    if logits.shape[1] == 1 and bool((at == tokens - 1).all()):
        at = torch.zeros_like(at)
    elif logits.shape[1] != tokens:
        return
    # Log-softmax of the model's logits at the answer position, gathered at the options
    own = logits[torch.arange(len(at), device=at.device), at].float().log_softmax(-1)
    options = samples.options.to(own.device)
    own = own.gather(-1, options.clamp(min=0)).masked_fill(options < 0, -math.inf)
    # Maximum difference in nats; -inf - -inf (an absent option) is NaN, and counts as 0
    error = (own - read.to(own.device)).nan_to_num(nan=0.0).abs().max().item()
    if error > tolerances_of(logits.dtype).last_layer:
        raise ValueError(
            f"the last layer read through the final norm and the unembedding is {error:.2g} nats "
            "off the model's own answer: something else comes after its last layer (a soft cap, a "
            "scale). Hand over the model's parts: dataclasses.replace("
            "pid_lens.dissect(model), softcap=..., scale=...) as anatomy=. If it is an edit of "
            "your own after the last layer: Lens(..., check=False)"
        )
