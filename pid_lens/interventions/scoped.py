"""Scoped interventions: they apply to some batch rows only, as those of one nnsight invoke."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch

from pid_lens.inputs import Spans
from pid_lens.interventions.protocol import (
    AttentionIntervention,
    EmbeddingIntervention,
    Intervention,
)
from pid_lens.interventions.remove import Remove

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions.moments import Moments


@dataclass(frozen=True)
class Scoped:
    """An intervention that applies to the rows ``first`` to ``first + count - 1`` alone."""

    inner: Intervention
    first: int
    count: int

    @property
    def draws(self) -> int | None:
        """Number of draws of the intervention."""
        return self.inner.draws

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Fill in the settings that the intervention left open."""
        return replace(self, inner=self.inner.complete(moments=moments, seed=seed, draws=draws))

    def rows(self, of: Tensor) -> Bool[Tensor, " n"]:
        """Return the mask of the batch rows to which it applies."""
        at = torch.arange(len(of), device=of.device)
        return (at >= self.first) & (at < self.first + self.count)


class ScopedEmbedding(Scoped):
    """A scoped intervention that edits embeddings."""

    inner: EmbeddingIntervention

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """Ablate the embeddings of the scoped rows; those of all other rows stay."""
        edited = self.inner.edit(embeddings.clone(), samples, draw)
        return torch.where(self.rows(embeddings)[:, None, None], edited, embeddings)


class ScopedAttention(Scoped):
    """A scoped intervention that masks attention."""

    inner: AttentionIntervention

    @property
    def layers(self) -> Iterable[int] | None:
        """Layers of the intervention."""
        return self.inner.layers

    @property
    def heads(self) -> Iterable[int] | None:
        """Query heads of the intervention."""
        return self.inner.heads

    def ends(self, samples: Samples) -> tuple[Bool[Tensor, "n tokens"], Bool[Tensor, "n tokens"]]:
        """Return query and key positions of the scoped rows; none in all other rows."""
        target, source = self.inner.ends(samples)
        return target & self.rows(target)[:, None], source & self.rows(source)[:, None]


def scope(intervention: Intervention, first: int, count: int) -> Scoped:
    """Restrict an intervention to some batch rows.

    Args:
        intervention: to be restricted.
        first: the first row.
        count: number of rows.

    Raises:
        ValueError: `Remove`, which changes the position ids of a whole batch.

    Example:
        >>> import torch
        >>> from pid_lens import Spans, Zero
        >>> from pid_lens.inputs import Samples
        >>> samples = Samples.of_spans(Spans(image=torch.ones(3, 1, dtype=torch.bool)))
        >>> scope(Zero("image"), first=1, count=1).edit(torch.ones(3, 1, 1), samples, 0).flatten()
        tensor([1., 0., 1.])
    """
    if isinstance(intervention, Remove):
        raise ValueError(
            f"{intervention!r} changes the position ids of a whole batch, so it cannot hold for "
            "one invoke of several: trace its prompts by themselves, or knock the span out, "
            "Knockout(span, target)"
        )
    attention = isinstance(intervention, AttentionIntervention)
    kind = ScopedAttention if attention else ScopedEmbedding
    return kind(intervention, first, count)


def place_among(
    samples: Samples, first: int, n: int, image: Bool[Tensor, "n tokens"] | None = None
) -> Samples:
    """Place samples in a batch of n rows, from row ``first`` on; its other rows are unknown.

    The other rows get the spans of the first sample: a `Scoped` intervention leaves them alone.

    Args:
        samples: of some rows.
        first: the row of the first sample.
        n: number of the batch's rows.
        image: image positions of all n rows, where they are known.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> from pid_lens.inputs import Samples
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, False]])))
        >>> placed = place_among(samples, first=1, n=3)
        >>> placed.ids, placed.spans["image"].shape
        (('other row 0', '0', 'other row 2'), torch.Size([3, 2]))
    """
    at = slice(first, first + samples.n)
    masks = {}
    for name, mask in samples.spans.items():
        whole = mask[:1].repeat(n, 1)
        if name == "image" and image is not None:
            whole = image.to(mask.device, copy=True)
        whole[at] = mask
        masks[name] = whole
    names = [f"other row {row}" for row in range(n)]
    names[at] = samples.ids
    return replace(
        samples,
        ids=tuple(names),
        contents=(),
        spans=Spans(**masks),
        options=_among(samples.options, at, n),
        labels=_among(samples.labels, at, n),
    )


def _among(values: Tensor, at: slice, n: int) -> Tensor:
    whole = values.new_full((n, *values.shape[1:]), -1)
    whole[at] = values
    return whole
