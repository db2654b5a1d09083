"""Pooled: one state for a span, for estimators that work on states instead of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Spans


@dataclass(frozen=True)
class Pooled:
    """The mean of a span's states, or that of its last token; kept in half precision.

    Summed in float32, because a bfloat16 sum of 2,000 values stalls. What exceeds 65,504, the
    largest float16, becomes infinite, which estimators refuse: ask for ``dtype="float32"`` then.
    Tokens outside the span play no part, whatever their states are. The last token of the image
    is what the image says by itself, if it does not see the text: a Lens that keeps
    ``Pooled("image", token="last")`` proves that in its first pass and refuses the model
    otherwise.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> spans = Spans(image=torch.tensor([[True, True, False]]))
        >>> states = torch.tensor([[[1.], [3.], [7.]]])
        >>> Pooled("image")(states, spans), Pooled("image", token="last")(states, spans)
        (tensor([[2.]], dtype=torch.float16), tensor([[3.]], dtype=torch.float16))
    """

    span: str
    token: Literal["last"] | None = None
    """``"last"`` takes the span's last token instead of the mean over all."""
    dtype: Literal["float16", "float32"] = "float16"
    """What is kept takes half the memory in half precision, and rounds to 1 part in 2,048."""

    def __post_init__(self) -> None:
        if self.token not in ("last", None):
            raise ValueError(f"token must be 'last', or None for the mean; got {self.token!r}")
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be 'float16' or 'float32'; got {self.dtype!r}")

    @property
    def name(self) -> str:
        """What the state is called in `Reads`: ``image``, ``image_last``."""
        return self.span if self.token is None else f"{self.span}_{self.token}"

    def __call__(
        self, states: Float[Tensor, "n tokens width"], spans: Spans
    ) -> Float[Tensor, "n width"]:
        """The span's state in each sample."""
        return self.unrounded(states, spans).to(getattr(torch, self.dtype))

    def unrounded(
        self, states: Float[Tensor, "n tokens width"], spans: Spans
    ) -> Float[Tensor, "n width"]:
        """The span's state in each sample, in float32 whatever ``dtype`` is."""
        if self.token == "last":
            at = spans.positions(self.span).to(states.device)
            return states[torch.arange(len(at), device=at.device), at].float()
        mask = spans[self.span].to(states.device)[..., None]
        return states.float().where(mask, 0.0).sum(1) / mask.sum(1)
