"""Batch: model inputs, and what a Lens must know of them."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.readouts.choices import Choice, option_table
from pid_lens.spans import (
    Spans,
    find_answer,
    find_image,
    find_question,
    question_tokens,
    render,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Samples as a model takes them, with what a Lens needs to read them.

    Example:
        >>> import torch
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
        options = "no" if self.options is None else self.options.shape[-1]
        spans = "no" if self.spans is None else " ".join(self.spans)
        return f"Batch({n} samples, {tokens} tokens, {options} options, spans {spans})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """All that an intervention or a readout may know of a batch."""

    ids: tuple[str, ...]
    spans: Spans
    options: Int[Tensor, "n answers"]
    labels: Int[Tensor, " n"]

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)


def batch(
    processor: Any,
    *,
    images: Sequence[Image],
    questions: Sequence[str],
    options: Sequence[Any],
    labels: Sequence[Any] | None = None,
    ids: Sequence[Any] | None = None,
    system: str | Sequence[str] | None = None,
) -> Batch:
    """Your own images and questions, as a model takes them.

    The processor's chat template renders each prompt; the question's tokens are found by their
    character offsets in it.

    Args:
        processor: the model's processor, with a chat template.
        images: one image a question.
        questions: one text a sample, options included where the model is to see them.
        options: what the model may answer: one list for all samples (``("A", "B")``) or one list
            a sample, as text (its first token counts) or token ids.
        labels: the right option of each sample, as its index or its text.
        ids: names of the samples; by default a hash of each one's content.
        system: the system turn, one for all or one a sample. It is never noised.

    Returns:
        A `Batch` of n samples; ``model(**batch.inputs)`` runs it.

    Raises:
        ValueError: lists of different lengths, a question that matches nothing in its prompt or
            has words that the tokenizer lacks, options that share a first token, a label that is
            no option.

    Example:
        >>> import pid_lens
        >>> _, processor = pid_lens.demo.load()
        >>> digit = pid_lens.demo.digits("test").images[0]
        >>> pid_lens.batch(processor, images=[digit], questions=["is the digit even ?"],
        ...                options=("A", "B"), system="vision")
        Batch(1 samples, 26 tokens, 2 options, spans image question answer)
    """
    for name, given in (("images", images), ("questions", questions), ("labels", labels)):
        if isinstance(given, str) or (given is not None and not hasattr(given, "__len__")):
            raise TypeError(f"{name} must be a list, one entry a sample; got one {given!r}")
    n = len(questions)
    if not n:
        raise ValueError("a batch needs at least one question")
    systems = [system] * n if system is None or isinstance(system, str) else list(system)
    for name, given in (("images", images), ("labels", labels), ("ids", ids), ("system", systems)):
        if given is not None and len(given) != n:
            raise ValueError(f"{n} questions need as many {name}; got {len(given)}")
    prompts = [render(processor, q, s) for q, s in zip(questions, systems, strict=True)]
    special = {
        "add_special_tokens": not prompts[0].startswith(processor.tokenizer.bos_token or "\0")
    }
    inputs = dict(
        processor(
            images=[[image] for image in images],
            text=prompts,
            padding=True,
            return_tensors="pt",
            **special,
        )
    )
    attended = _attended(inputs)
    question = torch.zeros_like(attended)
    for row, (prompt, text) in enumerate(zip(prompts, questions, strict=True)):
        places = attended[row].nonzero().flatten()
        expanded = inputs["input_ids"][row, places].tolist()
        _known_words(processor, prompt, expanded)
        found = question_tokens(processor, prompt, text, expanded, **special)
        question[row, places[found]] = True
    table = option_table(options, n, processor)
    image = find_image(inputs["input_ids"], processor.image_token_id)
    made = Batch(
        inputs=inputs,
        spans=Spans(image=image, question=question),
        options=table,
        labels=None if labels is None else _label_indices(labels, options, table),
        ids=None if ids is None else tuple(map(str, ids)),
    )
    known = recognise(made)
    return replace(made, spans=known.spans, ids=known.ids)


def as_batches(given: Any) -> Iterable[Batch]:
    """One batch or many, each as a `Batch`; what can be gone through again stays so.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(given, Batch):
        return [given]
    if isinstance(given, Mapping) and "input_ids" in given:
        return [Batch(inputs=dict(given))]
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"batches must be Batch records or mappings of inputs; got {given!r}")
    return list(given) if isinstance(given, Iterator) else given


