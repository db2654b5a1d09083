"""Variation: one copy of a batch in a forward pass, a condition and a draw of its noise."""

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
    """One copy of a batch in a forward pass: a condition, and a draw of its noise."""

    condition: str
    draw: int
    interventions: tuple[Intervention, ...] = ()
    probe: bool = False
    """Whether it is carried along to prove something of the model, and is in no reads."""

    @property
    def embedding(self) -> tuple[EmbeddingIntervention, ...]:
        """What is hidden at the decoder's input."""
        return tuple(i for i in self.interventions if isinstance(i, EmbeddingIntervention))

    @property
    def attention(self) -> tuple[AttentionIntervention, ...]:
        """What may not be seen."""
        return tuple(i for i in self.interventions if isinstance(i, AttentionIntervention))

    @property
    def edits_arguments(self) -> bool:
        """Whether the decoder is given something else in this variation."""
        return bool(self.embedding) or any(isinstance(i, Remove) for i in self.attention)

    def removed(self, samples: Samples) -> Bool[Tensor, "n tokens"]:
        """The tokens that are taken out of the prompt."""
        out = torch.zeros(samples.spans.shape, dtype=torch.bool)
        for one in self.attention:
            if isinstance(one, Remove):
                out |= one.removed(samples).cpu()
        return out

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples
    ) -> Float[Tensor, "n tokens width"]:
        """The embeddings with everything hidden that this condition hides.

        Interventions work on a copy: what other conditions and the caller see stays as it is.

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
