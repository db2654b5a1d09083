"""Build a batch: chat template, tokens and pixels of a user's own images and questions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs.batch_record import Batch, attended_tokens
from pid_lens.inputs.options import Choice, option_table
from pid_lens.inputs.prompts.chat_template import Prompt, image_id, special_tokens
from pid_lens.inputs.prompts.multi_image import single_images
from pid_lens.inputs.prompts.token_spans import find_image, require_no_videos
from pid_lens.inputs.prompts.turns import Named, Turn, requested_spans
from pid_lens.inputs.samples import resolve_samples
from pid_lens.inputs.spans import Spans

if TYPE_CHECKING:
    from jaxtyping import Bool
    from PIL.Image import Image
    from torch import Tensor


def batch(
    processor: Any,
    *,
    images: Sequence[Image] | Sequence[Sequence[Image]],
    questions: Sequence[str],
    options: Sequence[Any],
    labels: Sequence[Any] | None = None,
    ids: Sequence[Any] | None = None,
    system: str | Sequence[str] | None = None,
    spans: Mapping[str, Named | Sequence[Named]] | None = None,
) -> Batch:
    """Build a `Batch` from images and questions: token ids, pixels and span masks.

    The processor's chat template renders each prompt; text is located in its tokens by character
    offsets, so a token that holds a character of a span belongs to it, also where it holds the
    space before.

    Spans of the batch: ``image`` (``image_0``, ``image_1``, ... too, as far as every sample has
    them, where a sample has several), ``question``, ``answer``, and those that ``spans`` asks
    for.

    Args:
        processor: the model's processor, with a chat template.
        images: one image per question, or one list of images; they come before the question.
        questions: one text per sample, with the options where the model is to read them; white
            space around it is left out.
        options: what the model may answer: one list for all samples (``("A", "B")``) or one list
            per sample, as text (its first token counts) or token ids.
        labels: the right option of each sample, as its index or its text.
        ids: names of the samples; by default a hash of each one's content.
        system: the system turn, one for all or one per sample. No default condition ablates it.
        spans: more spans, by name. ``{"system": True}`` is the system turn; ``{"options": True}``
            the listing of the options in the question, where each comes after a marker (``A.``,
            ``(1)``, ``-``; see `find_listing`); ``{"car": "the red car"}`` any words of the
            prompt, one text for all samples or a list of one per sample. ``(text, k)`` is its k-th
            occurrence, from 0. Every sample must have it: those without go into a batch of their
            own.

    Returns:
        A `Batch` of n samples; ``model(**batch.inputs)`` runs it.

    Raises:
        TypeError: one string or image where a list is wanted.
        ValueError: lists of different lengths, a question or named text that matches nothing in
            its prompt (or, without an occurrence, more than one place), has words that the
            tokenizer lacks or tokens that cannot be identified, a listing or system turn that
            is not there, options that share a first token, a label that is not an option, a
            tokenizer without character offsets, a video token.

    Example:
        >>> import pid_lens
        >>> _, processor = pid_lens.demo.load()
        >>> digit = pid_lens.demo.digits("test").images[0]
        >>> made = pid_lens.batch(processor, images=[digit], questions=["is the digit even ?"],
        ...                       options=("A", "B"), system="vision",
        ...                       spans={"system": True, "word": "even"})
        >>> made
        Batch(1 samples, 26 tokens, 2 options, spans image question system word answer)
        >>> [processor.decode(made.inputs["input_ids"][made.spans[name]])
        ...  for name in ("system", "question", "word")]
        ['vision', 'is the digit even ?', 'even']
    """
    _require_lists(images=images, questions=questions, labels=labels)
    n = len(questions)
    if not n:
        raise ValueError("a batch needs at least one question")
    systems = [system] * n if system is None or isinstance(system, str) else list(system)
    _require_as_many(n, images=images, labels=labels, ids=ids, system=systems)
    table, wanted = option_table(options, n, processor), requested_spans(spans or {}, n)
    albums = [_album(entry) for entry in images]
    rows = zip(questions, systems, albums, _option_rows(options, n), strict=True)
    turns = [
        Turn(processor, question.strip(), turn, len(album), row)
        for question, turn, album, row in rows
    ]
    inputs = _process(processor, albums, turns)
    image = find_image(inputs["input_ids"], image_id(processor))
    found = Spans(image=image) | single_images(processor, image, albums)
    made = Batch(
        inputs=inputs,
        spans=found | _text_spans(inputs, turns, wanted),
        options=table,
        labels=None if labels is None else torch.tensor(_label_indices(labels, options, n)),
        ids=None if ids is None else tuple(map(str, ids)),
    )
    known = resolve_samples(made)
    return replace(made, spans=known.spans, labels=known.labels, ids=known.ids)


def _require_lists(**given: Any) -> None:
    """Require lists: raise a TypeError for one string or image in place of one."""
    for name, one in given.items():
        if isinstance(one, str) or (one is not None and not hasattr(one, "__len__")):
            raise TypeError(f"{name} must be a list, one entry per sample; got one {one!r}")


def _require_as_many(n: int, **given: Any) -> None:
    """Require that lists have as many entries as there are questions."""
    for name, one in given.items():
        if one is not None and len(one) != n:
            raise ValueError(f"{n} questions need as many {name}; got {len(one)}")


def _process(processor: Any, albums: list[list[Image]], turns: Sequence[Turn]) -> dict[str, Any]:
    """Run the processor on images and rendered prompts; return the model's inputs."""
    inputs = dict(
        processor(
            images=albums,
            text=[turn.prompt.text for turn in turns],
            padding=True,
            return_tensors="pt",
            **special_tokens(processor, turns[0].prompt.text),
        )
    )
    inputs.pop("labels", None)  # PaliGemma's processor makes some, for training
    require_no_videos(inputs, processor)
    return inputs


