"""BROJA: the exact decomposition of everything that was read, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from pid_lens.errors import clusters
from pid_lens.estimators.crossfit import LEAST_CLUSTERS, cross_fitted
from pid_lens.estimators.gathering import Gathering
from pid_lens.estimators.grouping import Groups, labels_of
from pid_lens.estimators.measures import NATS_PER_BIT, ratio
from pid_lens.estimators.posterior import PosteriorAtoms, Repair, posterior_pid
from pid_lens.estimators.resampling import exchanged
from pid_lens.reads import TAU, Reads
from pid_lens.spectra import Atoms, Spectrum

NEEDED = ("full", "vision", "language")
_TOTALS = ("information", "information_vision", "information_language", "union", "gap")


@dataclass
class BROJA(Gathering):
    """The exact partial information decomposition of a model's answers, an ``Estimator``.

    Each layer is decomposed by `posterior_pid`. Samples are grouped by their number of options
    k and the groups' atoms averaged, sum over k of n_k / n times PID_k: pooled, the number of
    options itself would pass for information. A group with one option carries none.

    Source:
        Quantifying unique information (Bertschinger, Rauh, Olbrich, Jost, Ay, 2014),
        https://doi.org/10.3390/e16042161

    Example:
        >>> sure, unsure = torch.eye(2).clamp(1e-6).log(), torch.zeros(2, 2)
        >>> log_p = torch.stack([sure, sure, unsure]).log_softmax(-1)[None]
        >>> BROJA().update(Reads.from_posteriors(log_p)).result().unique_vision
        tensor([1.0000], dtype=torch.float64)
    """

    tau: float = TAU
    """A sample whose options have less mass than this counts as unsure: uniform over them."""
    repair: Repair = "rake"
    """What makes the three label marginals agree; the other is reported as ``sensitivity``."""
    tol: float = 1e-3
    """Width of the certified interval to reach, bits; with two options it is rounding."""
    groups: Groups | None = field(default=None, repr=False)
    """Sample id -> its cluster, where samples are not independent; errors count clusters."""
    bracket: bool = True
    """Whether to cross-fit the union's lower end too (`cross_fitted`), which `Spectrum.interval`
    reaches to; samples are halved by their ids, alike in all spectra over them."""
    floor: int = 0
    """How often to exchange the modalities at random (`exchanged`), for what reads as unique by
    chance."""

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau is a probability, 0 <= tau < 1; got {self.tau}")
        if self.repair not in get_args(Repair):
            raise ValueError(f"repair must be one of {get_args(Repair)}; got {self.repair!r}")
        if not self.tol > 0:
            raise ValueError(f"tol must be a width in bits above 0; got {self.tol}")

    @torch.no_grad()
    def result(self) -> Spectrum:
        """The spectrum of everything seen.

        Raises:
            ValueError: no sample was seen, or one of the three conditions was not read.
        """
        reads = self.gathered()
        missing = [name for name in NEEDED if name not in reads.conditions]
        if missing:
            raise ValueError(
                f"BROJA needs the conditions {', '.join(NEEDED)}; the reads have "
                f"{', '.join(reads.conditions)} and lack {', '.join(missing)}"
            )
        return self._spectrum(reads)

    def _spectrum(self, reads: Reads) -> Spectrum:
        log_p = reads.posteriors(self.tau)[:, [reads.index(name) for name in NEEDED]]
        strata = _strata(log_p, reads.mask)
        parts = [
            posterior_pid(*p.unbind(1), tol=self.tol, repair=self.repair) for p in strata.values()
        ]
        members = list(_members(reads.mask).values())
        shares = [len(rows) / reads.n for rows in members]
        weights = torch.tensor(shares, dtype=torch.float64)
        whole = Atoms(**_mixed(parts, weights))
        labels = labels_of(reads.ids, self.groups)
        groups = None if labels is None else clusters(labels, reads.n)
        grouped = [rows if groups is None else groups[rows] for rows in members]
        extras: dict[str, Any] = {}
        if self.bracket:
            names = [[reads.ids[row] for row in rows] for rows in members]
            ends = [
                self._end(*given)
                for given in zip(strata.values(), grouped, names, parts, strict=True)
            ]
            extras["bracket"] = Atoms(**_mixed(ends, weights))
        if self.floor:
            how: dict[str, Any] = {"draws": self.floor, "repair": self.repair, "tol": self.tol}
            swaps = [
                exchanged(*p.unbind(1), groups=label, **how)
                for p, label in zip(strata.values(), grouped, strict=True)
            ]
            extras["floor"] = Atoms(**_mixed(swaps, weights))
        by_sample = _by_sample(parts, members, whole)
        return Spectrum(
            **vars(whole),
            **by_sample,
            **extras,
            groups=groups,
            sensitivity=Atoms(**_mixed([p.sensitivity for p in parts], weights)),
            mismatch=torch.stack([p.mismatch for p in parts]).amax(0),
            ess=1 / _mean([1 / p.ess for p in parts], weights),
            feasible=torch.stack([p.feasible for p in parts]).all(0),
            fallback=reads.fallback(self.tau),
            draw_bias=_draw_bias(reads, self.tau),
            layers=reads.layers,
            ids=reads.ids,
            conditions=reads.conditions,
            estimator=type(self).__name__,
            settings={
                **reads.settings,
                "tau": self.tau,
                "repair": self.repair,
                "tol": self.tol,
                "clustered": self.groups is not None,
            },
        )

    def _end(self, log_p: Tensor, labels: Tensor, ids: list[str], plug_in: Atoms) -> Atoms:
        """A stratum's cross-fitted end; what it says without, where nothing can be halved."""
        if log_p.shape[-1] < 2 or len(labels.unique()) < LEAST_CLUSTERS:
            return plug_in
        return cross_fitted(*log_p.unbind(1), repair=self.repair, groups=labels, ids=ids)


