"""PID of samples after normalizing flows: invertible maps that make them Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.estimators.common.clusters import as_clusters
from pid_lens.estimators.flow.atoms import VARIABLES, FlowAtoms
from pid_lens.estimators.flow.gaussianise import Gaussianised, UnboundedError, gaussianise
from pid_lens.estimators.flow.gaussianity import Gaussianity, gaussianity
from pid_lens.estimators.flow.inputs import (
    FlowSettings,
    as_flow_inputs,
    require_samples,
    warn_if_many,
)
from pid_lens.estimators.flow.reduction import Components, principal_components
from pid_lens.estimators.gaussian.from_covariance import Redundancy
from pid_lens.estimators.gaussian.from_samples import GaussianBracket, gaussian_pid_samples
from pid_lens.results import FIELDS, Unit

MOST_NARROW = 16
"""A variable of no more coordinates is not reduced for the sake of its variance: they may have
units of their own, and there are few."""


def flow_pid(
    vision: Tensor | np.ndarray,
    language: Tensor | np.ndarray,
    answer: Tensor | np.ndarray,
    *,
    variance: float = 0.95,
    components: int | None = 30,
    redundancy: Redundancy = "exact",
    joint: bool = False,
    transforms: int = 1,
    steps: int = 300,
    folds: int = 3,
    seed: int = 0,
    unit: Unit = "bits",
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    progress: bool = True,
) -> FlowAtoms:
    r"""Estimate redundancy, unique information and synergy of samples after normalizing flows.

    X1, X2 and Y, where they have more than 16 coordinates reduced to principal components, are
    mapped by an invertible flow each, which leaves mutual information as it is. The flows are
    those under which all three are likeliest as one Gaussian (`gaussianise`), and
    `gaussian_pid_samples` decomposes the result. Where that is jointly Gaussian, it is the
    decomposition of the components. Where only each variable by itself is, every information
    is a lower bound: with given Gaussian marginals and covariances the Gaussian has least.

    It is wrong where no such maps exist: for clustered or discrete variables, relations that are
    not monotone (for Y = X^2 it reads 0). `FlowAtoms.gaussianity` measures how far from Gaussian
    the result is, by third and fourth moments: for uniform X and Y = X + noise as wide it reads
    .47 of .72 bits, at a joint kurtosis of -.05. Principal components rank directions by
    variance, not by information: information in the least 5 % of the variance is lost.

    Where a direction of one variable is determined by the rest without error (two sources that
    are one) the likelihood has no maximum: the result is the closed form of the components,
    marked doubtful.

    Of independent variables flows find no more than a covariance does: with the answers of 450
    digits permuted at random, 18 to 20 components, I(X1, X2; Y) reads .06 to .09 bits, and .06
    to .08 without flows.

    Args:
        vision: X1, [n, d1].
        language: X2, [n, d2].
        answer: Y, [n, dy].
        variance: share of the variance to keep of a variable of more than 16 coordinates, in
            (0, 1].
        components: of each variable, at most; None for no limit.
        redundancy: ``"exact"``, or ``"minimum"``: R = min(I(Y; X1), I(Y; X2)), the baseline of
            PID Flow.
        joint: let one flow mix X1, X2 and Y, as PID Flow does. That changes mutual information:
            maps like (X, Y) -> (X, Y - X) move or remove what one variable knows about
            another, and the likeliest Gaussian is often one of independent variables. For X
            and Y = X + noise, both exponential, .83 bits are true, own flows read .45, a joint
            one .01, and that result passes as Gaussian.
        transforms: number of splines of each coordinate, with rotations in between. More are
            likelier and less stable.
        steps: of gradient descent, at most.
        folds: number of folds, held out in turn for early stopping.
        seed: of folds, batches and halves.
        unit: ``"bits"`` or ``"nats"``.
        groups: the group of each sample, any hashable values, where samples are not independent:
            a group is held out as a whole, and standard errors are cluster-robust.
        progress: show a bar if training takes longer than two seconds.

    Returns:
        `FlowAtoms`; ``gap`` is 0.

    Raises:
        ImportError: zuko is not installed.
        TypeError: not tensors or arrays.
        ValueError: other shapes, NaN, fewer than 50 samples or too few for the components,
            settings out of range or unknown, infinite information in one source.

    Source:
        How vision becomes language: a layer-wise information-theoretic analysis of multimodal
        reasoning (Wu et al., 2026), https://arxiv.org/abs/2602.15580; Partial information
        decomposition via normalizing flows in latent Gaussian distributions (Zhao et al., 2025),
        https://arxiv.org/abs/2510.04417

    Example:
        >>> import torch
        >>> noise = torch.randn(3, 900, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> y, x1, x2 = noise[0], noise[0] + noise[1], noise[0] + 2 * noise[2]
        >>> found = flow_pid(x1.exp(), x2**3, y.sinh())
        >>> truth = {"redundancy": 0.161, "unique_vision": 0.339, "unique_language": 0}
        >>> max(abs(float(getattr(found, name)) - bits) for name, bits in truth.items()) < 0.06
        True
        >>> found.gain > 3  # nats
        True
    """
    settings = FlowSettings(
        variance, components, redundancy, joint, transforms, steps, folds, seed, unit
    )
    rows = {"answer": answer, "vision": vision, "language": language}
    kept = {name: reduce_variable(x, settings) for name, x in as_flow_inputs(rows).items()}
    warn_if_many([kept])
    of = None if groups is None else as_clusters(groups, len(kept["answer"].values))
    return decompose_flows(kept, settings, of, progress)


def reduce_variable(x: Float64[Tensor, "n width"], settings: FlowSettings) -> Components:
    """Reduce a variable to the principal components that the settings ask for."""
    share = settings.variance if x.shape[1] > MOST_NARROW else 1.0
    return principal_components(x, share, settings.components)


def decompose_flows(
    kept: dict[str, Components],
    settings: FlowSettings,
    groups: Int64[Tensor, " n"] | None = None,
    progress: bool = False,
) -> FlowAtoms:
    """Map components of answer, vision and language by flows, then decompose the result.

    Raises:
        ImportError, ValueError: as `flow_pid`.
    """
    # Constants have no component: no flow for them
    before = {name: kept[name].values for name in VARIABLES}
    n, used = len(before["answer"]), {k: kept[k] for k in VARIABLES if before[k].shape[1]}
    require_samples(n, sum(x.shape[1] for x in before.values()), settings.folds)
    # Without flows: infinite information stays as it is, as invertible maps do not change it
    plain = _bracket(before, settings, groups)
    found, bounded = _leave_as_is(used), True
    if len(used) > 1 and bool(plain.plug_in.information.isfinite()):
        found, bounded = _gaussianise(used, settings, groups, progress)
    # Gaussian PID of the mapped variables
    after = before | dict(zip(used, found.values, strict=True))
    bracket = _bracket(after, settings, groups)
    return FlowAtoms(
        **{name: getattr(bracket.plug_in, name) for name in FIELDS},
        unit=settings.unit,
        pointwise=bracket.pointwise,
        influence=bracket.influence,
        bracket=bracket.cross_fitted,
        components={name: before[name].shape[1] for name in VARIABLES},
        variance={name: kept[name].share for name in VARIABLES},
        gain=found.gain,
        steps=found.steps,
        bounded=bounded,
        gaussianity=_report(before, after),
        groups=groups,
        n=n,
    )


def _gaussianise(
    kept: dict[str, Components],
    settings: FlowSettings,
    groups: Int64[Tensor, " n"] | None,
    progress: bool,
) -> tuple[Gaussianised, bool]:
    """Return variables after likeliest flows and True; as they are and False if none exist."""
    try:
        found = gaussianise(
            [one.values for one in kept.values()],
            [one.whole for one in kept.values()],
            joint=settings.joint,
            transforms=settings.transforms,
            steps=settings.steps,
            folds=settings.folds,
            seed=settings.seed,
            clusters=groups,
            progress=progress,
        )
    except UnboundedError:
        return _leave_as_is(kept), False
    return found, True


def _leave_as_is(kept: dict[str, Components]) -> Gaussianised:
    """Return the variables without flows."""
    return Gaussianised(tuple(one.values for one in kept.values()), 0.0, 0)


def _bracket(
    variables: dict[str, Tensor], settings: FlowSettings, groups: Tensor | None
) -> GaussianBracket:
    """Compute plug-in and cross-fitted estimates; a constant is a column of zeros."""
    y, x1, x2 = (
        x if x.shape[1] else x.new_zeros(len(x), 1) for x in (variables[k] for k in VARIABLES)
    )
    return gaussian_pid_samples(
        y,
        x1,
        x2,
        redundancy=settings.redundancy,
        seed=settings.seed,
        unit=settings.unit,
        groups=groups,
    )


def _report(
    before: dict[str, Tensor], after: dict[str, Tensor]
) -> dict[str, tuple[Gaussianity, Gaussianity]]:
    old, new = (x | {"joint": torch.cat([x[k] for k in VARIABLES], 1)} for x in (before, after))
    return {name: (gaussianity(old[name]), gaussianity(new[name])) for name in old}
