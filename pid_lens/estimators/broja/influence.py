"""Influence functions of the atoms, and each sample's pointwise contribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.entropy import NATS_PER_BIT
from pid_lens.results import Atoms

_RANK = 1e-10
"""Relative cutoff of the pseudo-inverse."""


@dataclass(frozen=True)
class Repaired:
    """The three predictors after marginal repair, and the dual potentials of the union.

    Attributes:
        weights: of the samples, [layers, n], summing to 1 in each layer.
        full: posteriors given both sources, [layers, n, answers].
        vision: repaired posteriors given vision.
        language: repaired posteriors given language.
        dual_vision: potentials a, nats.
        dual_language: potentials b, nats.
    """

    weights: Tensor
    full: Tensor
    vision: Tensor
    language: Tensor
    dual_vision: Tensor
    dual_language: Tensor

    @property
    def prior(self) -> Float64[Tensor, "layers 1 answers"]:
        """The answers' marginal."""
        return (self.weights[..., None] * self.full).sum(1, keepdim=True)


def posterior_pointwise(given: Repaired) -> Atoms:
    """Compute each sample's pointwise contribution to each information and atom, bits.

    With potentials a, b of the dual (in nats) and p the answers' marginal, sample i contributes
    n w_i times ::

        information            KL(p(y|x1,x2)_i || p)
        information_vision     KL(p(y|x1)_i || p)
        information_language   KL(p(y|x2)_i || p)
        union                  <a_i, p(y|x1)_i> + <b_i, p(y|x2)_i> - <log p, p(y|x1,x2)_i>

    and to the atoms what `Atoms` makes of these. The mean over samples is the layer's value (for
    the union: the certified lower bound).

    Returns:
        Atoms of shape [layers, n].
    """
    # Pointwise KL divergence to the answer marginal, times n w_i
    scale = given.weights * given.weights.shape[1] / NATS_PER_BIT
    log_prior = _log_above_zero(given.prior)
    own = {"": given.full, "_vision": given.vision, "_language": given.language}
    values = {
        f"information{k}": (p * (_log_above_zero(p) - log_prior)).sum(-1) for k, p in own.items()
    }
    # Pointwise dual objective
    values["union"] = _pair_potentials(given) - (log_prior * given.full).sum(-1)
    return _as_atoms({name: scale * value for name, value in values.items()})


def posterior_influence(given: Repaired, repair: str, feasible: Tensor) -> Atoms:
    r"""Compute the empirical influence function of each value: bits, [layers, n], mean 0.

    How far one more sample like this one would move the value, times n. By the envelope theorem
    the dual potentials are the derivative of the optimum in the masses, so that the union's is
    its pointwise value, centred, plus the effect of the estimated repair, by the implicit
    function theorem. For ``rake``, whose factors theta solve
    mean q(theta) = mean p(y|x1,x2)::

        A J^+ (p(y|x1,x2)_i - q_i),   J = mean(diag q - q q^T),
        A_y = mean over j of q_jy (a_jy - <a_j, q_j>)

    for each source; for ``tilt``, whose weights exp(lambda g) make mean g = 0::

        - C H^+ g_i,   H = mean g g^T,  C = mean of (value - mean value) g

    Source:
        The influence curve and its role in robust estimation (Hampel, 1974),
        https://doi.org/10.1080/01621459.1974.10482962

    Args:
        given: the predictors after repair.
        repair: ``"rake"`` or ``"tilt"``.
        feasible: where tilt found weights; elsewhere rake stands in for it.

    Returns:
        Atoms of shape [layers, n].
    """
    # Derivative of each value in the masses of (full, vision, language); H(Y) is common to all
    log_prior = _log_above_zero(given.prior)
    entropy = -(log_prior * given.full).sum(-1)
    zero = torch.zeros_like(given.dual_vision)
    derivatives = {
        "information": (_log_above_zero(given.full), zero, zero),
        "information_vision": (zero, _log_above_zero(given.vision), zero),
        "information_language": (zero, zero, _log_above_zero(given.language)),
        "union": (zero, given.dual_vision, given.dual_language),
    }
    values = {k: _influence_under_rake(given, entropy, *d) for k, d in derivatives.items()}
    if repair == "tilt":
        at = feasible[:, None]
        for name, d in derivatives.items():
            values[name] = _influence_under_tilt(given, entropy, *d).where(at, values[name])
    return _as_atoms(values)


def _influence_under_rake(
    given: Repaired, entropy: Tensor, full: Tensor, a: Tensor, b: Tensor
) -> Tensor:
    # Pointwise value plus the effect of the raking factors of each source, centred
    value = entropy + (full * given.full).sum(-1)
    for slope, q in ((a, given.vision), (b, given.language)):
        value = value + (slope * q).sum(-1) + _influence_of_factors(given, slope, q)
    return (value - (given.weights * value).sum(1, keepdim=True)) / NATS_PER_BIT


def _influence_of_factors(
    given: Repaired, slope: Tensor, q: Tensor
) -> Float64[Tensor, "layers n"]:
    """Compute the effect of a sample on the raking factors, and through them on the value.

    A J^+ (p(y|x1,x2)_i - q_i), the implicit function theorem at the raking equations.
    """
    # A = d value / d theta, J = d mean q / d theta = diag(mean q) - mean q q^T
    mass = given.weights[..., None] * q
    along = (mass * (slope - (slope * q).sum(-1, keepdim=True))).sum(1)
    curvature = torch.diag_embed(mass.sum(1)) - mass.mT @ q
    step = torch.linalg.pinv(curvature, hermitian=True, rtol=_RANK) @ along[..., None]
    return ((given.full - q) @ step)[..., 0]


def _influence_under_tilt(
    given: Repaired, entropy: Tensor, full: Tensor, a: Tensor, b: Tensor
) -> Tensor:
    # Pointwise value, centred under the weights
    value = entropy + (full * given.full).sum(-1)
    value = value + (a * given.vision).sum(-1) + (b * given.language).sum(-1)
    value = value - (given.weights * value).sum(1, keepdim=True)
    # Residual of the weighted regression of the value on the moments g: slope = H^+ C
    g = torch.cat([given.vision - given.full, given.language - given.full], -1)
    weighted = given.weights[..., None] * g
    slope = torch.linalg.pinv(weighted.mT @ g, hermitian=True, rtol=_RANK) @ (
        weighted.mT @ value[..., None]
    )
    scale = given.weights * given.weights.shape[1] / NATS_PER_BIT
    return scale * (value - (g @ slope)[..., 0])


def _pair_potentials(given: Repaired) -> Tensor:
    a, b = given.dual_vision * given.vision, given.dual_language * given.language
    return (a + b).sum(-1)


def _log_above_zero(p: Tensor) -> Tensor:
    return p.clamp_min(1e-300).log()


def _as_atoms(values: dict[str, Any]) -> Atoms:
    return Atoms(gap=torch.zeros_like(values["union"]), **values)
