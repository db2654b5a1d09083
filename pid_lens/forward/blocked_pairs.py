"""Blocked pairs: which query positions may not attend to which key positions, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from pid_lens.model import resolve_indices, spans_beside_tokens

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions import AttentionIntervention, Variation
    from pid_lens.model import Anatomy

Active = tuple["tuple[AttentionIntervention, ...]", ...]
"""For each variation of a pass the interventions that are in force at one layer."""


@dataclass(frozen=True, eq=False)
class BlockedPairs:
    """The pairs of one forward pass: n rows for each variation, one behind the other."""

    anatomy: Anatomy
    samples: Samples
    variations: Sequence[Variation]
    before: int = 0
    """How many tokens came before, in passes of which a cache holds the keys."""

    def active(self, layer: int) -> Active:
        """What is in force at a layer, in each variation."""
        return tuple(
            tuple(one for one in variation.attention if layer in self._layers_of(one))
            for variation in self.variations
        )

    def _layers_of(self, intervention: AttentionIntervention) -> tuple[int, ...]:
        return knockout_layers(intervention, self.anatomy)

    def mask(
        self, active: Active, queries: int, keys: int
    ) -> Bool[Tensor, "rows heads queries keys"]:
        """Which pairs are blocked, for each row; one head stands for all where none is chosen.

        A token always attends to itself.
        """
        samples = self.samples.extended(self.before + queries)
        first = max(self.before + queries - keys, 0)  # a sliding window has lost earlier keys
        heads = self.anatomy.heads if any(one.heads for row in active for one in row) else 1
        parts = []
        for interventions in active:
            blocked = torch.zeros(samples.n, heads, queries, keys, dtype=torch.bool)
            for one in interventions:
                target, source = (end.cpu() for end in one.ends(samples))
                asking = target[:, self.before : self.before + queries]
                asked = torch.nn.functional.pad(source[:, first:], (0, keys))[:, :keys]
                at = list(knockout_heads(one, self.anatomy) or range(heads))
                blocked[:, at] |= (asking[:, :, None] & asked[:, None, :])[:, None]
            parts.append(blocked)
        positions = torch.arange(self.before, self.before + queries)
        itself = positions[:, None] == first + torch.arange(keys)
        return torch.cat(parts) & ~itself

    def blind_queries(self, layer: int, queries: int) -> Bool[Tensor, "rows queries"]:
        """Which tokens may not attend to image states that no token holds.

        Raises:
            ValueError: heads were chosen, where all of them are silenced together.
        """
        samples = self.samples.extended(self.before + queries)
        beside = replace(samples, spans=spans_beside_tokens(samples.spans))
        parts = []
        for interventions in self.active(layer):
            blind = torch.zeros(samples.n, queries, dtype=torch.bool)
            for one in interventions:
                if bool(one.ends(beside)[1].any()):
                    target = one.ends(samples)[0].cpu()
                    blind |= target[:, self.before : self.before + queries]
                    require_all_heads(one, layer)
            parts.append(blind)
        return torch.cat(parts)


def knockout_layers(intervention: AttentionIntervention, anatomy: Anatomy) -> tuple[int, ...]:
    """The layers in which an intervention masks attention.

    Raises:
        ValueError: there is no such layer.
    """
    return resolve_indices(intervention.layers, len(anatomy.layers), "layers", of=intervention)


def knockout_heads(intervention: AttentionIntervention, anatomy: Anatomy) -> tuple[int, ...]:
    """The heads in which an intervention masks attention; none stands for all.

    Raises:
        ValueError: there is no such head.
    """
    if intervention.heads is None:
        return ()
    return resolve_indices(intervention.heads, anatomy.heads, "heads", of=intervention)


def require_all_heads(intervention: AttentionIntervention, layer: int) -> None:
    """A ValueError where heads were chosen in a layer that is silenced as a whole."""
    if intervention.heads is not None:
        raise ValueError(
            f"{intervention!r}: in layer {layer} tokens look at image states by cross-attention, "
            "which is closed as a whole: leave heads out"
        )
