"""Inputs and settings of `flow_pid`, validated."""

from __future__ import annotations

from dataclasses import dataclass
from warnings import warn

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.common.arrays import as_float64
from pid_lens.estimators.flow.reduction import Components
from pid_lens.estimators.gaussian.from_covariance import Redundancy, require_redundancy
from pid_lens.results import Unit, require_unit

LEAST_FLOW_SAMPLES = 50
MANY_COMPONENTS = 0.1
"""Components of all variables over samples, beyond which flows and covariances overfit."""


@dataclass(frozen=True)
class FlowSettings:
    """Settings of `flow_pid`, validated.

    Attributes:
        variance: share of a variable's variance to keep, in (0, 1].
        components: number of components of each variable, at most; None for no limit.
        redundancy: ``"exact"`` or ``"minimum"``.
        joint: whether one flow mixes the variables.
        transforms: number of splines of each coordinate.
        steps: of gradient descent, at most.
        folds: number of folds.
        seed: of folds, batches and halves.
        unit: ``"bits"`` or ``"nats"``.

    Raises:
        ValueError: an unknown redundancy or unit, or a number that is out of range.
    """

    variance: float
    components: int | None
    redundancy: Redundancy
    joint: bool
    transforms: int
    steps: int
    folds: int
    seed: int
    unit: Unit

    def __post_init__(self) -> None:
        require_redundancy(self.redundancy)
        require_unit(self.unit)
        if not 0 < self.variance <= 1:
            raise ValueError(f"variance must be in (0, 1], a share; got {self.variance}")
        for name, least in (("components", 1), ("transforms", 1), ("steps", 0), ("folds", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")


def warn_if_many(kept: list[dict[str, Components]]) -> None:
    """Warn where there are too many components for the samples."""
    most = max(sum(part.values.shape[1] for part in layer.values()) for layer in kept)
    n = len(kept[0]["answer"].values)
    if most > MANY_COMPONENTS * n:
        warn(
            f"{most} components of {n} samples, over a tenth: flows and covariances overfit. "
            "Keep fewer (components=...) or take more samples",
            stacklevel=3,
        )


def require_samples(n: int, components: int, folds: int) -> None:
    """Require enough samples to hold out a fold.

    Raises:
        ValueError: there are too few.
    """
    # Every training set must have more samples than components, for a covariance of full rank
    least = max(LEAST_FLOW_SAMPLES, components * folds // (folds - 1) + folds + 1)
    if n < least:
        raise ValueError(
            f"{components} components in {folds} folds need at least {least} samples; got {n}: "
            "more samples, or fewer components (components=...)"
        )


def as_flow_inputs(given: dict[str, Tensor | np.ndarray]) -> dict[str, Float64[Tensor, "n width"]]:
    """Convert the variables to float64 on the CPU, by name.

    Raises:
        TypeError: not tensors or arrays.
        ValueError: other shapes, NaN or infinite values.
    """
    rows = {name: as_float64(x, name).detach().cpu() for name, x in given.items()}
    shapes = {name: list(x.shape) for name, x in rows.items()}
    if (
        any(x.ndim != 2 or 0 in x.shape for x in rows.values())
        or len({*map(len, rows.values())}) > 1
    ):
        raise ValueError(f"vision, language and answer must be [n, width] of one n; got {shapes}")
    for name, x in rows.items():
        if not bool(x.isfinite().all()):
            row = int((~x.isfinite()).any(1).nonzero()[0])
            raise ValueError(
                f"{name} has NaN or infinite values, first in row {row}: half precision that "
                "overflows? Leave such rows out, in all three"
            )
    return rows
