"""Your own images and questions, as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.readouts.choices import Choice, option_table
from pid_lens.samples import Batch, attended_tokens, recognise
from pid_lens.spans import Spans, find_image, question_tokens, render, special_tokens

if TYPE_CHECKING:
    from PIL.Image import Image


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
    special = special_tokens(processor, prompts[0])
    inputs = dict(
        processor(
            images=[[image] for image in images],
            text=prompts,
            padding=True,
            return_tensors="pt",
            **special,
        )
    )
    attended = attended_tokens(inputs)
    question = torch.zeros_like(attended)
    for row, (prompt, text) in enumerate(zip(prompts, questions, strict=True)):
        places = attended[row].nonzero().flatten()
        expanded = inputs["input_ids"][row, places].tolist()
        _known_words(processor, prompt, expanded)
        found = question_tokens(processor, prompt, text, expanded, **special)
        question[row, places[found]] = True
    image = find_image(inputs["input_ids"], processor.image_token_id)
    made = Batch(
        inputs=inputs,
        spans=Spans(image=image, question=question),
        options=option_table(options, n, processor),
        labels=None if labels is None else torch.tensor(_label_indices(labels, options, n)),
        ids=None if ids is None else tuple(map(str, ids)),
    )
    known = recognise(made)
    return replace(made, spans=known.spans, labels=known.labels, ids=known.ids)


def _known_words(processor: Any, prompt: str, tokens: list[int]) -> None:
    unknown = processor.tokenizer.unk_token_id
    if unknown is not None and unknown in tokens:
        words = [w for w in prompt.split() if unknown in processor.tokenizer(w)["input_ids"]]
        raise ValueError(
            f"the prompt {prompt!r} has words that this model's tokenizer lacks: {words}"
        )


def _label_indices(labels: Sequence[Any], options: Sequence[Any], n: int) -> list[int]:
    """Labels that are an option's text, as its index; indices as they are."""
    rows = [options] * n if isinstance(options[0], Choice) else options
    found = []
    for row, (label, choices) in enumerate(zip(labels, rows, strict=True)):
        if isinstance(label, str) and label not in choices:
            raise ValueError(f"label {label!r} of sample {row} is none of its options {choices}")
        found.append(list(choices).index(label) if isinstance(label, str) else int(label))
    return found
