"""Knockout: one span may no longer look at another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pid_lens.interventions.deterministic import Deterministic

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from pid_lens.inputs import Samples


@dataclass(frozen=True)
class Knockout(Deterministic):
    r"""Attention from a target span to a source span closed, in some layers and heads.

    Scores are set to minus infinity before the softmax,

    .. math::  a_{qk} = -\infty \quad\text{for}\quad q \in \text{target},\; k \in \text{source},

    so that the source's information reaches the target by other positions or not at all:
    ``Knockout("image", "question")`` closes Image->Question, the direction in which information
    flows. A token always sees itself. In `intervene` with ``generate``, tokens that are
    generated continue the ``answer``, and no other span.

    Args:
        source: the span that is not to be seen, ``"image"``, ``"question"`` or one of your own.
        target: the span that is not to see it; ``"answer"`` is the last token of the prompt.
        layers: numbers of layers, negative ones counted from the last; all by default.
        heads: numbers of query heads; all by default.

    Source:
        Dissecting recall of factual associations in auto-regressive language models (Geva et
        al., 2023), https://arxiv.org/abs/2304.14767; Cross-modal information flow in multimodal
        large language models (Zhang et al., 2025), https://arxiv.org/abs/2411.18620: the same
        with a window of nine layers

    Example:
        >>> Knockout("image", "question", layers=range(2, 5))
        Knockout(source='image', target='question', layers=(2, 3, 4), heads=None)
    """

    source: str
    target: str
    layers: Iterable[int] | None = None
    heads: Iterable[int] | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "heads"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))

    @classmethod
    def window(cls, source: str, target: str, layer: int, *, of: int, width: int = 9) -> Self:
        """A knockout in the layers around one, as many on either side; fewer at either end.

        Args:
            source: see the class.
            target: see the class.
            layer: the middle of the window.
            of: how many layers the model has, ``len(pid_lens.dissect(model).layers)``.
            width: how many layers.

        Raises:
            ValueError: a middle that is no layer, or no width.

        Example:
            >>> Knockout.window("image", "question", layer=5, of=6, width=3).layers
            (4, 5)
        """
        if not 0 <= layer < of or width < 1:
            raise ValueError(
                f"a window of at least one layer has its middle in 0..{of - 1}; got width={width} "
                f"around layer {layer}"
            )
        first = layer - (width - 1) // 2
        return cls(source, target, layers=range(max(first, 0), min(first + width, of)))

    def ends(self, samples: Samples) -> tuple[Bool[Tensor, "n tokens"], Bool[Tensor, "n tokens"]]:
        """Which tokens may not see, and which may not be seen by them.

        Raises:
            UnknownSpan: a sample's spans do not have this one.
        """
        return samples.spans[self.target], samples.spans[self.source]


def as_list(numbers: Iterable[int] | int | None) -> Iterable[int] | None:
    """One number as a list of one; lists, and None for all, as they are."""
    return [numbers] if isinstance(numbers, int) else numbers


def _numbers(name: str, given: Iterable[int] | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of numbers, e.g. range(2, 5); got {given!r}")
    numbers = tuple(given)
    if not numbers or not all(type(number) is int for number in numbers):
        raise TypeError(f"{name} must be whole numbers, at least one; got {numbers}")
    return tuple(dict.fromkeys(numbers))
