"""Gaussian systems: covariances of Y, X1, X2 whose atoms have a closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.results import Atoms
from pid_lens.truth.known import known_atoms


@dataclass(frozen=True, eq=False)
class GaussianSystem:
    """A jointly Gaussian target Y with two sources X1, X2, and its true decomposition.

    Attributes:
        covariance: [d, d], blocks in the order Y, X1, X2.
        sizes: dimensions of Y, X1, X2.
        atoms: bits, from a closed form of the system's own.

    Example:
        >>> import torch
        >>> from pid_lens.truth import gaussian_system
        >>> system = gaussian_system("scalar_unequal")
        >>> system.covariance
        tensor([[1.0000, 2.0000, 0.7000],
                [2.0000, 5.0000, 1.6000],
                [0.7000, 1.6000, 1.4900]], dtype=torch.float64)
        >>> y, x1, x2 = system.sample(20000)
        >>> bool((torch.cat([y, x1, x2], 1).mT.cov() - system.covariance).abs().max() < 0.2)
        True
    """

    covariance: Float64[Tensor, "d d"]
    sizes: tuple[int, int, int]
    atoms: Atoms

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Draw Y, X1, X2 of n independent samples, [n, width] each."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, sum(self.sizes), generator=generator, dtype=torch.float64)
        # z ~ N(0, I), L the Cholesky factor: L z has covariance L L^T
        y, x1, x2 = (noise @ torch.linalg.cholesky(self.covariance).mT).split(self.sizes, -1)
        return y, x1, x2


_PAIRS = {
    "scalar_unequal": (2.0, 0.7, 0.2),
    "scalar_negative_noise": (1.0, 1.0, -0.6),
    "scalar_redundant_noise": (1.0, 1.0, 0.9),
}
"""Gains of both sources and the correlation of their noises."""
GAUSSIANS = tuple(_PAIRS)
"""The names that `gaussian_system` knows."""


def gaussian_system(which: str | float) -> GaussianSystem:
    """Build a Gaussian system with known atoms, by name or, a number, by gain.

    Of gain g: Y = (Y1, Y2) of unit variance, X1 = (Y1 + a, g Y2 + b), X2 = (sqrt 2 Y1 + c,
    Y2 + d), all noises independent of unit variance. Y1 and Y2 are separate; X2 measures Y1 with
    less noise than X1, and which source measures Y2 with less noise depends on g. By name:
    gain times Y + noise of unit variance in both sources, with gains and a correlation of the
    noises: ``scalar_unequal`` 2, .7, .2;
    ``scalar_negative_noise`` 1, 1, -.6; ``scalar_redundant_noise`` 1, 1, .9.

    Raises:
        ValueError: no such system.

    Source:
        Gaussian partial information decomposition: bias correction and application to
        high-dimensional data (Venkatesh et al., 2023), example 10,
        https://arxiv.org/abs/2307.10515

    Example:
        >>> gaussian_system(2).atoms
        Atoms(R=1.000 U_vision=0.661 U_language=0.292 S=0.339 bits)
    """
    if isinstance(which, str) and which not in _PAIRS:
        raise ValueError(
            f"no Gaussian system is called {which!r}; there are {', '.join(GAUSSIANS)}, and any "
            "gain, a number"
        )
    return _pair(*_PAIRS[which]) if isinstance(which, str) else _gain(float(which))


def _pair(one: float, other: float, correlation: float) -> GaussianSystem:
    noise = torch.eye(2, dtype=torch.float64)
    noise[0, 1] = noise[1, 0] = correlation
    # Signal-to-noise of both sources, g^T N^-1 g = both / (1 - c^2); I = log2(1 + snr) / 2
    both = one**2 + other**2 - 2 * correlation * one * other
    i1, i2 = math.log2(1 + one**2) / 2, math.log2(1 + other**2) / 2
    i12 = math.log2(1 + both / (1 - correlation**2)) / 2
    # Scalar Y: the union information is the larger of I1 and I2
    gains = torch.tensor([[one], [other]], dtype=torch.float64)
    return GaussianSystem(
        _joint_covariance(gains, noise), (1, 1, 1), known_atoms(i12, i1, i2, max(i1, i2))
    )


def _gain(g: float) -> GaussianSystem:
    gains = torch.tensor([[1, 0], [0, g], [2**0.5, 0], [0, 1]], dtype=torch.float64)
    noise = torch.eye(4, dtype=torch.float64)
    # Y1 and Y2 decompose apart: the union takes the better source for each, precision 3 of Y1
    # (X2) and 1 + max(g^2, 1) of Y2; I = log2 det(precision of Y given the sources) / 2
    sharper = max(1 + g**2, 2.0)
    i12, i1, i2, union = (
        math.log2(precision) / 2
        for precision in (4 * (2 + g**2), 2 * (1 + g**2), 6.0, 3 * sharper)
    )
    covariance = _joint_covariance(gains, noise)
    return GaussianSystem(covariance, (2, 2, 2), known_atoms(i12, i1, i2, union))


def _joint_covariance(gains: Float64[Tensor, "d dy"], noise: Float64[Tensor, "d d"]) -> Tensor:
    """Compute the covariance of Y, of unit covariance, and X = gains Y + noise."""
    eye = torch.eye(gains.shape[1], dtype=gains.dtype)
    top, low = torch.cat([eye, gains.mT], 1), torch.cat([gains, gains @ gains.mT + noise], 1)
    return torch.cat([top, low])
