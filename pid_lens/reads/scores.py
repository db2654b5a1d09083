"""Scores of answers: posteriors, accuracy, cross-entropy and calibration error of tensors."""

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
    """Find answers whose mass on the options is below tau: no answer yet."""
    # Full-vocabulary probability of all options together, in logs
    mass = log_probs.double().logsumexp(-1)
    return mass < math.log(tau) if tau > 0 else mass == -math.inf


def log_posteriors(
    log_probs: Float[Tensor, "*batch n answers"], present: Bool[Tensor, "n answers"], tau: float
) -> Float64[Tensor, "*batch n answers"]:
    """Normalise log-probabilities over a sample's options; uniform below tau.

    ::

        log p(y) - log sum_y' p(y')   where the sum is tau or more, else -log(number of options)
    """
    logs = log_probs.double()
    mass = logs.logsumexp(-1, keepdim=True)
    # No answer: the uniform distribution over the options that a sample has
    uniform = torch.where(present, -present.sum(-1, keepdim=True).double().log(), -math.inf)
    # Log-softmax over the options, -inf where an option is absent
    return torch.where(is_unanswered(log_probs, tau)[..., None], uniform, logs - mass)


def accuracy(log_probs: Float[Tensor, "n answers"], labels: Int[Tensor, " n"]) -> float:
    """Compute the share of samples whose likeliest option is the label."""
    return (log_probs.argmax(-1) == labels).double().mean().item()


def cross_entropy(log_posterior: Float[Tensor, "n answers"], labels: Int[Tensor, " n"]) -> float:
    """Compute the mean of -log2 p(label), bits."""
    return -log_posterior.gather(-1, labels[:, None]).mean().item() / math.log(2)


def calibration_error(
    log_posterior: Float[Tensor, "n answers"], labels: Int[Tensor, " n"], bins: int
) -> float:
    """Compute the expected calibration error, with ``bins`` equal bins of confidence.

    |confidence - accuracy| of each bin, weighted by its share of the samples::

        sum_b |sum over samples of bin b of (confidence - correct)| / n
    """
    confidence, best = log_posterior.exp().max(-1)
    # Confidence minus correctness of each sample
    surplus = confidence - (best == labels).double()
    # Equal-width bins of confidence; confidence 1 belongs to the last
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    # Sum within each bin: its size times (mean confidence - accuracy)
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_of, surplus)
    return sums.abs().sum().item() / len(labels)
