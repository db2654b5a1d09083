"""What users hand over: tensors or arrays of any real type, turned into float64 tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

SUM_ROUNDING = 1e-2
"""What the probabilities of a row may sum to beside 1, as half precision rounds them."""


def as_float64(values: Any, name: str) -> Tensor:
    """``values`` as a float64 tensor on its own device (MPS has no float64: then the CPU).

    Raises:
        TypeError: it is neither a tensor nor a NumPy array, or complex.
    """
    if isinstance(values, np.ndarray) and np.isrealobj(values) and values.dtype.kind in "fiub":
        values = torch.from_numpy(values.astype(np.float64))
    if not isinstance(values, Tensor) or values.is_complex():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a real torch.Tensor or numpy.ndarray, got {kind}")
    if values.device.type == "mps":
        values = values.cpu()
    return values.to(torch.float64)
