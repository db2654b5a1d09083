"""Pooled hidden states: one vector per span, for estimators that work on vectors, not answers."""

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
    """The mean of a span's hidden states, or that of its last token; kept in half precision.

    Summed in float32, because a bfloat16 sum of 2,000 values stalls. What exceeds 65,504, the
    largest float16, becomes infinite, which estimators refuse: ask for ``dtype="float32"`` then.
    Tokens outside the span play no part, even where their states are not finite. The state of the
    last image token carries information about the image alone, if image tokens do not depend on
    the text: a Lens that keeps ``Pooled("image", token="last")`` tests that in its first pass, and
    raises a ValueError where they do.

    Attributes:
        span: name of the span.
        token: ``"last"`` for the span's last token; None for the mean over all of its tokens.
        dtype: what states are kept in; ``"float16"`` takes half the memory, and rounds to 1 part
            in 2,048.

    Raises:
        ValueError: another token or dtype than these.

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
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        if self.token not in ("last", None):
            raise ValueError(f"token must be 'last', or None for the mean; got {self.token!r}")
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be 'float16' or 'float32'; got {self.dtype!r}")

    @property
    def name(self) -> str:
        """Name of the pooled state in `Reads`: ``image``, ``image_last``."""
        return self.span if self.token is None else f"{self.span}_{self.token}"

    def __call__(
        self, states: Float[Tensor, "n tokens width"], spans: Spans
    ) -> Float[Tensor, "n width"]:
        """Pool the span's hidden states in each sample, rounded to ``dtype``."""
        return self.unrounded(states, spans).to(getattr(torch, self.dtype))

    def unrounded(
        self, states: Float[Tensor, "n tokens width"], spans: Spans
    ) -> Float[Tensor, "n width"]:
        """Pool the span's hidden states in each sample, in float32 for any ``dtype``."""
        if self.token == "last":
            at = spans.positions(self.span).to(states.device)
            return states[torch.arange(len(at), device=at.device), at].float()
        # Masked mean; `where`, for an infinite state outside the span times 0 would be NaN
        mask = spans[self.span].to(states.device)[..., None]
        return states.float().where(mask, 0.0).sum(1) / mask.sum(1)
