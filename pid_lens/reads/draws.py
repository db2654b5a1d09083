"""Noise draws of one condition: mean and variance of their probabilities."""

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
    """Average the probabilities over noise draws: log mean_d exp(answers_d).

    Example:
        >>> import torch
        >>> draws = torch.tensor([[0.2, 0.8], [0.6, 0.4]]).log()[None, :, None]  # [1, 2, 1, 2]
        >>> mean_probability(draws).exp()
        tensor([[[0.4000, 0.6000]]])
    """
    draws = answers.shape[1]
    return answers[:, 0] if draws == 1 else answers.logsumexp(1) - math.log(draws)


def spread_of(
    answers: Float[Tensor, "layers draws n answers"],
) -> Float[Tensor, "layers n answers"]:
    """Compute the variance over noise draws of each option's posterior; 0 for a single draw.

    The posterior is normalised among the options; the variance is unbiased (n - 1).

    Example:
        >>> import torch
        >>> draws = torch.tensor([[0.2, 0.8], [0.6, 0.4]]).log()[None, :, None]  # [1, 2, 1, 2]
        >>> spread_of(draws)
        tensor([[[0.0800, 0.0800]]])
    """
    posterior = answers.softmax(-1).nan_to_num(nan=0.0)
    return posterior.var(1) if answers.shape[1] > 1 else torch.zeros_like(answers[:, 0])


def concat_spreads(spreads: list[Tensor | None]) -> Tensor | None:
    """Concatenate the spreads of several parts along the samples; None unless all have one."""
    known = [spread for spread in spreads if spread is not None]
    return torch.cat(known, 2) if known and len(known) == len(spreads) else None