def _members(mask: Bool[Tensor, "n answers"]) -> dict[int, Int64[Tensor, " members"]]:
    """The rows of the samples with k options, for every k that occurs."""
    counts = mask.sum(-1)
    return {int(k): (counts == k).nonzero().flatten() for k in counts.unique()}


def _strata(
    log_p: Float64[Tensor, "layers conditions n answers"], mask: Bool[Tensor, "n answers"]
) -> dict[int, Float64[Tensor, "layers conditions members options"]]:
    """The samples with k options each, absent ones left out, for every k that occurs."""
    first = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    ordered = log_p.gather(-1, first.expand(log_p.shape))
    return {k: ordered[:, :, rows, :k] for k, rows in _members(mask).items()}


def _by_sample(
    parts: list[PosteriorAtoms], members: list[Int64[Tensor, " members"]], whole: Atoms
) -> dict[str, Any]:
    """Pointwise values and influences of all strata, in the order of the samples.

    A sample of stratum k moves the whole by its influence on PID_k, and by being one more of k.
    """
    back = torch.cat(members).argsort()
    values: dict[str, dict[str, Any]] = {"pointwise": {}, "influence": {}}
    for name in _TOTALS:
        points = [getattr(part.pointwise, name).cpu() for part in parts]
        shifts = [(getattr(part, name).cpu() - getattr(whole, name))[:, None] for part in parts]
        moves = [getattr(part.influence, name).cpu() for part in parts]
        values["pointwise"][name] = torch.cat(points, 1)[:, back]
        moved = [m + (s if name != "gap" else 0) for m, s in zip(moves, shifts, strict=True)]
        values["influence"][name] = torch.cat(moved, 1)[:, back]
    return {kind: Atoms(**fields) for kind, fields in values.items()}


def _mixed(parts: Sequence[Atoms], weights: Tensor) -> dict[str, Any]:
    return {name: _mean([getattr(p, name) for p in parts], weights) for name in _TOTALS}


def _mean(values: list[Tensor], weights: Tensor) -> Float64[Tensor, "*layers"]:
    return torch.tensordot(weights, torch.stack([value.cpu() for value in values]), 1)


def _draw_bias(reads: Reads, tau: float) -> Float64[Tensor, "layers 2"] | None:
    """What finitely many noise draws add to I(Y; X1) and I(Y; X2), to second order, bits.

    The posterior p(y|x1) is an expectation over the noise; its estimate from D draws has the
    variance s^2 / D, which the convex -H turns into a bias of sum_y s_y^2 / (2 D p_y), a mean
    over samples. A sample below tau is uniform whatever was drawn and adds nothing.
    """
    if reads.spread is None:
        return None
    at = [reads.index(name) for name in NEEDED[1:]]
    p = reads.posteriors(tau)[:, at].exp()
    answered = (reads.mass[:, at] >= tau)[..., None]
    draws = reads.settings["draws"]
    bias = ratio(reads.spread[:, at].double(), 2 * draws * p).where(answered, 0.0)
    return (bias.sum(-1).mean(-1) / NATS_PER_BIT).cpu()
