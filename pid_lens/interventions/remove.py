"""Removal of tokens from the attention mask and the position ids: a prompt without a span."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pid_lens.interventions.deterministic import Deterministic

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from pid_lens.inputs import Samples


@dataclass(frozen=True)
class Remove(Deterministic):
    """Removal of a span's tokens, from the attention mask and from the position ids.

    Equal to a prompt without these tokens, in one forward pass with the whole prompt: in every
    layer and head attention from all other tokens to them is masked, and position ids are counted
    without them. It is the condition behind published "accuracy without the image";
    unlike `Noise` it changes the prompt's length, from which a model may know whether there is an
    image. In layers with a sliding window shorter than the prompt, removed tokens still count
    towards the window, though no other token attends to them.

    Attributes:
        span: name of the span to remove, such as ``"image"``.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> from pid_lens.inputs import Samples
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, True, False]])))
        >>> queries, keys = Remove("image").ends(samples)
        >>> queries.tolist(), keys.tolist()
        ([[False, False, True]], [[True, True, False]])
    """

    span: str

    @property
    def layers(self) -> None:
        """None: all layers."""
        return

    @property
    def heads(self) -> None:
        """None: all heads."""
        return

    def ends(self, samples: Samples) -> tuple[Bool[Tensor, "n tokens"], Bool[Tensor, "n tokens"]]:
        """Return query positions (all other tokens) and key positions (the removed ones)."""
        mask = samples.spans[self.span]
        return ~mask, mask

    def removed(self, samples: Samples) -> Bool[Tensor, "n tokens"]:
        """Return the mask of the tokens that position ids are counted without."""
        return samples.spans[self.span]
