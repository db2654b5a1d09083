"""Samples: a batch's spans, options, labels and ids, stated or found in its inputs."""

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
    """Metadata of a batch's rows for an intervention or a readout: spans, options, labels, ids.

    Attributes:
        ids: one name per sample.
        spans: masks of token positions, [n, tokens] each.
        options: token id of each option, [n, answers]; -1 where a sample has fewer.
        labels: index of the right option, [n]; -1 where unknown.
        contents: a hash of each sample's content; empty where it cannot be made.
        site: where vectors enter the decoder: "" for its embeddings, or the name of an
            `ImagePathway`.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> ids = torch.tensor([[9, 9, 5, 2], [9, 5, 5, 2]])
        >>> samples = Samples.of_spans(Spans(image=ids == 9, question=ids == 5))
        >>> samples.n, samples.ids, samples.labels.tolist()
        (2, ('0', '1'), [-1, -1])
    """

    ids: tuple[str, ...]
    spans: Spans
    options: Int[Tensor, "n answers"]
    labels: Int[Tensor, " n"]
    contents: tuple[str, ...] = ()
    site: str = ""

    @classmethod
    def of_spans(cls, spans: Spans) -> Self:
        """Build samples of which only the spans are known; their ids are the row numbers."""
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
        """Extend the spans to ``tokens`` positions: the new ones join the answer, or no span."""
        more = tokens - self.spans.shape[1]
        return self if more <= 0 else replace(self, spans=self.spans.longer(more, answering))


def find_spans(batch: Batch, processor: Any = None, image_token: int | None = None) -> Spans:
    """Find the spans of a batch: its own, and image, question and answer from its token ids.

    The answer is each sample's last attended token, unless the batch has such a span.

    Args:
        batch: the spans that it states are kept.
        processor: its chat template locates the question; not needed where the batch has spans.
        image_token: id of the image's placeholder in ``input_ids``.

    Raises:
        ValueError: no image in a prompt, a question that cannot be found, or masks of another
            shape than the input.

    Example:
        >>> import torch
        >>> from pid_lens import Batch
        >>> ids = torch.tensor([[1, 9, 9, 5, 2]])
        >>> batch = Batch(inputs={"input_ids": ids}, spans={"question": ids == 5})
        >>> find_spans(batch, image_token=9)
        Spans(question 1, image 2, answer 1 of 5 tokens, 1 samples)
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
    """Resolve a batch into `Samples`: what it does not state is found from its inputs.

    Options are the batch's own, or the ``choices`` of all, or none ([n, 0]).

    Args:
        batch: the samples.
        processor: its chat template locates the question, its tokenizer options that are text.
        image_token: id of the image's placeholder in ``input_ids``.
        choices: token ids of the options, [1, answers], where the batch has none.

    Raises:
        ValueError: as `find_spans`; ids that cannot be made; ids, options or labels of another
            number than samples, or labels that are not one of the options.

    Example:
        >>> import torch
        >>> from pid_lens import Batch
        >>> ids = torch.tensor([[1, 9, 5, 2], [1, 9, 5, 4]])
        >>> batch = Batch(inputs={"input_ids": ids}, spans={"question": ids == 5},
        ...               options=torch.tensor([[3, 4]]), labels=[1, 0], ids=("cat", "dog"))
        >>> samples = resolve_samples(batch, image_token=9)
        >>> samples.ids, samples.options.tolist(), samples.labels.tolist()
        (('cat', 'dog'), [[3, 4], [3, 4]], [1, 0])
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
    """Return a batch's labels as indices of options, checked; -1 where unknown.

    Raises:
        ValueError: another number of labels than samples, or one that is not one of its
            sample's options.
    """
    n = len(table)
    if batch.labels is None:
        return torch.full((n,), -1)
    labels = torch.as_tensor(batch.labels).cpu()
    _require_length("labels", labels, n)
    known = torch.nn.functional.pad(table.cpu() >= 0, (1, 0), value=True)
    inside = (labels >= -1) & (labels < table.shape[1])
    inside &= known.gather(1, (labels.clamp(-1, table.shape[1] - 1) + 1)[:, None])[:, 0]
    if table.shape[1] and not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(
            f"label {int(labels[row])} of sample {row} is not one of its options: labels are "
            f"indices of options, 0 to {int((table[row] >= 0).sum()) - 1}, or -1 for unknown"
        )
    return labels


def _names(batch: Batch, spans: Spans) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return each sample's id and the hash of its content; without an id the hash is the id."""
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
    _require_length("ids", ids, len(attended))
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        warnings.warn(
            f"{len(twice)} samples occur more than once in this batch ({twice[0]}, ...): the last "
            "of each counts. Give each its own ids= to count all",
            stacklevel=3,
        )
    return ids, contents


def _require_length(name: str, given: Sequence[Any] | Tensor, n: int) -> None:
    if len(given) != n:
        raise ValueError(f"{n} samples need as many {name}; got {len(given)}")
