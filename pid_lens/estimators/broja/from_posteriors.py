"""Posterior PID: BROJA decomposition of a model's answers, from three posteriors per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from pid_lens.estimators.broja.influence import Repaired, posterior_influence, posterior_pointwise
from pid_lens.estimators.broja.marginal_repair import rake, tilt
from pid_lens.estimators.broja.solver.envelope import attach_gradient
from pid_lens.estimators.broja.solver.quantise import solve_rows
from pid_lens.estimators.broja.solver.solution import Solution
from pid_lens.estimators.common.arrays import SUM_ROUNDING, as_float64
from pid_lens.estimators.common.clusters import as_clusters
from pid_lens.estimators.common.entropy import NATS_PER_BIT, safe_ratio, table_information
from pid_lens.results import Atoms, SampledAtoms, Unit

Repair = Literal["rake", "tilt"]
_LEAST_LOG = -100.0
_RAKED = 1e-9
"""Largest difference of answer marginals that raking may leave."""
_SENSITIVE = 1e-2
"""Least width of the other repair's interval, bits."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PosteriorAtoms(SampledAtoms):
    """Atoms of a model's answers, with diagnostics of the marginal repair. Tensors are [layers].

    Attributes:
        mismatch: largest |mean p_condition - mean p_full| over answers, before repair.
        ess: effective sample size of tilt's weights over n, in (0, 1].
        feasible: whether tilt found weights that leave at most 1e-3; else ``rake`` stands in.
        sensitivity: the atoms under the other repair; NaN where tilt found no weights.
        pointwise: each sample's contribution, [layers, n]; the mean is the layer's value (of the
            union, which is the middle of its interval, the certified lower end).
        influence: influence function: how far each sample moves the result, times n, [layers, n];
            mean 0.
    """

    mismatch: Float64[Tensor, " layers"]
    ess: Float64[Tensor, " layers"]
    feasible: Bool[Tensor, " layers"]
    sensitivity: Atoms
    pointwise: Atoms = field()
    influence: Atoms = field()

    def _in_unit(self, unit: Unit) -> dict[str, Any]:
        return super()._in_unit(unit) | {"sensitivity": self.sensitivity.to(unit)}


