"""Attention knockout: queries of one span no longer attend to keys of another."""

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
    r"""Attention knockout: queries of a target span do not attend to keys of a source span.

    In some layers and heads, or in all. Scores are set to minus infinity before the softmax (in
    a float mask to the lowest number of its dtype, in a boolean mask to False),

    .. math::
        a_{qk} = -\infty \quad\text{for}\quad
        q \in \text{target},\; k \in \text{source},\; k \neq q,

    so that the source's information reaches the target by other positions or not at all:
    ``Knockout("image", "question")`` blocks image -> question, the direction in which information
    flows. A token always attends to itself. In `pid_lens.intervene` with ``generate``, tokens
    that are generated continue the ``answer``, and no other span.

    Attributes:
        source: the span of the key positions, ``"image"``, ``"question"`` or one of your own.
        target: the span of the query positions; ``"answer"`` is the prompt's last
            position, which predicts the answer.
        layers: numbers of layers, negative ones counted from the last; None for all.
        heads: numbers of query heads; None for all.

    Raises:
        TypeError: layers or heads that are not a list of whole numbers, or an empty one.

    Source:
        Dissecting recall of factual associations in auto-regressive language models (Geva et
        al., 2023), https://arxiv.org/abs/2304.14767; Cross-modal information flow in multimodal
        large language models (Zhang et al., 2025), https://arxiv.org/abs/2411.18620: the same
        with a window of nine layers

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> from pid_lens.inputs import Samples
        >>> knockout = Knockout("image", "question", layers=range(2, 5))
        >>> knockout
        Knockout(source='image', target='question', layers=(2, 3, 4), heads=None)
        >>> ids = torch.tensor([[9, 9, 5]])
        >>> samples = Samples.of_spans(Spans(image=ids == 9, question=ids == 5))
        >>> queries, keys = knockout.ends(samples)
        >>> queries.tolist(), keys.tolist()
        ([[False, False, True]], [[True, True, False]])
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
        """Make a knockout in a window of layers around one.

        As many layers below the middle as above, or one more above where the width is even;
        fewer at the first and the last layers.

        Args:
            source: the span of the key positions.
            target: the span of the query positions.
            layer: the middle of the window.
            of: number of the model's layers, ``len(pid_lens.dissect(model).layers)``.
            width: number of layers in the window.

        Raises:
            ValueError: a middle that is not a layer, or a width below 1.

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
        """Return the query positions (target) and the key positions (source).

        Raises:
            UnknownSpan: the samples have no span of this name.
        """
        return samples.spans[self.target], samples.spans[self.source]


def as_list(numbers: Iterable[int] | int | None) -> Iterable[int] | None:
    """Return one number as a list of one; lists, and None for all, as they are.

    Example:
        >>> as_list(3), as_list([1, 2]), as_list(None)
        ([3], [1, 2], None)
    """
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
