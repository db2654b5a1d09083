"""Variation: one block of batch rows in a forward pass, under a condition and one draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

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


@dataclass(frozen=True)
class Variation:
    """One copy of the batch's rows in a forward pass, under a condition and one draw.

    Attributes:
        condition: name of the condition.
        draw: number of the draw, 0 first.
        interventions: what is ablated or masked in these rows.
        probe: whether these rows test a property of the model, and are in no reads.

    Example:
        >>> from pid_lens import Knockout, Noise
        >>> blind = Variation("blind", 0, (Noise("image"), Knockout("image", "answer", [5])))
        >>> blind.embedding
        (Noise(span='image', seed=None, draws=None),)
        >>> blind.attention
        (Knockout(source='image', target='answer', layers=(5,), heads=None),)
    """

    condition: str
    draw: int
    interventions: tuple[Intervention, ...] = ()
    probe: bool = False

    @property
    def embedding(self) -> tuple[EmbeddingIntervention, ...]:
        """The interventions that ablate embeddings at the decoder's input."""
        return tuple(i for i in self.interventions if isinstance(i, EmbeddingIntervention))

    @property
    def attention(self) -> tuple[AttentionIntervention, ...]:
        """The interventions that mask attention."""
        return tuple(i for i in self.interventions if isinstance(i, AttentionIntervention))

    @property
    def edits_arguments(self) -> bool:
        """Whether the decoder gets edited embeddings or position ids in this variation."""
        return bool(self.embedding) or any(isinstance(i, Remove) for i in self.attention)

    def removed(self, samples: Samples) -> Bool[Tensor, "n tokens"]:
        """Return the mask of the tokens that are removed from the prompt."""
        out = torch.zeros(samples.spans.shape, dtype=torch.bool)
        for one in self.attention:
            if isinstance(one, Remove):
                out |= one.removed(samples).cpu()
        return out

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples
    ) -> Float[Tensor, "n tokens width"]:
        """Apply the condition's embedding interventions in order, on a copy of the embeddings.

        Those of other conditions and of the caller stay as they are.

        Raises:
            ValueError: an intervention returned embeddings of another shape.
        """
        edited = embeddings.clone() if self.embedding else embeddings
        for intervention in self.embedding:
            edited = intervention.edit(edited, samples, self.draw)
            if edited.shape != embeddings.shape:
                raise ValueError(
                    f"{intervention!r} must return embeddings of shape {list(embeddings.shape)}; "
                    f"it returned {list(edited.shape)}"
                )
        return edited
