"""Precision: tolerances for rounding errors between two computations of a number, by dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of one dtype: differences that rounding alone may make between equal numbers.

    Attributes:
        last_layer: nats: the log-probability of an option, from the last layer's residual stream
            through final norm and unembedding, against the model's own. More means that the
            anatomy is wrong.
        cached_prompt: nats: the log-probability of a token after a prompt whose KV cache is
            reused, against that after the prompt run anew. More means that it cannot be reused.
        unseen_text: share of its norm: an image token's hidden state before two texts. More means
            that it depends on the text.
        roundings: roundings of the largest logit, eps each: one logit by two computations. More
            means that something leaks from the one into the other.
    """

    last_layer: float
    cached_prompt: float
    unseen_text: float
    roundings: int


TOLERANCES = {
    torch.float64: Tolerances(last_layer=0.5, cached_prompt=1e-3, unseen_text=1e-4, roundings=32),
    torch.float32: Tolerances(last_layer=1e-2, cached_prompt=1e-3, unseen_text=1e-4, roundings=32),
}
"""Of a model's dtype. Reads are float32 at best, so float64 is held to no more than float32; its
``last_layer``, by which reads are checked in passing, is as wide as that of half precision."""
HALF_TOLERANCES = Tolerances(last_layer=0.5, cached_prompt=0.05, unseen_text=1e-2, roundings=4)
"""Of bfloat16, float16 and narrower dtypes. Their sums are made in float32, so that only a few,
though large, rounding errors add up."""


def tolerances_of(dtype: torch.dtype) -> Tolerances:
    """Look up the tolerances of a dtype: those of half precision for any that is not listed.

    Example:
        >>> import torch
        >>> tolerances_of(torch.float32).last_layer, tolerances_of(torch.bfloat16).last_layer
        (0.01, 0.5)
    """
    return TOLERANCES.get(dtype, HALF_TOLERANCES)
