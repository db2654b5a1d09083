"""Input arrays: tensors or NumPy arrays of any real dtype, converted to float64 tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

SUM_ROUNDING = 1e-2
"""How far from 1 the probabilities of a row may sum, as half precision rounds them."""


def as_float64(values: Any, name: str) -> Tensor:
    """Convert ``values`` to a float64 tensor on its own device (MPS has no float64: then the CPU).

    Raises:
        TypeError: ``values`` is neither a tensor nor a NumPy array, or is complex.

    Example:
        >>> as_float64(np.array([1, 2]), "counts")
        tensor([1., 2.], dtype=torch.float64)
    """
    if isinstance(values, np.ndarray) and np.isrealobj(values) and values.dtype.kind in "fiub":
        values = torch.from_numpy(values.astype(np.float64))
    if not isinstance(values, Tensor) or values.is_complex():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a real torch.Tensor or numpy.ndarray, got {kind}")
    if values.device.type == "mps":
        values = values.cpu()
    return values.to(torch.float64)
