"""Atoms made of known informations."""

from __future__ import annotations

import torch
from torch import Tensor

from pid_lens.results import Atoms

LEAST_PROBABILITY = 1e-30
"""What stands for probability 0 where its logarithm is taken."""


def known_atoms(*totals: float | Tensor) -> Atoms:
    """Atoms of I12, I1, I2 and the union, bits."""
    i12, i1, i2, union = (torch.as_tensor(x, dtype=torch.float64) for x in totals)
    return Atoms(
        information=i12,
        information_vision=i1,
        information_language=i2,
        union=union,
        gap=torch.zeros_like(union),
    )
