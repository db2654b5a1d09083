"""Protocols of interventions: edited embeddings, or query positions and key positions masked.

An object with the methods of one plugs in; nothing is registered. The ``repr`` must contain the
settings, because reads and results record it as what they depend on. That of a frozen dataclass
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Bool, Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions.moments import Moments


@runtime_checkable
class Intervention(Protocol):
    """An intervention on the forward pass: ablates embeddings or masks attention.

    One of its two kinds, `EmbeddingIntervention` or `AttentionIntervention`, has the method that
    does it.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Nothing:
        ...     draws: int = 1
        ...
        ...     def complete(self, *, moments, seed, draws):
        ...         return self
        >>> isinstance(Nothing(), Intervention), isinstance("image", Intervention)
        (True, False)
    """

    @property
    def draws(self) -> int | None:
        """Independent draws to average over: 1 if deterministic, None if left to the Lens."""

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Return the intervention with the settings that it left open filled in from its Lens."""


@runtime_checkable
class EmbeddingIntervention(Intervention, Protocol):
    """An ablation of embeddings at the decoder's input.

    Example:
        >>> from dataclasses import dataclass
        >>> from pid_lens.interventions import Deterministic
        >>> @dataclass(frozen=True)
        ... class Halve(Deterministic):
        ...     span: str
        ...
        ...     def edit(self, embeddings, samples, draw):
        ...         mask = samples.spans[self.span].to(embeddings.device)[..., None]
        ...         return embeddings.where(~mask, embeddings / 2)
        >>> isinstance(Halve("image"), EmbeddingIntervention)
        True
    """

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """Ablate the embeddings, which are a copy and may be changed in place.

        Args:
            embeddings: of the batch rows of one condition and draw.
            samples: their ids, spans, options and labels.
            draw: number of the draw, 0 first.

        Returns:
            Embeddings of the same shape.
        """


@runtime_checkable
class AttentionIntervention(Intervention, Protocol):
    """An attention knockout: queries that do not attend to keys, in some layers and heads.

    Example:
        >>> from dataclasses import dataclass
        >>> from pid_lens.interventions import Deterministic
        >>> @dataclass(frozen=True)
        ... class BlindAnswer(Deterministic):
        ...     layers = heads = None
        ...
        ...     def ends(self, samples):
        ...         return samples.spans["answer"], samples.spans["image"]
        >>> isinstance(BlindAnswer(), AttentionIntervention)
        True
    """

    @property
    def layers(self) -> Iterable[int] | None:
        """Numbers of layers, negative ones from the last; None for all."""

    @property
    def heads(self) -> Iterable[int] | None:
        """Numbers of query heads; None for all."""

    def ends(self, samples: Samples) -> tuple[Bool[Tensor, "n tokens"], Bool[Tensor, "n tokens"]]:
        """Return masks [n, tokens] of queries and of keys, between which attention is blocked.

        A query's attention to its own key is not: a token always attends to itself. Query
        positions come first, key positions second.
        """
