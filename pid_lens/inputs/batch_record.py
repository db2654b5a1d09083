"""Batch: a model's own inputs, with the spans, options, labels and ids of their samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs.options import option_table

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

SAID = ("ids", "spans", "options", "labels")


def describe_batch(batch: Batch | Mapping[str, Any] | None, **said: Any) -> Batch | None:
    """Describe a batch before a forward pass runs it; return None if nothing is given.

    Of its inputs only ``input_ids`` are kept, by which a forward pass on this batch is recognised.

    Args:
        batch: a `Batch` or a mapping of the model's inputs, or None.
        **said: ``ids``, ``spans``, ``options``, ``labels``: those that are not None replace the
            batch's own.

    Raises:
        TypeError: another keyword.

    Example:
        >>> import torch
        >>> inputs = {"input_ids": torch.tensor([[9, 5]]), "pixel_values": torch.zeros(1, 3)}
        >>> known = describe_batch(inputs, ids=("cat",))
        >>> list(known.inputs), known.ids, describe_batch(None)
        (['input_ids'], ('cat',), None)
    """
    unknown = [name for name in said if name not in SAID]
    if unknown:
        raise TypeError(f"a batch is described by {', '.join(SAID)}; got {', '.join(unknown)}")
    known = {name: value for name, value in said.items() if value is not None}
    if batch is None and not known:
        return None
    given = Batch(inputs={}) if batch is None else as_batch(batch)
    tokens = {k: v for k, v in given.inputs.items() if k == "input_ids"}
    return replace(given, inputs=tokens, **known)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """A model's inputs, with the spans, options, labels and ids that a Lens needs to read them.

    Attributes:
        inputs: keyword arguments of the model's forward.
        spans: masks of token positions by name, [n, tokens]; None where they are to be found from
            the inputs.
        options: token id of each option, [n, answers], -1 where absent; None where the Lens knows
            them.
        labels: index of the right option, [n], -1 where unknown.
        ids: one name per sample; None for a hash of each one's content.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> ids = torch.tensor([[1, 9, 5, 2]])
        >>> Batch(inputs={"input_ids": ids}, spans=Spans(image=ids == 9, question=ids == 5),
        ...       options=torch.tensor([[3, 4]]), ids=("one",))
        Batch(1 samples, 4 tokens, 2 options, spans image question)
    """

    inputs: dict[str, Any]
    spans: Mapping[str, Bool[Tensor, "n tokens"]] | None = None
    options: Int[Tensor, "n answers"] | None = None
    labels: Int[Tensor, " n"] | None = None
    ids: tuple[str, ...] | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.inputs["input_ids"])

    def to(self, device: torch.device | str) -> Batch:
        """Move the inputs to another device; the rest follows where it is needed."""
        inputs = {k: v.to(device) if hasattr(v, "to") else v for k, v in self.inputs.items()}
        return replace(self, inputs=inputs)

    def __repr__(self) -> str:
        n, tokens = self.inputs["input_ids"].shape
        options = "no" if self.options is None else option_table(self.options, n).shape[-1]
        spans = "no" if self.spans is None else " ".join(self.spans)
        return f"Batch({n} samples, {tokens} tokens, {options} options, spans {spans})"


def as_batch(given: Any) -> Batch:
    """Wrap a mapping of a model's inputs as a `Batch`; return a `Batch` as it is.

    Raises:
        TypeError: it is neither.

    Example:
        >>> import torch
        >>> as_batch({"input_ids": torch.tensor([[1, 9, 5]])})
        Batch(1 samples, 3 tokens, no options, spans no)
    """
    if isinstance(given, Batch):
        return given
    if isinstance(given, Mapping) and "input_ids" in given:
        return Batch(inputs=dict(given))
    raise TypeError(
        f"a batch must be a Batch of pid_lens.batch or a mapping with input_ids; got {given!r}"
    )


def as_batches(given: Any) -> Iterable[Any]:
    """Wrap one batch in a list, list an iterator of batches, and return other iterables as is.

    So the result can be iterated over again; a data loader stays lazy.

    Raises:
        TypeError: it is neither a batch nor iterable.

    Example:
        >>> import torch
        >>> one = {"input_ids": torch.tensor([[1, 9, 5]])}
        >>> as_batches(one)
        [Batch(1 samples, 3 tokens, no options, spans no)]
        >>> len(as_batches(iter([one, one])))
        2
    """
    if isinstance(given, Batch | str | Mapping) or not isinstance(given, Iterable):
        return [as_batch(given)]
    return list(given) if isinstance(given, Iterator) else given


def attended_tokens(inputs: Mapping[str, Any]) -> Bool[Tensor, "n tokens"]:
    """Return the tokens that are not padding, by the attention mask; all where there is none.

    In a 4-D mask (True, or 0 where it is added) these are the keys that any query attends to.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[0, 9, 5], [9, 9, 5]])
        >>> attended_tokens({"input_ids": ids, "attention_mask": (ids > 0).long()})
        tensor([[False,  True,  True],
                [ True,  True,  True]])
    """
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 4:
        attended = mask if mask.dtype == torch.bool else mask == 0
        return attended.flatten(1, 2).any(1).expand(len(inputs["input_ids"]), -1)
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    return mask.bool()
