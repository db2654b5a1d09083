"""Ablations without chance: a span's embeddings replaced by their mean, or by 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from pid_lens.interventions.deterministic import Deterministic
from pid_lens.interventions.moments import moments_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions.moments import Moments


@dataclass(frozen=True)
class Zero(Deterministic):
    """Zeros in place of a span, at the decoder's input.

    They hide the span, and are like nothing that the model has ever seen there: what it answers
    may be due to that. `Noise` looks like the span.

    Example:
        >>> Zero("image")
        Zero(span='image')
    """

    span: str

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """The embeddings with the span's tokens 0."""
        mask = samples.spans[self.span].to(embeddings.device)
        return embeddings.masked_fill(mask[..., None], 0.0)


@dataclass(frozen=True)
class Mean(Deterministic):
    """The mean embedding of a span in place of each of its tokens, at the decoder's input.

    As published ablations have it. All tokens of the span become one, at the centre of where
    embeddings lie and nearer to 0 than any of them.

    Args:
        span: what to hide.
        moments: its statistics; by default the Lens's.

    Example:
        >>> Mean("image")
        Mean(span='image')
    """

    span: str
    moments: Moments | None = field(default=None, repr=False, compare=False)

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Fills in what was left to the Lens.

        Raises:
            ValueError: there are no moments at all, or none for this span.
        """
        found = self.moments or moments
        moments_of(self, found, self.span)
        return replace(self, moments=found)

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """The embeddings with the span's tokens at their mean."""
        mask = samples.spans[self.span].to(embeddings.device)
        if not bool(mask.any()):
            return embeddings
        moment = moments_of(self, self.moments, self.span, samples.site)
        return embeddings.where(~mask[..., None], moment.mean.to(embeddings))
