"""Attention knockout as boolean masks: which queries may not attend to which keys, in one pass."""

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
"""For each variation of a pass, the interventions that are active at one layer."""


@dataclass(frozen=True, eq=False)
class BlockedPairs:
    """Blocked (query, key) pairs of one forward pass: a block of n rows for each variation.

    Attributes:
        anatomy: the model's parts.
        samples: the n samples, with their spans.
        variations: in the order of the row blocks.
        before: number of tokens that ran in earlier passes: the KV cache holds their keys.
    """

    anatomy: Anatomy
    samples: Samples
    variations: Sequence[Variation]
    before: int = 0

    def active(self, layer: int) -> Active:
        """List the interventions that are active at a layer, for each variation."""
        return tuple(
            tuple(one for one in variation.attention if layer in self._layers_of(one))
            for variation in self.variations
        )

    def _layers_of(self, intervention: AttentionIntervention) -> tuple[int, ...]:
        return knockout_layers(intervention, self.anatomy)

    def mask(
        self, active: Active, queries: int, keys: int
    ) -> Bool[Tensor, "rows heads queries keys"]:
        """Compute the mask of blocked (query, key) pairs, True where attention is blocked.

        The heads' axis has size 1, for all heads, where no intervention chooses some. Pairs
        blocked by any of several interventions are blocked. A token always attends to itself.
        """
        samples = self.samples.extended(self.before + queries)
        # Position of the first key: a sliding-window cache has dropped the keys before it
        first = max(self.before + queries - keys, 0)
        heads = self.anatomy.heads if any(one.heads for row in active for one in row) else 1
        parts = []
        for interventions in active:
            blocked = torch.zeros(samples.n, heads, queries, keys, dtype=torch.bool)
            for one in interventions:
                # Outer product of the query positions (target) and key positions (source)
                target, source = (end.cpu() for end in one.ends(samples))
                asking = target[:, self.before : self.before + queries]
                asked = torch.nn.functional.pad(source[:, first:], (0, keys))[:, :keys]
                at = list(knockout_heads(one, self.anatomy) or range(heads))
                blocked[:, at] |= (asking[:, :, None] & asked[:, None, :])[:, None]
            parts.append(blocked)
        # The diagonal (a query's own key) is never blocked
        positions = torch.arange(self.before, self.before + queries)
        itself = positions[:, None] == first + torch.arange(keys)
        return torch.cat(parts) & ~itself

    def blind_queries(self, layer: int, queries: int) -> Bool[Tensor, "rows queries"]:
        """Find the queries that may not attend to image features in cross-attention.

        Raises:
            ValueError: heads were chosen, where the output of all is zeroed together.
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
    """Resolve the layers in which an intervention masks attention, to numbers from 0.

    Raises:
        ValueError: there is no such layer.

    Example:
        >>> import pid_lens
        >>> anatomy = pid_lens.dissect(pid_lens.demo.load()[0])
        >>> knockout_layers(pid_lens.Knockout("image", "question", layers=[0, -1]), anatomy)
        (0, 5)
        >>> knockout_layers(pid_lens.Knockout("image", "question"), anatomy)
        (0, 1, 2, 3, 4, 5)
    """
    return resolve_indices(intervention.layers, len(anatomy.layers), "layers", of=intervention)


def knockout_heads(intervention: AttentionIntervention, anatomy: Anatomy) -> tuple[int, ...]:
    """Resolve the heads in which an intervention masks attention; an empty tuple is all.

    Raises:
        ValueError: there is no such head.
    """
    if intervention.heads is None:
        return ()
    return resolve_indices(intervention.heads, anatomy.heads, "heads", of=intervention)


def require_all_heads(intervention: AttentionIntervention, layer: int) -> None:
    """Raise a ValueError where heads are chosen in a cross-attention layer."""
    if intervention.heads is not None:
        raise ValueError(
            f"{intervention!r}: in layer {layer} tokens attend to image features by "
            "cross-attention, which is masked in all heads together: leave heads out"
        )
