"""Stratification by number of options: each stratum is decomposed by itself, then averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from pid_lens.results import FIELDS, Atoms

if TYPE_CHECKING:
    from pid_lens.estimators.broja.from_posteriors import PosteriorAtoms


@dataclass(frozen=True)
class Stratum:
    """The samples with one number of options.

    Attributes:
        rows: their indices among all samples.
        log_p: their log-posteriors, nats, absent options left out.
    """

    rows: Int64[Tensor, " members"]
    log_p: Float64[Tensor, "layers conditions members options"]


def strata_of(
    log_p: Float64[Tensor, "layers conditions n answers"], mask: Bool[Tensor, "n answers"]
) -> list[Stratum]:
    """Split samples into strata, one for each number of options that occurs.

    Example:
        >>> mask = torch.tensor([[True, True, True], [True, False, True]])
        >>> [list(s.log_p.shape) for s in strata_of(torch.zeros(1, 1, 2, 3).double(), mask)]
        [[1, 1, 1, 2], [1, 1, 1, 3]]
    """
    # Move the options that are present to the front, in their order
    first = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    ordered, counts = log_p.gather(-1, first.expand(log_p.shape)), mask.sum(-1)
    found = []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        found.append(Stratum(rows, ordered[:, :, rows, :count]))
    return found


def shares_of(strata: Sequence[Stratum]) -> Float64[Tensor, " strata"]:
    """Compute each stratum's share of the samples, n_k / n."""
    counts = torch.tensor([len(stratum.rows) for stratum in strata], dtype=torch.float64)
    return counts / counts.sum()


def average(values: Sequence[Tensor], shares: Tensor) -> Float64[Tensor, "*layers"]:
    """Average a value over strata, sum over k of share_k value_k, on the CPU."""
    return torch.tensordot(shares, torch.stack([value.cpu() for value in values]), 1)


def mixture(parts: Sequence[Atoms], shares: Tensor) -> Atoms:
    """Average the atoms over strata, sum over k of n_k / n PID_k."""
    values: dict[str, Any] = {
        name: average([getattr(part, name) for part in parts], shares) for name in FIELDS
    }
    return Atoms(**values)


def join_samples(
    parts: Sequence[PosteriorAtoms], strata: Sequence[Stratum], whole: Atoms
) -> dict[str, Any]:
    """Join pointwise values and influences of all strata, in the order of the samples.

    The influence function of the average: a sample of stratum k moves it by its influence on
    PID_k, and by PID_k - whole, as it raises the share of k.
    """
    back = torch.cat([stratum.rows for stratum in strata]).argsort()
    values: dict[str, dict[str, Any]] = {"pointwise": {}, "influence": {}}
    for name in FIELDS:
        points = [getattr(part.pointwise, name).cpu() for part in parts]
        shifts = [(getattr(part, name).cpu() - getattr(whole, name))[:, None] for part in parts]
        moves = [getattr(part.influence, name).cpu() for part in parts]
        values["pointwise"][name] = torch.cat(points, 1)[:, back]
        moved = [m + (s if name != "gap" else 0) for m, s in zip(moves, shifts, strict=True)]
        values["influence"][name] = torch.cat(moved, 1)[:, back]
    return {kind: Atoms(**fields) for kind, fields in values.items()}
