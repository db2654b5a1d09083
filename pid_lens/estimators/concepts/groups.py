"""Question groups: validation, and the random exchange that is the permutation baseline."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int64
from torch import Tensor

from pid_lens.estimators.common.clusters import as_clusters as numbered
from pid_lens.estimators.concepts.inputs import Inputs, Labels


def group_rows(groups: Labels, given: Inputs, least: int) -> Int64[Tensor, " n"]:
    """Convert question groups to numbers from 0 and require that each can be learned from.

    Raises:
        ValueError: not one per sample, one group only, or a group that lies in so few folds that
            some bottlenecks would not learn from it.
    """
    of = numbered(groups, len(given.targets))
    names = groups.tolist() if hasattr(groups, "tolist") else groups
    if not of.any():
        raise ValueError(
            f"groups name one group only, {names[0]!r}: leave groups out for the unconditional "
            "bound"
        )
    for group in range(int(of.max()) + 1):
        inside = (of == group).nonzero().flatten()
        if len(given.folds[inside].unique()) < least:
            raise ValueError(_say_too_few(names[int(inside[0])], inside, given, least))
    return of


def _say_too_few(name: object, inside: Tensor, given: Inputs, least: int) -> str:
    held, of = len(inside), "samples"
    if given.clusters is not None:
        held, of = len(given.clusters[inside].unique()), "clusters"
    return (
        f"too few {of} in group {name!r}: {held}, in {len(given.folds[inside].unique())} of the "
        f"{int(given.folds.max()) + 1} folds, and it needs {least} of them: make fewer, larger "
        "groups of questions"
    )


def exchange_within(groups: Int64[Tensor, " n"], given: Inputs, seed: int) -> Int64[Tensor, " n"]:
    """Exchange groups at random between clusters of a fold: groups without information.

    A sample without clusters is a cluster of its own. A cluster hands on all its groups, so that
    a group of few clusters stays one of few clusters; in random order, as the first question on
    each image may always be of one group. Between clusters of unequal size groups are repeated
    from the start, or some are left over. Exchanges stay within folds: each group keeps its share
    of every fold.

    Args:
        groups: of each sample, from 0.
        given: its folds and clusters.
        seed: of the exchange.
    """
    generator = torch.Generator().manual_seed(seed)
    of = torch.arange(len(groups)) if given.clusters is None else given.clusters
    members = of.argsort(stable=True).split(of.bincount().tolist())
    found = torch.empty_like(groups)
    for fold in range(int(given.folds.max()) + 1):
        # Permute the clusters of the fold: taker i receives the groups of giver i
        takers = of[given.folds == fold].unique()
        givers = takers[torch.randperm(len(takers), generator=generator)]
        for taker, giver in zip(takers.tolist(), givers.tolist(), strict=True):
            handed_on = groups[members[giver]]
            found[members[taker]] = _deal(handed_on, len(members[taker]), generator)
    return found


def _deal(groups: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(groups), generator=generator)
    return groups[order.repeat(math.ceil(count / len(groups)))[:count]]
