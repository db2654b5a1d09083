"""BROJA estimator: partial information decomposition of a model's answers, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.broja.cross_fit import LEAST_CLUSTERS, cross_fitted
from pid_lens.estimators.broja.from_posteriors import Repair, posterior_pid
from pid_lens.estimators.broja.resampling import exchanged
from pid_lens.estimators.broja.strata import (
    Stratum,
    average,
    join_samples,
    mixture,
    shares_of,
    strata_of,
)
from pid_lens.estimators.common.clusters import Groups, clusters_of, labels_of
from pid_lens.estimators.common.entropy import NATS_PER_BIT, safe_ratio
from pid_lens.estimators.common.over_reads import OverReads, posteriors_under
from pid_lens.reads import TAU, Reads
from pid_lens.results import Atoms, Spectrum

CONDITIONS_NEEDED = ("full", "vision", "language")


@dataclass
class BROJA(OverReads):
    """BROJA partial information decomposition of a model's answers, an ``Estimator``.

    Each layer is decomposed by `posterior_pid`. Samples are stratified by their number of
    options k and the strata's atoms averaged, sum over k of n_k / n times PID_k: if they were
    pooled, the number of options would count as information about the answer. A stratum with one
    option has 0 bits. Labels are not used: Y is the model's own answer.

    Attributes:
        tau: least total probability of the options in the vocabulary; below it, a sample's answer
            at this layer under this condition is taken as uniform over them.
        repair: marginal repair, ``"rake"`` or ``"tilt"``; the atoms under the other one are the
            ``sensitivity``.
        tol: width of the certified interval to reach, bits; with two options it is rounding.
        groups: sample id -> its group of dependent samples (six questions on one image); errors
            are then cluster-robust. None where all samples are independent.
        bracket: whether to also cross-fit the union (`cross_fitted`), as its lower end in
            `Spectrum.interval`; samples are halved by their ids, alike in all spectra over them.
        floor: number of random exchanges of the modalities (`exchanged`), for the null level
            (finite-sample bias) of unique information; 0 for none.

    Source:
        Quantifying unique information (Bertschinger, Rauh, Olbrich, Jost, Ay, 2014),
        https://doi.org/10.3390/e16042161

    Raises:
        ValueError: tau outside [0, 1), an unknown repair, tol that is not above 0, or a negative
            floor.

    Example:
        >>> import torch
        >>> from pid_lens import Reads
        >>> sure, unsure = torch.eye(2).clamp(1e-6).log(), torch.zeros(2, 2)
        >>> log_p = torch.stack([sure, sure, unsure]).log_softmax(-1)[None]
        >>> BROJA().update(Reads.from_posteriors(log_p)).result().unique_vision.round(decimals=3)
        tensor([1.], dtype=torch.float64)
    """

    tau: float = TAU
    repair: Repair = "rake"
    tol: float = 1e-3
    groups: Groups | None = field(default=None, repr=False)
    bracket: bool = True
    floor: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau is a probability, 0 <= tau < 1; got {self.tau}")
        if self.repair not in get_args(Repair):
            raise ValueError(f"repair must be one of {get_args(Repair)}; got {self.repair!r}")
        if not self.tol > 0:
            raise ValueError(f"tol must be a width in bits above 0; got {self.tol}")
        if self.floor < 0:
            raise ValueError(f"floor is how often to exchange, 0 or more; got {self.floor}")

    @torch.no_grad()
    def result(self) -> Spectrum:
        """Compute the spectrum of all samples.

        Raises:
            ValueError: no sample was added, one of the three conditions was not read, or
                ``groups`` lack a sample.
        """
        reads = self.gather()
        log_p = posteriors_under(type(self).__name__, reads, CONDITIONS_NEEDED, self.tau)
        # Decompose each stratum (number of options), then average by n_k / n
        strata = strata_of(log_p, reads.mask)
        parts = [
            posterior_pid(*stratum.log_p.unbind(1), tol=self.tol, repair=self.repair)
            for stratum in strata
        ]
        shares = shares_of(strata)
        whole = mixture(parts, shares)
        clusters = labels_of(reads.ids, self.groups)
        given = [_Named.of(stratum, reads.ids, clusters) for stratum in strata]
        return Spectrum.of(
            reads,
            whole,
            estimator=self,
            settings={
                "tau": self.tau,
                "repair": self.repair,
                "tol": self.tol,
                "clustered": self.groups is not None,
            },
            **join_samples(parts, strata, whole),
            bracket=mixture(list(map(self._cross_fit, given, parts)), shares)
            if self.bracket
            else None,
            floor=mixture(list(map(self._exchange, given)), shares) if self.floor else None,
            groups=clusters_of(reads.ids, self.groups),
            sensitivity=mixture([part.sensitivity for part in parts], shares),
            mismatch=torch.stack([part.mismatch for part in parts]).amax(0),
            ess=1 / average([1 / part.ess for part in parts], shares),
            feasible=torch.stack([part.feasible for part in parts]).all(0),
            fallback=reads.fallback(self.tau),
            draw_bias=_draw_bias(reads, self.tau),
        )

    def _cross_fit(self, given: _Named, plug_in: Atoms) -> Atoms:
        """Cross-fit a stratum's lower end; with too few groups to halve, take max(I1, I2)."""
        if len(set(given.clusters)) < LEAST_CLUSTERS:
            better = torch.maximum(plug_in.information_vision, plug_in.information_language)
            return replace(plug_in, union=better)
        how: dict[str, Any] = {"repair": self.repair, "groups": given.clusters, "ids": given.ids}
        return cross_fitted(*given.log_p.unbind(1), **how)

    def _exchange(self, given: _Named) -> Atoms:
        how: dict[str, Any] = {"draws": self.floor, "repair": self.repair, "tol": self.tol}
        return exchanged(*given.log_p.unbind(1), groups=given.clusters, **how)


