"""Shannon entropy and mutual information of probability tables, in nats."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

NATS_PER_BIT = math.log(2)


def entropy(masses: Float64[Tensor, "*batch answers"]) -> Float64[Tensor, "*batch"]:
    """Compute the Shannon entropy H = -sum p log p over the last axis, nats; 0 log 0 = 0.

    Args:
        masses: non-negative, summing to 1 over the last axis.

    Returns:
        One entropy for each leading index.

    Example:
        >>> bits = entropy(torch.tensor([0.5, 0.5], dtype=torch.float64)) / NATS_PER_BIT
        >>> bits.round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    return -torch.xlogy(masses, masses).sum(-1)


def table_information(joint: Float64[Tensor, "*batch n answers"]) -> Float64[Tensor, "*batch"]:
    """Compute the mutual information I(X; Y) = sum p(x,y) log(p(y|x) / p(y)) of a table, nats.

    Written as the ratio of posterior and prior, so that a source without information gives 0 to
    rounding, however small the masses of its symbols are.

    Args:
        joint: masses p(x, y), summing to 1 over the last two axes.

    Returns:
        One value for each leading index.

    Example:
        >>> copy = torch.eye(2, dtype=torch.float64) / 2
        >>> (table_information(copy) / NATS_PER_BIT).round(decimals=4)
        tensor(1., dtype=torch.float64)
    """
    # Likelihood ratio p(x,y) / (p(x) p(y)); cells without mass contribute 0 log 1 = 0
    prior, rows = joint.sum(-2, keepdim=True), joint.sum(-1, keepdim=True)
    likelier = safe_ratio(joint, rows * prior)
    return (joint * likelier.where(joint > 0, 1.0).log()).sum((-2, -1))


def safe_ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide part by whole, 0 where the whole is 0 (the gradient, too, stays finite).

    Example:
        >>> safe_ratio(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
        tensor([0.2500, 0.0000])
    """
    return torch.where(whole > 0, part / whole.where(whole > 0, 1.0), 0.0)
