"""Atoms from mutual informations and a union information that are known."""

from __future__ import annotations

import torch
from torch import Tensor

from pid_lens.results import Atoms

LEAST_PROBABILITY = 1e-30
"""Floor of probabilities, in place of 0, before a logarithm."""


def known_atoms(*totals: float | Tensor) -> Atoms:
    """Compute atoms from I12, I1, I2 and the union information, bits."""
    i12, i1, i2, union = (torch.as_tensor(x, dtype=torch.float64) for x in totals)
    return Atoms(
        information=i12,
        information_vision=i1,
        information_language=i2,
        union=union,
        gap=torch.zeros_like(union),
    )