@dataclass(frozen=True)
class _Named:
    """A stratum's log-posteriors, with the ids of its samples and their groups."""

    log_p: Float64[Tensor, "layers conditions members options"]
    ids: list[str]
    clusters: list[Any]

    @classmethod
    def of(cls, stratum: Stratum, ids: tuple[str, ...], clusters: list[Any] | None) -> Self:
        """Attach ids and groups to a stratum; without groups each sample is its own."""
        rows = stratum.rows.tolist()
        names = [ids[row] for row in rows]
        return cls(
            stratum.log_p, names, names if clusters is None else [clusters[i] for i in rows]
        )


def _draw_bias(reads: Reads, tau: float) -> Float64[Tensor, "layers 2"] | None:
    """Compute the bias of I(Y; X1) and I(Y; X2) by finitely many noise draws, to second order.

    In bits. The posterior p(y|x1) is an expectation over the noise; its estimate from D draws
    has the variance s^2 / D, which the convex -H turns (Jensen) into a bias of
    sum_y s_y^2 / (2 D p_y), a mean over samples. A sample below tau is uniform under any draw
    and adds nothing. The variance of a single draw is unknown: NaN, where another condition was
    drawn more often.
    """
    if reads.spread is None:
        return None
    at = [reads.index(name) for name in CONDITIONS_NEEDED[1:]]
    p = reads.posteriors(tau, CONDITIONS_NEEDED[1:]).exp()
    answered = (reads.mass[:, at] >= tau)[..., None]
    drawn = torch.tensor([reads.draws_of(name) for name in CONDITIONS_NEEDED[1:]], device=p.device)
    bias = safe_ratio(reads.spread[:, at].double(), 2 * drawn[:, None, None] * p).where(
        answered, 0.0
    )
    bits = (bias.sum(-1).mean(-1) / NATS_PER_BIT).where(drawn > 1, torch.nan)
    return bits.cpu()
