"""Pooled: a span's mean state, for estimators that work on states instead of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from einops import einsum

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.spans import Spans


@dataclass(frozen=True)
class Pooled:
    """The mean of a span's states, float32 (a bfloat16 sum of 2,000 values stalls).

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> spans = Spans(image=torch.tensor([[True, True, False]]))
        >>> Pooled("image")(torch.tensor([[[1.], [3.], [7.]]]), spans)
        tensor([[2.]])
    """

    span: str

    def __call__(
        self, states: Float[Tensor, "n tokens width"], spans: Spans
    ) -> Float[Tensor, "n width"]:
        """Mean over the span's tokens."""
        mask = spans[self.span].to(states.device).float()
        total = einsum(states.float(), mask, "n tokens width, n tokens -> n width")
        return total / mask.sum(-1, keepdim=True)
