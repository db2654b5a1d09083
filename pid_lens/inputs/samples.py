"""Samples: a batch as somebody hands it over, and all that a lens then knows of its rows."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from pid_lens.inputs.batch_record import Batch, attended_tokens
from pid_lens.inputs.options import option_table
from pid_lens.inputs.prompts.token_spans import (
    find_answer,
    find_image,
    find_question,
    require_no_videos,
)
from pid_lens.inputs.sample_ids import content_ids
from pid_lens.inputs.spans import Spans

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """What an intervention or a readout may know of a batch."""

    ids: tuple[str, ...]
    spans: Spans
    options: Int[Tensor, "n answers"]
    """Token id of each option, -1 where a sample has fewer."""
    labels: Int[Tensor, " n"]
    """Index of the right option, -1 where unknown."""
    contents: tuple[str, ...] = ()
    """A hash of each sample's content; empty where it cannot be made."""
    site: str = ""
    """Where vectors enter the decoder: "" for its embeddings, or the name of an `ImagePathway`."""

    @classmethod
    def of_spans(cls, spans: Spans) -> Self:
        """Samples of which nothing but the spans is known, named by their numbers."""
        n, _ = spans.shape
        return cls(
            ids=tuple(map(str, range(n))),
            spans=spans,
            options=torch.empty(n, 0, dtype=torch.long),
            labels=torch.full((n,), -1),
        )

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def extended(self, tokens: int, *, answering: bool = True) -> Samples:
        """The same with so many tokens: what was generated continues the answer, or no span."""
        more = tokens - self.spans.shape[1]
        return self if more <= 0 else replace(self, spans=self.spans.longer(more, answering))


def find_spans(batch: Batch, processor: Any = None, image_token: int | None = None) -> Spans:
    """A batch's spans: those it says, and whatever else can be found in its inputs.

    Raises:
        ValueError: no image in a prompt, a question that cannot be found, or masks of another
            shape than the input.
    """
    require_no_videos(batch.inputs, processor)
    input_ids = batch.inputs["input_ids"]
    attended = attended_tokens(batch.inputs)
    spans = {name: torch.as_tensor(mask) for name, mask in (batch.spans or {}).items()}
    if "image" not in spans and (image_token is not None or not spans):
        spans["image"] = find_image(input_ids, image_token)
    if "question" not in spans and (processor is not None or batch.spans is None):
        spans["question"] = find_question(processor, input_ids, attended, image_token)
    spans.setdefault("answer", find_answer(attended))
    for name, mask in spans.items():
        if mask.shape != input_ids.shape:
            raise ValueError(
                f"span {name!r} must be [n, tokens] = {list(input_ids.shape)} as the input; got "
                f"{list(mask.shape)}. Did another batch run than the one described?"
            )
    return Spans(**{name: mask.to(input_ids.device) for name, mask in spans.items()})


def resolve_samples(
    batch: Batch,
    processor: Any = None,
    image_token: int | None = None,
    choices: Int[Tensor, "1 answers"] | None = None,
) -> Samples:
    """The samples of a batch: whatever it does not say is found from its inputs.

    Options are the batch's own, or the ``choices`` of all, or none ([n, 0]).

    Raises:
        ValueError: as `find_spans`; ids that cannot be made; ids, options or labels of another
            number than samples, or labels that are none of the options.
    """
    spans = find_spans(batch, processor, image_token)
    n = spans.shape[0]
    table = torch.empty(1, 0, dtype=torch.long) if choices is None else choices
    if batch.options is not None:
        table = option_table(batch.options, n, processor)
    table = table.expand(n, -1)
    ids, contents = _names(batch, spans)
    return Samples(
        ids=ids,
        spans=spans,
        options=table,
        labels=label_indices(batch, table),
        contents=contents,
    )


def label_indices(batch: Batch, table: Int[Tensor, "n answers"]) -> Int[Tensor, " n"]:
    """Labels as indices of options; -1 where unknown.

    Raises:
        ValueError: too few labels, or one that is none of its sample's options.
    """
    n = len(table)
    if batch.labels is None:
        return torch.full((n,), -1)
    labels = torch.as_tensor(batch.labels).cpu()
    _length("labels", labels, n)
    known = torch.nn.functional.pad(table.cpu() >= 0, (1, 0), value=True)
    inside = (labels >= -1) & (labels < table.shape[1])
    inside &= known.gather(1, (labels.clamp(-1, table.shape[1] - 1) + 1)[:, None])[:, 0]
    if table.shape[1] and not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(
            f"label {int(labels[row])} of sample {row} is none of its options: labels are indices "
            f"of options, 0 to {int((table[row] >= 0).sum()) - 1}, or -1 for unknown"
        )
    return labels


def _names(batch: Batch, spans: Spans) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Each sample's id and the hash of its content; without an id the hash is the id."""
    attended = attended_tokens(batch.inputs)
    try:
        contents = content_ids(batch.inputs, attended, spans.get("image"))
    except ValueError:
        if batch.ids is None:
            raise
        contents = ()
    given: Any = batch.ids
    given = given.tolist() if hasattr(given, "tolist") else given
    ids = contents if given is None else tuple(map(str, given))
    _length("ids", ids, len(attended))
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        warnings.warn(
            f"{len(twice)} samples stand more than once in this batch ({twice[0]}, ...): the last "
            "of each counts. Give them ids= of their own to count them apart",
            stacklevel=3,
        )
    return ids, contents


def _length(name: str, given: Sequence[Any] | Tensor, n: int) -> None:
    if len(given) != n:
        raise ValueError(f"{n} samples need as many {name}; got {len(given)}")