def posterior_pid(
    full: Tensor | np.ndarray,
    vision: Tensor | np.ndarray,
    language: Tensor | np.ndarray,
    *,
    tol: float = 1e-3,
    repair: Repair = "rake",
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    unit: Unit = "bits",
) -> PosteriorAtoms:
    """Decompose a model's answer Y by its distributions p(y|both), p(y|vision), p(y|language).

    These are the posteriors, normalised over the options. A posterior is a sufficient statistic
    of a source about the answer, so each sample's posterior vector is its symbol, with mass 1/n.
    The three conditions' mean posteriors must agree first: ``rake`` corrects the two ablated
    predictors by a factor per answer (raking), ``tilt`` reweights the samples (exponential
    tilting); the atoms under the other repair are the ``sensitivity``. Where tilt has no solution
    rake stands in for it, ``feasible`` is False and the sensitivity NaN; where both differ much
    neither should be believed.

    With two answers the optimum has a closed form and ``gap`` is rounding. With more, potentials
    and coupling are scaled in turn on the samples themselves until the certified interval is
    below ``tol`` or a limit on the work is met (`solver` has the limits; nothing is raised or
    warned, ``gap`` stays above ``tol``). This plug-in estimate is exact for the samples, not for
    their population: with few samples unique information is biased upward.

    Args:
        full: log-probabilities given both, [layers, n, answers], each row's probabilities
            summing to 1 but for rounding. Anything below -100 nats counts as -100.
        vision: the same given vision alone.
        language: the same given language alone.
        tol: width of the certified interval to reach, bits; for the sensitivity .01 will do.
        repair: ``"rake"`` (the full predictor stays as it is) or ``"tilt"``.
        groups: the group of each sample, any hashable values, where samples are not independent
            (six questions on one image); standard errors are then cluster-robust.
        unit: of the result, ``"bits"`` or ``"nats"``.

    Returns:
        ``PosteriorAtoms``, one entry per layer, in ``unit``. Under ``rake`` the atoms are
        differentiable in the log-probabilities (envelope theorem).

    Raises:
        TypeError: neither tensors nor arrays.
        ValueError: NaN or +inf, probabilities instead of their logs, rows whose probabilities do
            not sum to 1, a sample without any possible answer, shapes that differ, no samples,
            an unknown repair or unit, or a tol that is not above 0.

    Example:
        >>> import torch
        >>> sure = torch.tensor([[[0.999, 0.001], [0.001, 0.999]]]).log()
        >>> unsure = torch.full((1, 2, 2), 0.5).log()
        >>> round(float(posterior_pid(sure, sure, unsure).unique_vision), 3)  # 1 - H(0.001)
        0.989
    """
    if repair not in get_args(Repair):
        raise ValueError(f"repair must be one of {get_args(Repair)}, got {repair!r}")
    if not tol > 0:
        raise ValueError(f"tol must be a width in bits above 0; got {tol}")
    posteriors = logs_of(full=full, vision=vision, language=language)
    # Both repairs: equal weights (rake), and tilt's where feasible; masses with equal marginals
    balance = tilt(*(p.detach().exp() for p in posteriors))
    even = torch.full_like(balance.weights, 1 / balance.weights.shape[1])
    tilted = balance.weights.where(balance.feasible[:, None], even)
    order = (even, tilted) if repair == "rake" else (tilted, even)
    repaired = [masses_of(w, *posteriors) for w in order]
    # Union information under both repairs, in one solve
    (first, second), solution = _decompose(repaired, tol)
    second = {k: v.where(balance.feasible, torch.nan) for k, v in second.items()}
    # Repaired posteriors and dual potentials, for pointwise values and influence functions
    full_, vision_, language_ = (safe_ratio(m.detach(), order[0][..., None]) for m in repaired[0])
    a, b = (dual[: len(even)] for dual in (solution.dual_vision, solution.dual_language))
    given = Repaired(order[0], full_, vision_, language_, a, b)
    return PosteriorAtoms(
        **first,
        mismatch=_mismatch(*posteriors),
        ess=balance.ess,
        feasible=balance.feasible,
        sensitivity=Atoms(**second),
        pointwise=posterior_pointwise(given),
        influence=posterior_influence(given, repair, balance.feasible),
        groups=None if groups is None else as_clusters(groups, even.shape[1]),
    ).to(unit)


