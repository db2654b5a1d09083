"""An upper bound from problems within problems: pairs of cells, decomposed once more."""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pid_lens.estimators.cells import Cells, cluster
from pid_lens.estimators.interior_point import solve
from pid_lens.estimators.measures import mutual_information, ratio

_PARTS = 8
_PAIRS = 512
_TOL = 1e-4


def nested_upper(
    q: Float64[Tensor, "cells1 cells2 answers"],
    rows1: Cells,
    rows2: Cells,
    cells1: Cells,
    cells2: Cells,
) -> Float64[Tensor, ""]:
    r"""I(Y; rows) of a coupling of rows that agrees with q on cells and is good within them.

    Each cell is cut into a few parts s. Inside a pair of cells any coupling of their parts that
    has the masses q(c1, c2, y) p(s_i | c_i, y) will do, so each pair is a small problem of the
    same kind; those that matter most are solved, in one batch, and for the rest the parts are
    taken as independent given the answer. By the chain rule::

        I_Q <= I_q(Y; C1, C2) + sum over pairs q(c1, c2) I(Y; S1, S2 | c1, c2) + rest_1 + rest_2

    where rest_i = I(Y; X_i) - I(Y; S_i) is what parts lose, nothing if they are single rows.

    Args:
        q: a coupling of the cells with exact marginals.
        rows1: rows of source 1.
        rows2: rows of source 2.
        cells1: a partition of the first.
        cells2: a partition of the second.

    Returns:
        The bound, nats.
    """
    part1, rest1 = _parts(rows1.masses, cells1)
    part2, rest2 = _parts(rows2.masses, cells2)
    mass = q.sum(-1)
    at = (mass > 0).nonzero()
    p1, p2 = _tables(q, part1, part2, at)
    weights = mass[at[:, 0], at[:, 1]]
    independent = solve(p1, p2, max_iterations=0).upper
    least = torch.maximum(mutual_information(p1), mutual_information(p2))
    chosen = (weights * (independent - least)).argsort(descending=True, stable=True)[:_PAIRS]
    inside = independent.clone()
    inside[chosen] = solve(p1[chosen], p2[chosen], tol=_TOL).upper
    return mutual_information(q.flatten(0, 1)) + (weights * inside).sum() + rest1 + rest2


def _parts(rows: Tensor, cells: Cells) -> tuple[Float64[Tensor, "cells parts answers"], Tensor]:
    """p(part | cell, y) for every cell, and the information that parts lose."""
    inside = [cluster(rows[cells.of == c], _PARTS).masses for c in range(len(cells))]
    loss = mutual_information(rows) - mutual_information(torch.cat(inside))
    masses = pad_sequence(inside, batch_first=True)
    return ratio(masses, masses.sum(1, keepdim=True).expand_as(masses)), loss.clamp_min(0)


def _tables(
    q: Tensor, part1: Tensor, part2: Tensor, at: Int64[Tensor, "pairs 2"]
) -> tuple[Float64[Tensor, "pairs parts answers"], Float64[Tensor, "pairs parts answers"]]:
    """The marginals of each pair's own problem, given the pair."""
    c1, c2 = at.unbind(1)
    posterior = q[c1, c2] / q[c1, c2].sum(-1, keepdim=True)
    return part1[c1] * posterior[:, None], part2[c2] * posterior[:, None]
