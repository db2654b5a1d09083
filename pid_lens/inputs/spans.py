"""Spans: boolean masks of token positions by name (image, question, answer)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class UnknownSpan(ValueError, KeyError):  # noqa: N818
    """An unknown span name: a ValueError for users, a KeyError for mappings.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> spans = Spans(image=torch.tensor([[True, False]]))
        >>> "car" in spans
        False
        >>> spans["car"]
        Traceback (most recent call last):
        pid_lens.inputs.spans.UnknownSpan: no span 'car'; there are image
    """

    __str__ = ValueError.__str__


class Spans(Mapping[str, Tensor]):
    """Boolean masks of token positions, [n, tokens], by name: ``image``, ``question``, ``answer``.

    ``answer`` is the one position at which a sample's answer is read: its last attended token,
    unless given. Further names are the user's own. Masks are plain tensors, so ``&``, ``|`` and
    ``~`` make new ones of them, and ``spans | {name: mask}`` makes new spans with more names (or
    a name's new mask). Every sample has a token in every span: an intervention on an empty one
    would do nothing, unnoticed.

    Args:
        **masks: one boolean mask [n, tokens] per name.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: no mask, masks of different shapes, or a sample without a token in some span.
        UnknownSpan: ``spans[name]`` of a name that is not there.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[0, 9, 9, 9, 5, 2]])
        >>> spans = Spans(image=ids == 9, question=ids == 5)
        >>> spans["image"].sum().item()
        3
        >>> spans = spans | {"car": spans.pick("image", [0, 2])}
        >>> spans | {"scene": spans["image"] & ~spans["car"]}
        Spans(image 3, question 1, car 2, scene 1 of 6 tokens, 1 samples)
    """

    def __init__(self, **masks: Bool[Tensor, "n tokens"]) -> None:
        """Store the masks that the class describes."""
        self._masks = {name: torch.as_tensor(mask) for name, mask in masks.items()}
        if not masks:
            raise ValueError("spans need at least one mask [n, tokens]; got none")
        shapes = {tuple(mask.shape) for mask in self._masks.values()}
        if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"spans must be masks of one shape [n, tokens]; got {shapes}")
        for name, mask in self._masks.items():
            if mask.dtype != torch.bool:
                raise TypeError(f"span {name!r} must be a boolean mask; got {mask.dtype}")
            if not bool(mask.any(-1).all()):
                rows = (~mask.any(-1)).nonzero().flatten().tolist()
                raise ValueError(
                    f"span {name!r} matches no token in samples {rows[:8]} of this batch: every "
                    "sample needs at least one"
                )

    def __getitem__(self, name: str) -> Bool[Tensor, "n tokens"]:
        if name not in self._masks:
            raise UnknownSpan(f"no span {name!r}; there are {', '.join(self._masks)}")
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and of tokens, [n, tokens] of every mask."""
        n, tokens = next(iter(self._masks.values())).shape
        return n, tokens

    def __or__(self, more: Mapping[str, Tensor]) -> Spans:
        """Return new spans with more masks; a name that is there already gets the new mask."""
        if not isinstance(more, Mapping):
            return NotImplemented
        return Spans(**{**self._masks, **more})

    def pick(
        self, name: str, ranks: Sequence[int] | Sequence[Sequence[int]]
    ) -> Bool[Tensor, "n tokens"]:
        """Select tokens of a span by their rank in it (an object's image patches, say), as a mask.

        Args:
            name: the span.
            ranks: which of its tokens, from 0; one list for all samples, or one per sample.

        Raises:
            TypeError: a rank is not a whole number.
            ValueError: the number of lists is not the number of samples, a list is empty, or a
                sample's span has no token of such a rank.

        Example:
            >>> import torch
            >>> image = torch.tensor([[False, True, True, False, True]])
            >>> Spans(image=image).pick("image", [0, 2])
            tensor([[False,  True, False, False,  True]])
        """
        mask = self[name]
        rows = _one_a_sample(ranks, len(mask))
        picked = torch.zeros_like(mask)
        for row, (wanted, among) in enumerate(zip(rows, mask, strict=True)):
            places = among.nonzero().flatten()
            wrong = [rank for rank in wanted if not 0 <= rank < len(places)]
            if wrong or not wanted:
                raise ValueError(
                    f"span {name!r} of sample {row} has {len(places)} tokens, of ranks 0 to "
                    f"{len(places) - 1}; asked for {wrong or 'none of them'}"
                )
            picked[row, places[wanted]] = True
        return picked

    def to(self, device: torch.device) -> Spans:
        """Move the masks to another device."""
        return Spans(**{name: mask.to(device) for name, mask in self._masks.items()})

    def longer(self, more: int, answering: bool = True) -> Spans:
        """Append ``more`` token positions to each mask: they continue the answer, or no span."""
        pad = torch.nn.functional.pad
        masks = {
            name: pad(mask, (0, more), value=answering and name == "answer")
            for name, mask in self.items()
        }
        return Spans(**masks)

    def positions(self, name: str) -> Int[Tensor, " n"]:
        """Find the last position of a span in each sample."""
        mask = self[name]
        steps = torch.arange(mask.shape[1], device=mask.device)
        return (mask * steps).amax(-1)

    def __repr__(self) -> str:
        mean = {name: mask.sum(-1).float().mean().item() for name, mask in self._masks.items()}
        n, tokens = self.shape
        sizes = ", ".join(f"{name} {size:g}" for name, size in mean.items())
        return f"Spans({sizes} of {tokens} tokens, {n} samples)"


def _one_a_sample(ranks: Sequence[Any], n: int) -> list[list[int]]:
    ranks = ranks.tolist() if hasattr(ranks, "tolist") else list(ranks)
    rows = ranks if ranks and isinstance(ranks[0], Sequence) else [ranks] * n
    if len(rows) != n:
        raise ValueError(f"ranks must be one list, or one per sample: {n}; got {len(rows)}")
    ranks = [rank for row in rows for rank in row]
    strange = [rank for rank in ranks if isinstance(rank, bool) or not isinstance(rank, Integral)]
    if strange:
        raise TypeError(f"ranks are whole numbers from 0; got {strange[:8]}")
    return [list(map(int, row)) for row in rows]