def recognise(
    batch: Batch | Mapping[str, Any],
    processor: Any = None,
    image_token: int | None = None,
    choices: Int[Tensor, "1 answers"] | None = None,
) -> Samples:
    """The samples of a batch: whatever it does not say is found from its inputs.

    Options are the batch's own, or the ``choices`` of all, or none ([n, 0]).

    Raises:
        ValueError: no image in a prompt, a question that cannot be found, ids that cannot be
            made, or something of another length than the batch.
    """
    batch = batch if isinstance(batch, Batch) else Batch(inputs=dict(batch))
    input_ids = batch.inputs["input_ids"]
    n, attended = len(input_ids), _attended(batch.inputs)
    if batch.spans is None:
        spans = {
            "image": find_image(input_ids, image_token),
            "question": _question(processor, input_ids, attended, image_token),
        }
    else:
        spans = dict(batch.spans)
    spans.setdefault("answer", find_answer(attended))
    for name, mask in spans.items():
        if mask.shape != input_ids.shape:
            raise ValueError(
                f"span {name!r} must be [n, tokens] = {list(input_ids.shape)} as the input; got "
                f"{list(mask.shape)}. Did another batch run than the one described?"
            )
    spans = {name: mask.to(input_ids.device) for name, mask in spans.items()}
    ids = _contents(batch.inputs, spans) if batch.ids is None else tuple(map(str, batch.ids))
    none = torch.empty(1, 0, dtype=torch.long) if choices is None else choices
    options = (
        none.expand(n, -1) if batch.options is None else option_table(batch.options, n, processor)
    )
    labels = torch.full((n,), -1) if batch.labels is None else torch.as_tensor(batch.labels)
    for name, of in (("ids", ids), ("labels", labels)):
        if len(of) != n:
            raise ValueError(f"{n} samples need as many {name}; got {len(of)}")
    _no_twins(ids)
    return Samples(ids=ids, spans=Spans(**spans), options=options, labels=labels)


def _attended(inputs: Mapping[str, Any]) -> Bool[Tensor, "n tokens"]:
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    return mask.bool()


def _question(
    processor: Any, input_ids: Tensor, attended: Tensor, image_token: int | None
) -> Tensor:
    if processor is None:
        raise ValueError(
            "without a processor the question cannot be found in token ids: hand over the "
            "processor, a Batch of pid_lens.batch, or spans={'image': mask, 'question': mask}"
        )
    return find_question(processor, input_ids, attended, image_token)


def _known_words(processor: Any, prompt: str, tokens: list[int]) -> None:
    unknown = processor.tokenizer.unk_token_id
    if unknown is not None and unknown in tokens:
        words = [w for w in prompt.split() if unknown in processor.tokenizer(w)["input_ids"]]
        raise ValueError(
            f"the prompt {prompt!r} has words that this model's tokenizer lacks: {words}"
        )


def _label_indices(labels: Sequence[Any], options: Sequence[Any], table: Tensor) -> Tensor:
    rows = options if not isinstance(options[0], Choice) else [options] * len(labels)
    found = []
    for row, (label, choices, tokens) in enumerate(zip(labels, rows, table, strict=True)):
        index = (
            list(choices).index(label) if isinstance(label, str) and label in choices else label
        )
        if isinstance(index, str) or not -1 <= index < int((tokens >= 0).sum()):
            raise ValueError(f"label {label!r} of sample {row} is none of its options {choices}")
        found.append(int(index))
    return torch.tensor(found)


def _no_twins(ids: tuple[str, ...]) -> None:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        warnings.warn(
            f"{len(twice)} samples of this batch stand in it more than once ({twice[0]}, ...): "
            "the last of each counts. Give them ids= of their own to count them apart",
            stacklevel=3,
        )


def _contents(inputs: Mapping[str, Any], spans: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A hash of each sample's attended tokens and of its pixels, whatever the padding."""
    input_ids, attended = inputs["input_ids"], _attended(inputs)
    hashes = [
        hashlib.sha256(ids[seen].cpu().numpy().tobytes())
        for ids, seen in zip(input_ids, attended, strict=True)
    ]
    images = spans["image"].sum(-1).tolist()
    for name in sorted(inputs):
        value = inputs[name]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            for digest, part in zip(hashes, _split(name, value, images), strict=True):
                digest.update(part.float().cpu().contiguous().numpy().tobytes())
    return tuple(digest.hexdigest()[:16] for digest in hashes)


def _split(name: str, value: Tensor, images: list[int]) -> Sequence[Tensor]:
    """A tensor's rows by sample: one each, or as many as its share of the image tokens."""
    if len(value) == len(images):
        return tuple(value)
    each, rest = divmod(len(value), sum(images))
    if rest or not each:
        raise ValueError(
            f"cannot tell which rows of {name} {list(value.shape)} belong to which of "
            f"{len(images)} samples, so samples have no hash: give ids="
        )
    return value.split([each * count for count in images])
