"""Mardia's multivariate skewness and kurtosis: tests whether samples are Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.gaussian.algebra import rank, whitener

MOST_SKEWNESS = 0.05
MOST_KURTOSIS = 0.02
"""Skewness and kurtosis up to which a departure counts as negligible."""
_ERRORS = 3
"""So many standard errors beyond these a departure is clear."""


@dataclass(frozen=True)
class Gaussianity:
    r"""Mardia's skewness and kurtosis of n samples of d dimensions, scaled to be 0 for a Gaussian.

    With m_ij the inner product of samples i and j, whitened::

        skewness = (mean m_ij^3 - d (d + 1) (d + 2) / n) / d
        kurtosis = mean m_ii^2 / (d (d + 2)) - 1

    Where dimensions are independent the skewness is the mean of their squared ones: 4 for an
    exponential. Kurtosis is below 0 for clusters and above 0 for heavy tails: -.67 for two
    points, 1 for a Laplacian. Both depend on the third and fourth moments of all dimensions
    together: 0 is no proof.

    Attributes:
        skewness: 0 for a Gaussian.
        kurtosis: 0 for a Gaussian.
        skewness_error: standard error of the skewness of n Gaussian samples.
        kurtosis_error: standard error of the kurtosis of n Gaussian samples.

    Source:
        Measures of multivariate skewness and kurtosis with applications (Mardia, 1970),
        https://doi.org/10.1093/biomet/57.3.519
    """

    skewness: float
    kurtosis: float
    skewness_error: float
    kurtosis_error: float

    @property
    def clear(self) -> bool:
        """Whether it is clearly not 0: 3 errors beyond a skewness of .05 or a kurtosis of .02."""
        return (
            self.skewness > MOST_SKEWNESS + _ERRORS * self.skewness_error
            or abs(self.kurtosis) > MOST_KURTOSIS + _ERRORS * self.kurtosis_error
        )


def gaussianity(values: Float64[Tensor, "n d"]) -> Gaussianity:
    """Compute Mardia's skewness and kurtosis of samples, with errors under normality.

    Args:
        values: [n, d]; directions without variance do not count.

    Example:
        >>> import torch
        >>> normal = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)).double()
        >>> gaussianity(normal).clear, gaussianity(normal**3).clear
        (False, True)
    """
    centred, n = values - values.mean(0), len(values)
    if not centred.any():
        return Gaussianity(0.0, 0.0, 0.0, 0.0)
    # Whiten; directions without variance do not count
    whitening = whitener(centred.mT @ centred / n)
    white, d = centred @ whitening.mT, int(rank(whitening))
    # mean m_ij^3 = sum_abc (E z_a z_b z_c)^2 and mean m_ii^2 = E |z|^4
    cubes = sum(float(((white * one[:, None]).mT @ white / n).square().sum()) for one in white.mT)
    fourth, moments = float(white.square().sum(-1).square().mean()), d * (d + 1) * (d + 2)
    # Under normality n mean m_ij^3 / 6 is chi^2 of d (d + 1) (d + 2) / 6 degrees of freedom
    return Gaussianity(
        skewness=(cubes - moments / n) / d,
        kurtosis=fourth / (d * (d + 2)) - 1,
        skewness_error=math.sqrt(12 * moments) / n / d,
        kurtosis_error=math.sqrt(8 / (n * d * (d + 2))),
    )
