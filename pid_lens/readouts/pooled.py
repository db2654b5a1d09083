"""Pooled: one state for a span, for estimators that work on states instead of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import einsum

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.spans import Spans


@dataclass(frozen=True)
class Pooled:
    """The mean of a span's states, or that of its last token; float32.

    float32, because a bfloat16 sum of 2,000 values stalls. The last token of the image is what
    the image says by itself, if it does not see the text: a Lens that keeps ``Pooled("image",
    token="last")`` proves that in its first pass and refuses the model otherwise.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> spans = Spans(image=torch.tensor([[True, True, False]]))
        >>> states = torch.tensor([[[1.], [3.], [7.]]])
        >>> Pooled("image")(states, spans), Pooled("image", token="last")(states, spans)
        (tensor([[2.]]), tensor([[3.]]))
    """

    span: str
    token: Literal["last"] | None = None
    """``"last"`` takes the span's last token instead of the mean over all."""

    def __post_init__(self) -> None:
        if self.token not in ("last", None):
            raise ValueError(f"token must be 'last', or None for the mean; got {self.token!r}")

    @property
    def name(self) -> str:
        """What the state is called in `Reads`: ``image``, ``image_last``."""
        return self.span if self.token is None else f"{self.span}_{self.token}"

    def __call__(
        self, states: Float[Tensor, "n tokens width"], spans: Spans
    ) -> Float[Tensor, "n width"]:
        """The span's state in each sample."""
        if self.token == "last":
            at = spans.positions(self.span).to(states.device)
            return states[torch.arange(len(at), device=at.device), at].float()
        mask = spans[self.span].to(states.device).float()
        total = einsum(states.float(), mask, "n tokens width, n tokens -> n width")
        return total / mask.sum(-1, keepdim=True)
