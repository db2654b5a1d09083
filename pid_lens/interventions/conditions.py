"""Conditions: what is hidden in each of the passes that a decomposition needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.interventions.noise import Noise
from pid_lens.interventions.protocol import (
    AttentionIntervention,
    EmbeddingIntervention,
    Intervention,
)
from pid_lens.interventions.remove import Remove
from pid_lens.records import settings_repr

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.model import Anatomy

CONDITIONS: Mapping[str, tuple[Intervention, ...]] = {
    "full": (),
    "vision": (Noise("question"),),
    "language": (Noise("image"),),
}
"""What each default condition hides: what is left gives it its name."""


def as_conditions(conditions: Mapping[str, Any]) -> dict[str, tuple[Intervention, ...]]:
    """Conditions by name, each with a tuple of interventions.

    Raises:
        TypeError: a condition is no list of interventions.
        ValueError: there is no condition.
    """
    if not conditions:
        raise ValueError("a Lens needs at least one condition; {'full': []} hides nothing")
    return {
        str(name): as_interventions(f"condition {name!r}", hidden)
        for name, hidden in conditions.items()
    }


def as_interventions(name: str, interventions: Any) -> tuple[Intervention, ...]:
    """A list of interventions.

    Raises:
        TypeError: it is none, or they do not say their settings.
    """
    kinds = EmbeddingIntervention, AttentionIntervention
    sound = isinstance(interventions, list | tuple)
    if not sound or not all(isinstance(one, kinds) for one in interventions):
        raise TypeError(
            f"{name} must be a list of interventions, [] for none; got {interventions!r}"
        )
    for one in interventions:
        settings_repr(one)
    return tuple(interventions)


def require_same_model(
    interventions: Iterable[Intervention], anatomy: Anatomy, fingerprint: str | None = None
) -> None:
    """Moments and donors must come from this model.

    Args:
        interventions: which may have some.
        anatomy: the model's.
        fingerprint: the model's, where it is known; else it is taken if it is needed.

    Raises:
        ValueError: they come from another one.
    """
    found = [getattr(one, name, None) for one in interventions for name in ("moments", "donors")]
    measured = [one for one in found if one is not None]
    if measured:
        model, site = fingerprint or anatomy.fingerprint(), anatomy.site
        for one in measured:
            one.check(model, site)


def moment_fingerprints(interventions: Iterable[Intervention]) -> list[str]:
    """Fingerprints of the moments behind interventions, whose reprs do not say them."""
    found = (getattr(one, "moments", None) for one in interventions)
    return sorted({moments.fingerprint for moments in found if moments is not None})


@dataclass(frozen=True)
class Variation:
    """One copy of a batch in a forward pass: a condition, and a draw of its noise."""

    condition: str
    draw: int
    interventions: tuple[Intervention, ...] = ()

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


def list_variations(
    conditions: Mapping[str, tuple[Intervention, ...]], always: tuple[Intervention, ...] = ()
) -> tuple[Variation, ...]:
    """Every condition and draw, one that hides nothing first: its rows are the caller's.

    What is ``always`` in force is in every one of them, the caller's included.

    Raises:
        ValueError: interventions of one condition with different numbers of draws.

    Example:
        >>> given = {"blind": (Noise("image", draws=2),), "full": ()}
        >>> [variation.condition for variation in list_variations(given)]
        ['full', 'blind', 'blind']
    """
    every = [
        Variation(name, draw, (*always, *hidden))
        for name, hidden in conditions.items()
        for draw in range(draws_of(name, (*always, *hidden)))
    ]
    plain = next((v for v in every if v.interventions == always), Variation("", 0, always))
    return (plain, *(v for v in every if v is not plain))


def draws_of(name: str, hidden: tuple[Intervention, ...]) -> int:
    """How often a condition is drawn: what all its random interventions ask for."""
    counts = {i.draws or 1 for i in hidden} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"condition {name!r} has interventions of {sorted(counts)} draws: give them the same "
            "number, so that each draw counts alike"
        )
    return max(counts, default=1)
