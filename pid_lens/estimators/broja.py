"""BROJA: the exact decomposition of everything that was read, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, get_args

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from pid_lens.estimators.posterior import PosteriorAtoms, Repair, posterior_pid
from pid_lens.reads import TAU, Reads
from pid_lens.spectra import Atoms, Spectrum

NEEDED = ("full", "vision", "language")
_TOTALS = ("information", "information_vision", "information_language", "union", "gap")


@dataclass
class BROJA:
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
    _seen: list[Reads] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau is a probability, 0 <= tau < 1; got {self.tau}")
        if self.repair not in get_args(Repair):
            raise ValueError(f"repair must be one of {get_args(Repair)}; got {self.repair!r}")
        if not self.tol > 0:
            raise ValueError(f"tol must be a width in bits above 0; got {self.tol}")

    @torch.no_grad()
    def update(self, reads: Reads) -> Self:
        """Takes in more samples; one that came before is replaced.

        Raises:
            ValueError: these reads cannot be mixed with those before (`Reads.concat` says why).
        """
        if self._seen:
            Reads.concat([self._seen[0].rows(()), reads.rows(())])
        self._seen.append(reads)
        return self

    def merge(self, other: BROJA) -> Self:
        """Takes in what another estimator of the same settings has seen.

        Raises:
            ValueError: settings differ.
        """
        if self != other:
            raise ValueError(f"only estimators of equal settings merge, got {self} and {other}")
        for reads in tuple(other._seen):
            self.update(reads)
        return self

    @torch.no_grad()
    def result(self) -> Spectrum:
        """The spectrum of everything seen.

        Raises:
            ValueError: no sample was seen, or one of the three conditions was not read.
        """
        if not any(reads.ids for reads in self._seen):
            raise ValueError("BROJA has seen no sample: call update(reads) first")
        self._seen = [Reads.concat(self._seen)]
        reads = self._seen[0].cpu()
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
        parts = [posterior_pid(*p.unbind(1), tol=self.tol, repair=self.repair) for p in strata]
        shares = [p.shape[2] / len(reads.ids) for p in strata]
        weights = torch.tensor(shares, dtype=torch.float64)
        return Spectrum(
            **_mixed(parts, weights),
            sensitivity=Atoms(**_mixed([p.sensitivity for p in parts], weights)),
            mismatch=torch.stack([p.mismatch for p in parts]).amax(0),
            ess=1 / _mean([1 / p.ess for p in parts], weights),
            feasible=torch.stack([p.feasible for p in parts]).all(0),
            fallback=reads.fallback(self.tau),
            layers=reads.layers,
            ids=reads.ids,
            conditions=reads.conditions,
            estimator=type(self).__name__,
            settings={
                **reads.settings,
                "tau": self.tau,
                "repair": self.repair,
                "tol": self.tol,
            },
        )


def _strata(
    log_p: Float64[Tensor, "layers conditions n answers"], mask: Bool[Tensor, "n answers"]
) -> list[Float64[Tensor, "layers conditions members options"]]:
    """The samples with k options each, absent ones left out, for every k that occurs."""
    counts = mask.sum(-1)
    first = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    ordered = log_p.gather(-1, first.expand(log_p.shape))
    return [ordered[:, :, counts == k, : int(k)] for k in counts.unique()]


def _mixed(parts: list[Atoms] | list[PosteriorAtoms], weights: Tensor) -> dict[str, Any]:
    return {name: _mean([getattr(p, name) for p in parts], weights) for name in _TOTALS}


def _mean(values: list[Tensor], weights: Tensor) -> Float64[Tensor, " layers"]:
    return weights @ torch.stack(values)
