"""Removal of tokens: masked as keys, skipped in position ids, as in a prompt without a span."""

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
    """Removal of a span's tokens: masked as keys for all other tokens, skipped in position ids.

    Equal to a prompt without these tokens, in one forward pass with the whole prompt: in every
    layer and head attention from all other tokens to them is masked, and position ids are counted
    without them. No tensor gets shorter: the removed tokens still run, and attend to each other
    and to other tokens. It is the condition of published "accuracy without the image"; unlike
    `Noise` it lowers later position ids, from which a model may tell whether there is an image.

    The 2-D ``attention_mask`` of the call and ``cache_position`` stay as they are (padding on
    either side is allowed); position ids fall on all axes of M-RoPE, those of generated tokens,
    too. In layers with a sliding window shorter than the
    prompt, removed tokens still count towards the window, though no other token attends to them.
    ``Remove("answer")`` is not refused; under causal attention it changes no read, as no earlier
    token attends to the last one.

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
