"""Draws: several noise draws of one condition, put together as probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def mean_probability(
    answers: Float[Tensor, "layers draws n answers"],
) -> Float[Tensor, "layers n answers"]:
    """Log of the mean over draws of the probabilities whose logs come."""
    draws = answers.shape[1]
    return answers[:, 0] if draws == 1 else answers.logsumexp(1) - math.log(draws)


def spread_of(
    answers: Float[Tensor, "layers draws n answers"],
) -> Float[Tensor, "layers n answers"]:
    """Variance over draws of each option's posterior (among the options); 0 for a single draw."""
    posterior = answers.softmax(-1).nan_to_num(nan=0.0)
    return posterior.var(1) if answers.shape[1] > 1 else torch.zeros_like(answers[:, 0])


def concat_spreads(spreads: list[Tensor | None]) -> Tensor | None:
    """Spreads of several parts along the samples; None unless all have one."""
    known = [spread for spread in spreads if spread is not None]
    return torch.cat(known, 2) if known and len(known) == len(spreads) else None
