"""The InfoNCE bound: mutual information from a critic's scores of all pairs of a batch."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

_CELLS = 2**22
"""Scores that are in memory at a time."""


def pointwise_information(
    u: Float64[Tensor, "n features"], v: Float64[Tensor, "n features"]
) -> Float64[Tensor, " n"]:
    r"""Compute each pair's contribution to the InfoNCE bound, nats, with scores s_ij = u_i . v_j.

    .. math::  I_{NCE} = \frac1n \sum_i \Big( s_{ii} - \tfrac12 \log \tfrac1n \sum_j e^{s_{ij}}
        - \tfrac12 \log \tfrac1n \sum_j e^{s_{ji}} \Big)

    A sample is in its own term and, as a negative, in the denominators of all other pairs.
    Both are counted, as its influence on the mean, so that the standard error of the mean of these
    contributions is that of the bound. The bound is at most log n. Scores are computed some rows
    at a time, twice: memory grows with n, not n^2.

    Source:
        Representation learning with contrastive predictive coding (van den Oord, Li, Vinyals,
        2018), https://arxiv.org/abs/1807.03748

    Example:
        >>> one = torch.eye(4, dtype=torch.float64)
        >>> pointwise_information(100 * one, one).exp().round(decimals=4)
        tensor([4., 4., 4., 4.], dtype=torch.float64)
    """
    n = len(u)
    # First pass: log-partition functions of rows, log sum_j e^{s_ij}, and of columns (streaming)
    chunks = torch.arange(n).split(max(_CELLS // n, 1))
    of_x, of_y = u.new_empty(n), u.new_full((n,), -torch.inf)
    for rows in chunks:
        scores = u[rows] @ v.mT
        of_x[rows] = scores.logsumexp(1)
        of_y = of_y.logaddexp(scores.logsumexp(0))
    # Second pass: each sample's total weight in the softmaxes of all rows and of all columns
    in_others = u.new_zeros(n)
    for rows in chunks:
        scores = u[rows] @ v.mT
        in_others += (scores - of_x[rows, None]).exp().sum(0)
        in_others[rows] += (scores - of_y).exp().sum(1)
    # Contribution: s_ii + log n - (log Z_row + log Z_column) / 2, plus 1 - weight / 2 (of mean 0)
    return (u * v).sum(1) + math.log(n) + 1 - (of_x + of_y + in_others) / 2
