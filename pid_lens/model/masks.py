"""Masks of token pairs, of torch alone: what is sent to a server that has no pid_lens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def mask_pairs(
    mask: Tensor, closed: Bool[Tensor, "rows heads queries keys"]
) -> Float[Tensor, "rows heads queries keys"] | Bool[Tensor, "rows heads queries keys"]:
    """A mask of either kind with more pairs forbidden: booleans (True attends) or addends.

    Example:
        >>> closed = torch.tensor([[[[True, False]]]])
        >>> mask_pairs(torch.ones(1, 1, 1, 2).bool(), closed)
        tensor([[[[False,  True]]]])
        >>> mask_pairs(torch.zeros(1, 1, 1, 2), closed)[0, 0, 0] < -1e30
        tensor([ True, False])
    """
    if mask.dtype == torch.bool:
        return mask & ~closed
    return torch.where(closed, torch.finfo(mask.dtype).min, mask)


def causal_mask(
    before: int, queries: int, keys: int, causal: bool
) -> Bool[Tensor, "1 1 queries keys"]:
    """The mask that None stands for: a token sees itself and what is before it, or everything."""
    if not causal:
        return torch.ones(1, 1, queries, keys, dtype=torch.bool)
    at = torch.arange(before, before + queries)
    return (torch.arange(keys) <= at[:, None])[None, None]
