"""Remove: a prompt without a span, as if it had never been there."""

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
    """A span taken out of the prompt: nobody sees it, and what follows closes up to it.

    Equal to a prompt without these tokens, in one pass with the whole one: attention to them is
    closed everywhere, and the positions of all other tokens are counted without them. It is
    the condition behind published "accuracy without the image"; unlike `Noise` it does not keep
    the prompt's length, which a model may know its images by. In layers with a sliding window
    shorter than the prompt what is removed still fills the window, seen by nobody.

    Args:
        span: what to remove, such as ``"image"``.

    Example:
        >>> Remove("image")
        Remove(span='image')
    """

    span: str

    @property
    def layers(self) -> None:
        """All."""
        return

    @property
    def heads(self) -> None:
        """All."""
        return

    def ends(self, samples: Samples) -> tuple[Bool[Tensor, "n tokens"], Bool[Tensor, "n tokens"]]:
        """Everybody else, and what is removed."""
        mask = samples.spans[self.span]
        return ~mask, mask

    def removed(self, samples: Samples) -> Bool[Tensor, "n tokens"]:
        """The tokens that positions are counted without."""
        return samples.spans[self.span]
