"""Stored Gaussian systems with their atoms, random covariances, and samples of two looks."""

import numpy as np
import torch
from paths import DATA

from pid_lens.results import ATOMS

STORED = np.load(DATA / "gaussian.npz")
NAMES = STORED["names"].tolist()


def atoms(result):
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


def covariance(sizes=(3, 4, 2), batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    d = sum(sizes)
    root = torch.randn(*batch, d, 2 * d, generator=generator, dtype=torch.float64)
    return root @ root.mT / (2 * d)


def looks(n=500, d=10, better=1.0, seed=0, layers=()):
    """Y and two looks at it, with noises of variance 1/better and 1."""
    generator = torch.Generator().manual_seed(seed)
    y, a, b = torch.randn(3, *layers, n, d, generator=generator, dtype=torch.float64)
    return y, y + a / better**0.5, y + b
