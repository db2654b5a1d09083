"""Attention masks: the causal mask, and blocked (query, key) pairs in a mask, by torch alone.

Nothing but torch is used, since the source is sent to a server that has no pid_lens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def mask_pairs(
    mask: Tensor, blocked: Bool[Tensor, "rows heads queries keys"]
) -> Float[Tensor, "rows heads queries keys"] | Bool[Tensor, "rows heads queries keys"]:
    """Block more (query, key) pairs in a 4-D attention mask, boolean (True attends) or additive.

    Example:
        >>> import torch
        >>> blocked = torch.tensor([[[[True, False]]]])
        >>> mask_pairs(torch.ones(1, 1, 1, 2).bool(), blocked)
        tensor([[[[False,  True]]]])
        >>> mask_pairs(torch.zeros(1, 1, 1, 2), blocked)[0, 0, 0] < -1e30
        tensor([ True, False])
    """
    if mask.dtype == torch.bool:
        return mask & ~blocked
    return torch.where(blocked, torch.finfo(mask.dtype).min, mask)


def causal_mask(
    before: int, queries: int, keys: int, causal: bool
) -> Bool[Tensor, "1 1 queries keys"]:
    """Build the causal mask that None stands for: a query attends to itself and earlier keys.

    Args:
        before: tokens before the first query (in the KV cache).
        queries: number of query positions.
        keys: number of key positions.
        causal: False for a mask without blocked pairs: every query attends to every key.

    Example:
        >>> causal_mask(before=1, queries=2, keys=3, causal=True)[0, 0].int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    if not causal:
        return torch.ones(1, 1, queries, keys, dtype=torch.bool)
    at = torch.arange(before, before + queries)
    return (torch.arange(keys) <= at[:, None])[None, None]
