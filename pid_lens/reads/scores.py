"""Scores: how right and how sure answers are, as functions of tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int
    from torch import Tensor


def is_unanswered(
    log_probs: Float[Tensor, "*batch answers"], tau: float
) -> Bool[Tensor, "*batch"]:
    """Where the options' mass lies below tau: no answer yet."""
    mass = log_probs.double().logsumexp(-1)
    return mass < math.log(tau) if tau > 0 else mass == -math.inf


def log_posteriors(
    log_probs: Float[Tensor, "*batch n answers"], present: Bool[Tensor, "n answers"], tau: float
) -> Float64[Tensor, "*batch n answers"]:
    """Log-probabilities normalised over a sample's options; uniform below tau.

    ::

        log p(y) - log sum_y' p(y')   where the sum is tau or more, else -log(number of options)
    """
    logs = log_probs.double()
    mass = logs.logsumexp(-1, keepdim=True)
    # what stands in for no answer: each of the options that a sample has, alike
    uniform = torch.where(present, -present.sum(-1, keepdim=True).double().log(), -math.inf)
    return torch.where(is_unanswered(log_probs, tau)[..., None], uniform, logs - mass)


def accuracy(log_probs: Float[Tensor, "n answers"], labels: Int[Tensor, " n"]) -> float:
    """Share of samples whose likeliest option is the right one."""
    return (log_probs.argmax(-1) == labels).double().mean().item()


def cross_entropy(log_posterior: Float[Tensor, "n answers"], labels: Int[Tensor, " n"]) -> float:
    """Mean of -log2 p(right option), bits."""
    return -log_posterior.gather(-1, labels[:, None]).mean().item() / math.log(2)


def calibration_error(
    log_posterior: Float[Tensor, "n answers"], labels: Int[Tensor, " n"], bins: int
) -> float:
    """Expected calibration error: mean |confidence - accuracy| over bins of confidence."""
    confidence, best = log_posterior.exp().max(-1)
    # how much surer than right, summed within each bin
    surplus = confidence - (best == labels).double()
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, surplus)
    return sums.abs().sum().item() / len(labels)
