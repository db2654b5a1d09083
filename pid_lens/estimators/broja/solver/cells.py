"""Quantisation of posteriors into cells: equal rows merged exactly, near ones by KL k-means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.estimators.common.entropy import safe_ratio

_FEWEST_ROUNDS, _MOST_ROUNDS, _DISTANCES = 2, 8, 2**26
"""Lloyd iterations, as many as make about so many distances."""
_SEEDS_A_CELL = 8
"""Rows among which each centre is chosen, where there are many more."""
_ROWS_AT_ONCE = 2**23
"""Largest number of scores held at a time."""


@dataclass(frozen=True)
class Cells:
    """A partition of rows p(x, y) into cells.

    Attributes:
        of: the cell of each row.
        masses: p(cell, y), summed over the cell's rows.
    """

    of: Int64[Tensor, " n"]
    masses: Float64[Tensor, "cells answers"]

    def __len__(self) -> int:
        return len(self.masses)


def gather_cells(joint: Float64[Tensor, "n answers"], of: Int64[Tensor, " n"]) -> Cells:
    """Gather rows into cells by number, and sum their masses; unused numbers are dropped.

    Args:
        joint: masses p(x, y).
        of: any integer for each row, equal within a cell.

    Returns:
        ``Cells`` numbered in the order of these integers.
    """
    used, of = of.unique(return_inverse=True)
    masses = joint.new_zeros(len(used), joint.shape[1]).index_add_(0, of, joint)
    return Cells(of, masses)


def merge_equal(joint: Float64[Tensor, "n answers"]) -> Cells:
    """Merge rows of equal posterior p(y|x), a sufficient statistic: I(X; Y) stays the same.

    Cells come sorted by posterior, so that later steps do not depend on the order of the samples.

    Args:
        joint: masses p(x, y), one row per sample. Rows without mass form one cell.

    Returns:
        ``Cells`` in canonical order.

    Example:
        >>> rows = torch.tensor([[0.1, 0.3], [0.2, 0.1], [0.1, 0.2]], dtype=torch.float64)
        >>> merge_equal(torch.cat([rows, 2 * rows]) / 3).of.tolist()
        [0, 2, 1, 0, 2, 1]
    """
    # Posteriors equal to 40 bits are one symbol
    posterior = safe_ratio(joint, joint.sum(1, keepdim=True))
    same = (posterior * 2**40).round()
    return gather_cells(joint, same.unique(dim=0, return_inverse=True)[1])


def cluster(rows: Float64[Tensor, "n answers"], count: int) -> Cells:
    """Quantise rows into at most ``count`` cells by KL k-means, which loses little of I(X; Y).

    The loss of a partition, I(X; Y) - I(cell; Y), is the mean KL divergence from a row's
    posterior to its cell's. Farthest-first seeding (where mass times KL is largest, among at
    least 8 rows per centre if there are many more), then Lloyd iterations. Deterministic, and
    independent of the order of samples if rows come in canonical order.

    Source:
        Clustering with Bregman divergences (Banerjee, Merugu, Dhillon, Ghosh, 2005),
        https://jmlr.org/papers/v6/banerjee05b.html

    Args:
        rows: masses p(x, y) with positive row sums, in canonical order.
        count: largest number of cells.

    Returns:
        ``Cells``; one per row if there are no more rows than ``count``.

    Example:
        >>> rows = torch.tensor([[0.1, 0.0], [0.4, 0.1], [0.0, 0.4]], dtype=torch.float64)
        >>> cluster(rows, 2).of.tolist()
        [0, 0, 1]
    """
    if len(rows) <= count:
        return Cells(torch.arange(len(rows), device=rows.device), rows)
    return _settle(rows, _choose_centres(rows[:: 1 + len(rows) // (_SEEDS_A_CELL * count)], count))


def distinct_cells(joint: Float64[Tensor, "n answers"], most: int) -> Cells:
    """Merge equal posteriors; where more than ``most`` remain, quantise them into ``most`` cells.

    Example:
        >>> rows = torch.tensor([[0.1, 0.0], [0.4, 0.1], [0.0, 0.2], [0.0, 0.2]]).double()
        >>> [distinct_cells(rows, most).of.tolist() for most in (3, 2)]
        [[2, 1, 0, 0], [0, 0, 1, 1]]
    """
    rows = merge_equal(joint)
    if len(rows) <= most:
        return rows
    return gather_cells(joint, cluster(rows.masses, most).of[rows.of])


def score(
    rows: Float64[Tensor, "n answers"], centres: Float64[Tensor, "cells answers"]
) -> Float64[Tensor, "n cells"]:
    """Compute sum_y p(x, y) log p(y|cell), nats: minus a row's cross-entropy in each cell."""
    posterior = safe_ratio(centres, centres.sum(1, keepdim=True))
    return rows @ posterior.clamp_min(1e-45).log().mT


def negative_entropy(rows: Float64[Tensor, "n answers"]) -> Float64[Tensor, " n"]:
    """Compute sum_y p(x, y) log p(y|x), nats: the score of a row in a cell of its own."""
    return torch.xlogy(rows, safe_ratio(rows, rows.sum(1, keepdim=True))).sum(1)


def _choose_centres(rows: Tensor, count: int) -> Float64[Tensor, "count answers"]:
    """Choose centres farthest-first: the mean, then each time the row of largest loss."""
    # Loss of a row: p(x) KL(p(y|x) || p(y|centre)), for its nearest centre so far
    own = negative_entropy(rows)
    chosen = [rows.sum(0)]
    loss = own - score(rows, chosen[0][None])[:, 0]
    for _ in range(count - 1):
        chosen.append(rows[loss.argmax()])
        loss = torch.minimum(loss, own - score(rows, chosen[-1][None])[:, 0])
    return torch.stack(chosen)


def _settle(rows: Tensor, centres: Tensor) -> Cells:
    """Run Lloyd iterations: rows to their nearest centres, centres to their rows' means."""
    cells = gather_cells(rows, _nearest_centres(rows, centres))
    rounds = _DISTANCES // (len(rows) * len(centres))
    for _ in range(min(_MOST_ROUNDS, max(_FEWEST_ROUNDS, rounds))):
        cells = gather_cells(rows, _nearest_centres(rows, cells.masses))
    return cells


def _nearest_centres(rows: Tensor, centres: Tensor) -> Int64[Tensor, " n"]:
    step = max(1, _ROWS_AT_ONCE // len(centres))
    return torch.cat([score(part, centres).argmax(1) for part in rows.split(step)])
