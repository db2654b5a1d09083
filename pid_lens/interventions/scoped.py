"""Scoped: an intervention that holds for some rows of a batch."""

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
    """What an intervention hides, in rows ``first`` to ``first + count - 1`` alone."""

    inner: Intervention
    first: int
    count: int

    @property
    def draws(self) -> int | None:
        """Those of the intervention."""
        return self.inner.draws

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """The same with what was left open filled in."""
        return replace(self, inner=self.inner.complete(moments=moments, seed=seed, draws=draws))

    def rows(self, of: Tensor) -> Bool[Tensor, " n"]:
        """Which rows it holds for."""
        at = torch.arange(len(of), device=of.device)
        return (at >= self.first) & (at < self.first + self.count)


class ScopedEmbedding(Scoped):
    """One that edits embeddings."""

    inner: EmbeddingIntervention

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """The embeddings, in the other rows as they were."""
        edited = self.inner.edit(embeddings.clone(), samples, draw)
        return torch.where(self.rows(embeddings)[:, None, None], edited, embeddings)


class ScopedAttention(Scoped):
    """One that closes attention."""

    inner: AttentionIntervention

    @property
    def layers(self) -> Iterable[int] | None:
        """Those of the intervention."""
        return self.inner.layers

    @property
    def heads(self) -> Iterable[int] | None:
        """Those of the intervention."""
        return self.inner.heads

    def ends(self, samples: Samples) -> tuple[Bool[Tensor, "n tokens"], Bool[Tensor, "n tokens"]]:
        """Its ends; nothing in the other rows."""
        target, source = self.inner.ends(samples)
        return target & self.rows(target)[:, None], source & self.rows(source)[:, None]


def scope(intervention: Intervention, first: int, count: int) -> Scoped:
    """An intervention for some rows alone.

    Raises:
        ValueError: `Remove`, which closes up the positions of a whole batch.
    """
    if isinstance(intervention, Remove):
        raise ValueError(
            f"{intervention!r} closes up the positions of a whole batch, so it cannot hold for "
            "one invoke of several: trace its prompts by themselves, or knock the span out, "
            "Knockout(span, target)"
        )
    attention = isinstance(intervention, AttentionIntervention)
    kind = ScopedAttention if attention else ScopedEmbedding
    return kind(intervention, first, count)


def place_among(
    samples: Samples, first: int, n: int, image: Bool[Tensor, "n tokens"] | None = None
) -> Samples:
    """Samples as rows ``first`` on of a batch of n, of which no more is known than its images.

    The other rows are taken to look like the first of these: what is `Scoped` leaves them alone.
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