def _decompose(
    repaired: list[tuple[Tensor, ...]], tol: float
) -> tuple[list[dict[str, Any]], Solution]:
    """Compute the fields of ``Atoms`` for each repair, all layers of all repairs in one solve."""
    full, vision, language = (torch.cat(masses) for masses in zip(*repaired, strict=True))
    tols = vision.new_tensor([tol, max(tol, _SENSITIVE)]).repeat_interleave(len(full) // 2)
    solution = solve_rows(vision.detach(), language.detach(), tol=tols * NATS_PER_BIT)
    totals = {
        "information": table_information(full),
        "information_vision": table_information(vision),
        "information_language": table_information(language),
        "union": attach_gradient(vision, language, solution),
        "gap": solution.gap,
    }
    parts = {k: (v / NATS_PER_BIT).chunk(len(repaired)) for k, v in totals.items()}
    return [{k: v[i] for k, v in parts.items()} for i in range(len(repaired))], solution


def atoms_of_masses(masses: tuple[Tensor, ...], **union: Any) -> Atoms:
    """Compute the atoms of repaired masses, given ``union`` and its ``gap``, bits."""
    names = ("information", "information_vision", "information_language")
    values: dict[str, Any] = {
        name: table_information(p) / NATS_PER_BIT for name, p in zip(names, masses, strict=True)
    }
    return Atoms(**values, **union)


def plug_in_atoms(posteriors: list[Tensor], repair: Repair, tol: float) -> Atoms:
    """Compute the plug-in atoms of log-posteriors, bits, without errors or the other repair.

    Raises:
        ValueError: raking did not converge.
    """
    masses = masses_of(weights_of(posteriors, repair), *posteriors)
    solution = solve_rows(masses[1], masses[2], tol=tol * NATS_PER_BIT)
    union = (solution.lower + solution.upper) / 2
    return atoms_of_masses(masses, union=union / NATS_PER_BIT, gap=solution.gap / NATS_PER_BIT)


def weights_of(posteriors: list[Tensor], repair: Repair) -> Float64[Tensor, "layers n"]:
    """Compute the samples' weights: tilt's where it is asked for and feasible, else 1/n."""
    layers, n, _ = posteriors[0].shape
    weights = posteriors[0].new_full((layers, n), 1 / n)
    if repair == "tilt":
        balance = tilt(*(p.exp() for p in posteriors))
        weights = balance.weights.where(balance.feasible[:, None], weights)
    return weights


def masses_of(
    weights: Tensor, full: Tensor, vision: Tensor, language: Tensor
) -> tuple[Tensor, ...]:
    """Compute the three predictors' masses [layers, n, answers], of equal answer marginals.

    Under tilt's weights the marginals agree to 1e-3 already, mostly to rounding; raking removes
    the rest.

    Raises:
        ValueError: raking did not converge.
    """
    # Rake both ablated predictors to the full predictor's answer marginal
    full_masses = weights[..., None] * full.exp()
    target = full_masses.sum(1)
    raked = [rake(p, target, weights) for p in (vision, language)]
    worst = float(torch.stack([residual.detach() for _, residual in raked]).max())
    if worst > _RAKED:
        raise ValueError(
            f"raking left the answer marginals {worst:.2g} apart: some answer is next to "
            "impossible for an ablated predictor in every sample"
        )
    return full_masses, *(weights[..., None] * q for q, _ in raked)


def _mismatch(full: Tensor, vision: Tensor, language: Tensor) -> Float64[Tensor, " layers"]:
    means = [p.exp().mean(1) for p in (full, vision, language)]
    return torch.maximum(*((m - means[0]).abs().amax(-1) for m in means[1:]))


def logs_of(**logs: Any) -> list[Float64[Tensor, "layers n answers"]]:
    """Check and normalise log-posteriors, and clamp them to -100 nats.

    Raises:
        TypeError: neither tensors nor arrays.
        ValueError: shapes that differ, or no log-probabilities.
    """
    tensors = {name: as_float64(x, name) for name, x in logs.items()}
    shapes = {name: list(x.shape) for name, x in tensors.items()}
    shape = shapes["full"]
    if any(s != shape for s in shapes.values()) or len(shape) != 3 or 0 in shape:
        raise ValueError(
            "full, vision and language must all be [layers, n, answers] of one shape with no "
            f"empty axis, got {shapes}"
        )
    for name, x in tensors.items():
        _require_log_probabilities(x, name)
    return [x.log_softmax(-1).clamp_min(_LEAST_LOG).log_softmax(-1) for x in tensors.values()]


def _require_log_probabilities(x: Float64[Tensor, "layers n answers"], name: str) -> None:
    """Require that each row holds logs of probabilities that sum to 1.

    Raises:
        ValueError: some row does not; the message says what it may hold instead.
    """
    if bool(x.isnan().any() | (x == torch.inf).any()):
        raise ValueError(f"{name} has NaN or +inf; pass log-probabilities (-inf is allowed)")
    if bool((x >= 0).all() & ((x.sum(-1) - 1).abs() < SUM_ROUNDING).all() & (x.shape[-1] > 1)):
        raise ValueError(f"{name} looks like probabilities; pass their logs, {name}.log()")
    if bool((x == -torch.inf).all(-1).any()):
        raise ValueError(
            f"{name} has a sample with -inf for every answer; leave the sample out or give "
            "it a uniform posterior"
        )
    off = (x.logsumexp(-1).exp() - 1).abs()
    if bool((off > SUM_ROUNDING).any()):
        layer, row = off.gt(SUM_ROUNDING).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be logs of probabilities that sum to 1 in every row; those of layer "
            f"{layer}, sample {row} sum to {float(x[layer, row].exp().sum()):.4g}. Logits, or "
            f"options out of a vocabulary? {name}.log_softmax(-1) normalises them"
        )
