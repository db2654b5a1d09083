"""What each sample adds to the bounds, in nats, and what uncertain means take off them."""

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
    """What an output tells beyond the mean target of the sample's group."""
    return (targets * (outputs - _log_above_zero(_means(targets, groups))[groups])).sum(-1)


def lacked_information(
    targets: Float64[Tensor, "n concepts"], outputs: Float64[Tensor, "layers n concepts"]
) -> Float64[Tensor, "layers n"]:
    """KL(target || output)."""
    return (targets * (_log_above_zero(targets) - outputs)).sum(-1)


def shortfall(
    targets: Float64[Tensor, "n concepts"],
    groups: Int64[Tensor, " n"],
    clusters: Int64[Tensor, " n"],
) -> float:
    """About how much a bound loses by its uncertain means.

    On average KL(mean || true mean), weighted by the groups' sizes; to second order the sum over
    groups and concepts of variance of the mean / (2 mean), where clusters count as one.
    """
    means, sizes = _means(targets, groups), groups.bincount()
    cells, cell = torch.stack([groups, clusters]).unique(dim=1, return_inverse=True)
    sums = targets.new_zeros(cells.shape[1], targets.shape[1])
    sums.index_add_(0, cell, targets - means[groups])
    squares = torch.zeros_like(means).index_add_(0, cells[0], sums.square())
    return float((squares / sizes[:, None] / means.clamp_min(SMALLEST)).sum()) / (2 * len(targets))


def _means(values: Tensor, groups: Tensor) -> Float64[Tensor, "groups concepts"]:
    sizes = groups.bincount()
    sums = values.new_zeros(len(sizes), values.shape[1]).index_add_(0, groups, values)
    return sums / sizes[:, None]


def _log_above_zero(p: Tensor) -> Tensor:
    return p.clamp_min(SMALLEST).log()
