"""Probe of image-only hidden states: the image's tokens carry no information about the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pid_lens.interventions import Deterministic, Variation
from pid_lens.model import tolerances_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Samples, Spans
    from pid_lens.readouts import Pooled

TEXT_SPANS = ("question", "options")
"""Spans whose text differs between samples; other text before an image is the template's."""


@dataclass(frozen=True)
class NegatedText(Deterministic):
    """Sign flip of the embeddings after the image, as a stand-in for another text."""

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """Negate the embeddings at positions after the last image token."""
        steps = torch.arange(embeddings.shape[1], device=embeddings.device)
        behind = steps > samples.spans.positions("image").to(embeddings.device)[:, None]
        return torch.where(behind[..., None], -embeddings, embeddings)


PROBE = Variation("", 0, (NegatedText(),), probe=True)
"""One more row block, which shows whether the image's hidden states depend on the text."""


def is_image_only(pooled: Pooled) -> bool:
    """Return whether a pooled hidden state must carry no information about the text."""
    return (pooled.span, pooled.token) == ("image", "last")


def require_image_first(spans: Spans) -> None:
    """Require that the last image token comes before question and options.

    Raises:
        ValueError: some sample has text of its own before its last image token, or there is no
            span ``question``.
    """
    if "question" not in spans:
        raise ValueError(
            "no span says where the text is, so nothing shows that it comes after the image: "
            "name it, spans={'image': mask, 'question': mask}, or hand over the processor, or "
            "leave out Pooled('image', token='last')"
        )
    last = spans.positions("image")[:, None]
    for name in TEXT_SPANS:
        if name not in spans:
            continue
        mask = spans[name]
        before = mask & (torch.arange(mask.shape[1], device=mask.device) < last.to(mask.device))
        rows = before.any(-1).nonzero().flatten().tolist()
        if rows:
            raise ValueError(
                f"the {name} comes before the last image token in samples {rows[:8]}, so that "
                "token's hidden state is not image-only: put the image first, or leave out "
                "Pooled('image', token='last')"
            )


def require_unseen_text(
    own: Float[Tensor, "n width"], other: Float[Tensor, "n width"], layer: int, dtype: torch.dtype
) -> None:
    """Require that the last image token's hidden state is the same with another text after it.

    Args:
        own: the hidden state with the sample's own text, before rounding for storage.
        other: the hidden state with another text, not rounded either.
        layer: number of the layer.
        dtype: the model's precision, which determines how far rounding may move a state.

    Raises:
        ValueError: it moves in some sample, or is not finite.
    """
    own, other = own.double(), other.double()
    if not bool((own.isfinite() & other.isfinite()).all()):
        raise ValueError(
            f"the last image token's state at layer {layer} is NaN or infinite, so nothing shows "
            "that it is independent of the text: run the model in float32 or bfloat16, or leave "
            "out Pooled('image', token='last')"
        )
    # Relative distance |other - own| / |own| of each sample
    moved = (other - own).norm(dim=-1) / own.norm(dim=-1).clamp_min(torch.finfo(own.dtype).tiny)
    if not bool((moved <= tolerances_of(dtype).unseen_text).all()):
        raise ValueError(
            f"image tokens depend on the text in this model: with another text after them, the "
            f"last image token's state at layer {layer} moves by {float(moved.max()):.2%}. There "
            "is no image-only state in it to compare with (PaliGemma's prefix has no causal mask, "
            "InstructBLIP's Q-Former reads the question): leave out Pooled('image', token='last')"
        )
