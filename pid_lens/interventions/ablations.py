"""Zero ablation and mean ablation: a span's embeddings replaced by 0, or by their mean."""

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
    """Zero ablation: zeros in place of a span's embeddings, at the decoder's input.

    Zeros are unlike any embedding that the model was trained on: what it answers may be due to
    that. `Noise` keeps the mean and the standard deviation of the span.

    Attributes:
        span: name of the span to ablate.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> from pid_lens.inputs import Samples
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, True, False]])))
        >>> Zero("image").edit(torch.ones(1, 3, 2), samples, draw=0)
        tensor([[[0., 0.],
                 [0., 0.],
                 [1., 1.]]])
    """

    span: str

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """Ablate the span's embeddings with zeros."""
        mask = samples.spans[self.span].to(embeddings.device)
        return embeddings.masked_fill(mask[..., None], 0.0)


@dataclass(frozen=True)
class Mean(Deterministic):
    """Mean ablation: a span's mean embedding in place of each of its embeddings.

    At the decoder's input, as in published mean ablations. All tokens of the span get one and the
    same embedding: the centre of the span's distribution, nearer to 0 than its embeddings are on
    average.

    Attributes:
        span: name of the span to ablate.
        moments: mean and standard deviation of its embeddings, from `calibrate`; by default the
            Lens's moments.

    Example:
        >>> import torch
        >>> from pid_lens import Moments, Spans
        >>> from pid_lens.inputs import Samples
        >>> from pid_lens.interventions import Moment
        >>> measured = Moment.of(torch.tensor([[0., 2.], [4., 4.]]))
        >>> mean = Mean("image", Moments(model="m", site="s", spans={"image": measured}))
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, False]])))
        >>> mean.edit(torch.ones(1, 2, 2), samples, draw=0)
        tensor([[[2., 3.],
                 [1., 1.]]])
    """

    span: str
    moments: Moments | None = field(default=None, repr=False, compare=False)

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Fill in the moments that were left to the Lens.

        Raises:
            ValueError: there are no moments at all, or none for this span.
        """
        found = self.moments or moments
        moments_of(self, found, self.span)
        return replace(self, moments=found)

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """Ablate the span's embeddings with their mean."""
        mask = samples.spans[self.span].to(embeddings.device)
        if not bool(mask.any()):
            return embeddings
        moment = moments_of(self, self.moments, self.span, samples.site)
        return embeddings.where(~mask[..., None], moment.mean.to(embeddings))