def _album(entry: Any) -> list[Image]:
    """List the images of one sample."""
    album = list(entry) if isinstance(entry, list | tuple) else [entry]
    if not album:
        raise ValueError("a sample has no image: every sample needs at least one")
    return album


def _text_spans(
    inputs: Mapping[str, Tensor], turns: Sequence[Turn], wanted: Sequence[Mapping[str, Named]]
) -> dict[str, Bool[Tensor, "n tokens"]]:
    """Locate the requested text spans in every sample's tokens, as masks."""
    attended = attended_tokens(inputs)
    masks = {name: torch.zeros_like(attended) for name in wanted[0]}
    for row, (turn, said) in enumerate(zip(turns, wanted, strict=True)):
        places = attended[row].nonzero().flatten()
        expanded = inputs["input_ids"][row, places].tolist()
        _require_known_words(turn.processor.tokenizer, turn.prompt)
        for name, text in said.items():
            masks[name][row, places[turn.prompt.places(turn.where(name, text), expanded)]] = True
    return masks


def _require_known_words(tokenizer: Any, prompt: Prompt) -> None:
    """Reject words that became the unknown token, unless the prompt spells that token itself."""
    pairs = zip(prompt.tokens, prompt.offsets, strict=True)
    unknown = [
        (start, stop)
        for token, (start, stop) in pairs
        if token == tokenizer.unk_token_id
        and start < stop
        and prompt.text[start:stop].strip() != tokenizer.unk_token
    ]
    if unknown:
        words = [
            word.group()
            for word in re.finditer(r"\S+", prompt.text)
            if any(start < word.end() and stop > word.start() for start, stop in unknown)
        ]
        raise ValueError(
            f"the prompt {prompt.text!r} has words that this model's tokenizer lacks: {words}"
        )


def _option_rows(options: Sequence[Any] | Tensor, n: int) -> list[list[Any]]:
    """List each sample's options, as they were given."""
    given = options.tolist() if hasattr(options, "tolist") else list(options)
    rows = [given] if isinstance(given[0], Choice) else [list(row) for row in given]
    return rows * n if len(rows) == 1 else rows


def _label_indices(labels: Sequence[Any], options: Sequence[Any], n: int) -> list[int]:
    """Convert labels that are an option's text to its index; keep indices."""
    found = []
    for row, (label, choices) in enumerate(zip(labels, _option_rows(options, n), strict=True)):
        if isinstance(label, str) and label not in choices:
            raise ValueError(
                f"label {label!r} of sample {row} is not one of its options {choices}"
            )
        found.append(choices.index(label) if isinstance(label, str) else int(label))
    return found
