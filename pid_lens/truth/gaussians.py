"""Gaussian systems whose atoms are known in closed form."""

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
    """A Gaussian Y with two sources, and what its decomposition is."""

    covariance: Float64[Tensor, "d d"]
    """Blocks in the order Y, X1, X2."""
    sizes: tuple[int, int, int]
    """Dimensions of Y, X1, X2."""
    atoms: Atoms
    """In bits, from a closed form of the system's own."""

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Y, X1, X2 of n independent samples, [n, width] each."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, sum(self.sizes), generator=generator, dtype=torch.float64)
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
    """A Gaussian system with known atoms, by name or, a number, by gain.

    Of gain g: Y = (Y1, Y2) of unit variance, X1 = (Y1 + a, g Y2 + b), X2 = (sqrt 2 Y1 + c,
    Y2 + d), all noises independent of unit variance. Y1 and Y2 are separate, X2 is the better
    look at Y1, and which is the better at Y2 depends on g. By name: Y + noise of unit variance
    in both sources, with gains and a correlation of the noises: ``scalar_unequal`` 2, .7, .2;
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
    both = one**2 + other**2 - 2 * correlation * one * other
    i1, i2 = math.log2(1 + one**2) / 2, math.log2(1 + other**2) / 2
    i12 = math.log2(1 + both / (1 - correlation**2)) / 2
    gains = torch.tensor([[one], [other]], dtype=torch.float64)
    return GaussianSystem(
        _looked_at(gains, noise), (1, 1, 1), known_atoms(i12, i1, i2, max(i1, i2))
    )


def _gain(g: float) -> GaussianSystem:
    gains = torch.tensor([[1, 0], [0, g], [2**0.5, 0], [0, 1]], dtype=torch.float64)
    noise = torch.eye(4, dtype=torch.float64)
    sharper = max(1 + g**2, 2.0)
    i12, i1, i2, union = (
        math.log2(precision) / 2
        for precision in (4 * (2 + g**2), 2 * (1 + g**2), 6.0, 3 * sharper)
    )
    return GaussianSystem(_looked_at(gains, noise), (2, 2, 2), known_atoms(i12, i1, i2, union))


def _looked_at(gains: Float64[Tensor, "d dy"], noise: Float64[Tensor, "d d"]) -> Tensor:
    """Covariance of Y of unit covariance and X = gains Y + noise."""
    eye = torch.eye(gains.shape[1], dtype=gains.dtype)
    top, low = torch.cat([eye, gains.mT], 1), torch.cat([gains, gains @ gains.mT + noise], 1)
    return torch.cat([top, low])
