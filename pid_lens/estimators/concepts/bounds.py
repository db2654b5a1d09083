"""The variational bound of mutual information, sample by sample, and its finite-sample bias."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

SMALLEST = 1e-300


def information_bound(
    targets: Float64[Tensor, "n concepts"],
    outputs: Float64[Tensor, "layers n concepts"],
    groups: Int64[Tensor, " n"],
) -> Float64[Tensor, "layers n"]:
    """Compute sum_c t_c log(q_c / m_c): the held-out log-likelihood beyond the group's mean m.

    Its mean over samples is a lower bound of I(C; h), given groups of I(C; h | G), as
    E log q(c | h) <= E log p(c | h) for any q (Barber and Agakov's variational bound).

    Args:
        targets: distribution t of each sample's concepts.
        outputs: natural log of the held-out predictions q.
        groups: the group of each sample, from 0; all 0 for the unconditional bound.

    Source:
        Information maximization in noisy channels: a variational approach (Barber, Agakov, 2003),
        https://papers.neurips.cc/paper_files/paper/2003/hash/a6ea8471c120fe8cc35a2954c9b9c595-Abstract.html
    """
    return (targets * (outputs - _log_above_zero(_means(targets, groups))[groups])).sum(-1)


def lacked_information(
    targets: Float64[Tensor, "n concepts"], outputs: Float64[Tensor, "layers n concepts"]
) -> Float64[Tensor, "layers n"]:
    """Compute KL(target || output) of each sample, nats."""
    return (targets * (_log_above_zero(targets) - outputs)).sum(-1)


def shortfall(
    targets: Float64[Tensor, "n concepts"],
    groups: Int64[Tensor, " n"],
    clusters: Int64[Tensor, " n"],
) -> float:
    """Estimate how much a bound loses by the sampling error of its mean targets, nats.

    The expectation of KL(mean || true mean), weighted by the groups' sizes; to second order the
    sum over concepts of the variance of the mean / (2 mean). The variance is cluster-robust.
    """
    means, sizes = _means(targets, groups), groups.bincount()
    # Cluster-robust variance of a group's mean: squared sums of deviations, cluster by cluster
    cells, cell = torch.stack([groups, clusters]).unique(dim=1, return_inverse=True)
    sums = targets.new_zeros(cells.shape[1], targets.shape[1])
    sums.index_add_(0, cell, targets - means[groups])
    # Second-order (delta method) bias: sum_g n_g / n sum_c var(m_gc) / (2 m_gc)
    squares = torch.zeros_like(means).index_add_(0, cells[0], sums.square())
    return float((squares / sizes[:, None] / means.clamp_min(SMALLEST)).sum()) / (2 * len(targets))


def _means(values: Tensor, groups: Tensor) -> Float64[Tensor, "groups concepts"]:
    sizes = groups.bincount()
    sums = values.new_zeros(len(sizes), values.shape[1]).index_add_(0, groups, values)
    return sums / sizes[:, None]


def _log_above_zero(p: Tensor) -> Tensor:
    return p.clamp_min(SMALLEST).log()
