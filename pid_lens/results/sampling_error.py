"""Standard error and confidence interval: how far a sample mean may lie from the population's."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

_HALVINGS = 50


def standard_error(
    values: Float64[Tensor, "layers n"], groups: Tensor | None = None
) -> Float64[Tensor, " layers"]:
    """Compute the cluster-robust standard error of a mean of influences.

    sqrt(G / (G - 1) sum over clusters of (sum of influences)^2) / n; a group is a cluster.

    Args:
        values: influences, mean 0.
        groups: the group of each sample, 0 to G - 1; by default each sample is its own.

    Returns:
        One error per layer; inf for fewer than two groups.

    Example:
        >>> import torch
        >>> values = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
        >>> standard_error(values)
        tensor([0.5774], dtype=torch.float64)
        >>> standard_error(values, torch.tensor([0, 0, 1, 1]))
        tensor([0.], dtype=torch.float64)
    """
    n = values.shape[1]
    # Sum the influences within each cluster
    if groups is not None:
        count = int(groups.max()) + 1
        sums = values.new_zeros(len(values), count)
        values = sums.index_add_(1, groups.to(values.device), values)
    clusters = values.shape[1]
    if clusters < 2:
        return values.new_full((len(values),), torch.inf)
    # Variance between clusters with its small-sample factor G / (G - 1)
    return (values.square().sum(1) * clusters / (clusters - 1)).sqrt() / n


def confidence_interval(
    ends: Float64[Tensor, "ends layers"],
    gap: Float64[Tensor, " layers"],
    error: Float64[Tensor, " layers"],
    level: float,
) -> tuple[Float64[Tensor, " layers"], Float64[Tensor, " layers"]]:
    """Compute a confidence interval of a partially identified value: one between uncertain ends.

    From the lowest end to the highest, half the gap on either side, and c standard errors beyond;
    w is the width of the interval without the errors::

        normal(c + w / error) - normal(-c) = level

    so that c is 1.96 for one point and 1.64 for distant ends, at a level of 95 %.

    Args:
        ends: the values between which it lies, such as the plug-in estimate and the cross-fitted
            one.
        gap: width of the certified interval around each end.
        error: standard error of an end.
        level: probability of coverage.

    Source:
        Confidence intervals for partially identified parameters (Imbens, Manski, 2004),
        https://doi.org/10.1111/j.1468-0262.2004.00555.x

    Returns:
        The lower and the upper limit; infinite where a value or its error is.

    Raises:
        ValueError: a level outside (0, 1).

    Example:
        >>> import torch
        >>> ends = torch.tensor([[0.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
        >>> confidence_interval(ends, torch.zeros(2), torch.ones(2, dtype=torch.float64), 0.95)[0]
        tensor([-1.9600, -1.6449], dtype=torch.float64)
    """
    if not 0 < level < 1:
        raise ValueError(f"level is a probability such as 0.95; got {level}")
    # Identified interval: the ends, widened by the certified gap
    low, high = ends.amin(0) - gap / 2, ends.amax(0) + gap / 2
    # c standard errors beyond it; an undefined width, 0 / 0, counts as 0
    beyond = _reach(((high - low) / error).nan_to_num(nan=0.0), level) * error
    # Nothing is known where a value or its error is infinite
    known = beyond.isfinite() & (high - low).isfinite()
    return (low - beyond).where(known, -torch.inf), (high + beyond).where(known, torch.inf)


def _reach(width: Float64[Tensor, " layers"], level: float) -> Float64[Tensor, " layers"]:
    """Solve normal(c + width) - normal(-c) = level for c, by bisection."""
    normal = torch.special.ndtr
    # Brackets of c: the one-sided quantile (width inf) and the two-sided one (width 0)
    ends = torch.special.ndtri(width.new_tensor([level, (1 + level) / 2]))
    low, high = (end.expand_as(width) for end in ends)
    # Bisection: coverage rises with c
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = normal(middle + width) - normal(-middle) < level
        low, high = middle.where(short, low), high.where(short, middle)
    return high
