"""Batch: samples as a caller hands them over, in a model's own inputs."""

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
    """What is known of a batch before its inputs come, None if nothing was said.

    Of its inputs the tokens alone are kept, to know it again.

    Raises:
        TypeError: something was said that a lens has no use for.
    """
    unknown = [name for name in said if name not in SAID]
    if unknown:
        raise TypeError(f"a lens can be told {', '.join(SAID)}; got {', '.join(unknown)}")
    known = {name: value for name, value in said.items() if value is not None}
    if batch is None and not known:
        return None
    given = Batch(inputs={}) if batch is None else as_batch(batch)
    tokens = {k: v for k, v in given.inputs.items() if k == "input_ids"}
    return replace(given, inputs=tokens, **known)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Samples as a model takes them, with what a Lens needs to read them.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> ids = torch.tensor([[1, 9, 5, 2]])
        >>> Batch(inputs={"input_ids": ids}, spans=Spans(image=ids == 9, question=ids == 5),
        ...       options=torch.tensor([[3, 4]]), ids=("one",))
        Batch(1 samples, 4 tokens, 2 options, spans image question)
    """

    inputs: dict[str, Any]
    """Keyword arguments of the model's forward."""
    spans: Mapping[str, Bool[Tensor, "n tokens"]] | None = None
    """Masks; None where they are to be found from the inputs."""
    options: Int[Tensor, "n answers"] | None = None
    """Token id of each option, -1 where absent; None where the Lens knows them."""
    labels: Int[Tensor, " n"] | None = None
    """Index of the right option, -1 where unknown."""
    ids: tuple[str, ...] | None = None
    """One name a sample; None stands for a hash of its content."""

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.inputs["input_ids"])

    def to(self, device: torch.device | str) -> Batch:
        """The same with its inputs on another device; the rest follows where it is needed."""
        inputs = {k: v.to(device) if hasattr(v, "to") else v for k, v in self.inputs.items()}
        return replace(self, inputs=inputs)

    def __repr__(self) -> str:
        n, tokens = self.inputs["input_ids"].shape
        options = "no" if self.options is None else option_table(self.options, n).shape[-1]
        spans = "no" if self.spans is None else " ".join(self.spans)
        return f"Batch({n} samples, {tokens} tokens, {options} options, spans {spans})"


def as_batch(given: Any) -> Batch:
    """A batch, or a mapping of a model's inputs as one.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(given, Batch):
        return given
    if isinstance(given, Mapping) and "input_ids" in given:
        return Batch(inputs=dict(given))
    raise TypeError(
        f"a batch must be a Batch of pid_lens.batch or a mapping with input_ids; got {given!r}"
    )


def as_batches(given: Any) -> Iterable[Any]:
    """One batch or many; what can be gone through again stays so."""
    if isinstance(given, Batch | str | Mapping) or not isinstance(given, Iterable):
        return [as_batch(given)]
    return list(given) if isinstance(given, Iterator) else given


def attended_tokens(inputs: Mapping[str, Any]) -> Bool[Tensor, "n tokens"]:
    """The tokens that are no padding."""
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 4:
        open_pairs = mask if mask.dtype == torch.bool else mask == 0
        return open_pairs.flatten(1, 2).any(1).expand(len(inputs["input_ids"]), -1)
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    return mask.bool()
