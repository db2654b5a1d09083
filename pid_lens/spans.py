"""Spans: which positions of a prompt are image, question and answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

PROBE = "probe"
"""A stand-in for the question, to see what a chat template puts around it."""


class UnknownSpan(ValueError, KeyError):  # noqa: N818
    """A span that is not there: a ValueError for users, a KeyError for mappings."""

    __str__ = ValueError.__str__


class Spans(Mapping[str, Tensor]):
    """Boolean masks [n, tokens] by name: ``image``, ``question``, ``answer``, a user's own.

    ``answer`` is the one position a sample's answer is read at: its last attended token,
    unless given.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: masks of different shapes, or a sample without a token in some span.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[0, 9, 9, 5, 2]])
        >>> spans = Spans(image=ids == 9, question=ids == 5)
        >>> spans["image"].sum().item()
        2
        >>> spans
        Spans(image 2, question 1 of 5 tokens, 1 samples)
    """

    def __init__(self, **masks: Bool[Tensor, "n tokens"]) -> None:
        """Takes one mask a name."""
        self._masks = {name: torch.as_tensor(mask) for name, mask in masks.items()}
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
        """Samples and tokens of every mask."""
        n, tokens = next(iter(self._masks.values())).shape
        return n, tokens

    def to(self, device: torch.device) -> Spans:
        """The same masks on another device."""
        return Spans(**{name: mask.to(device) for name, mask in self._masks.items()})

    def positions(self, name: str) -> Int[Tensor, " n"]:
        """The last position of a span in each sample."""
        mask = self[name]
        steps = torch.arange(mask.shape[1], device=mask.device)
        return (mask * steps).amax(-1)

    def __repr__(self) -> str:
        mean = {name: mask.sum(-1).float().mean().item() for name, mask in self._masks.items()}
        n, tokens = self.shape
        sizes = ", ".join(f"{name} {size:g}" for name, size in mean.items())
        return f"Spans({sizes} of {tokens} tokens, {n} samples)"


def find_image(
    input_ids: Int[Tensor, "n tokens"], image_token: int | None
) -> Bool[Tensor, "n tokens"]:
    """The image's tokens: wherever its placeholder id stands, together or not.

    Raises:
        ValueError: the placeholder is unknown, or a sample has none.
    """
    if image_token is None:
        raise ValueError(
            "this model's configuration names no image token: hand over spans={'image': mask, "
            "'question': mask}"
        )
    mask = input_ids == image_token
    empty = (~mask.any(-1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"no image token (id {image_token}) in the input of samples {empty[:8]}: put one "
            "image into every prompt, where the processor's chat template does"
        )
    return mask


def find_answer(attended: Bool[Tensor, "n tokens"]) -> Bool[Tensor, "n tokens"]:
    """The last attended token of each sample, whichever side is padded."""
    steps = torch.arange(attended.shape[1], device=attended.device)
    return steps == (attended * steps).amax(-1, keepdim=True)


def find_question(
    processor: Any,
    input_ids: Int[Tensor, "n tokens"],
    attended: Bool[Tensor, "n tokens"],
    image_token: int | None,
) -> Bool[Tensor, "n tokens"]:
    """The question's tokens in prompts of the processor's chat template.

    The processor makes one prompt around a stand-in; what follows the stand-in must end every
    prompt, what stands between the image and it must follow the last image token, and the
    question is all that lies between.

    Raises:
        ValueError: there is no template, or a prompt was not made by it.
    """
    if processor is None:
        raise ValueError(
            "without a processor the question cannot be found in token ids: hand over the "
            "processor, a Batch of pid_lens.batch, or spans={'image': mask, 'question': mask}"
        )
    before, after = _template(processor, processor.chat_template, image_token)
    mask = torch.zeros_like(attended)
    for row, (ids, seen) in enumerate(zip(input_ids.tolist(), attended.tolist(), strict=True)):
        positions = [at for at, yes in enumerate(seen) if yes]
        prompt = [ids[at] for at in positions]
        start = len(prompt) - prompt[::-1].index(image_token)
        stop = len(prompt) - len(after)
        if prompt[start : start + len(before)] != before or prompt[stop:] != after:
            raise ValueError(_strange(processor, row, prompt[start:], before, after))
        mask[row, positions[start + len(before) : stop]] = True
    return mask


def question_tokens(
    processor: Any, prompt: str, question: str, expanded: list[int], **options: Any
) -> list[int]:
    """Positions of a question in a tokenised prompt, by character offsets.

    Args:
        processor: it tokenised the prompt.
        prompt: the rendered text, with one placeholder an image.
        question: the part of it to find; its last occurrence counts.
        expanded: the prompt's token ids, each placeholder widened to its image's tokens.
        options: how the tokenizer was called.

    Raises:
        ValueError: the question is not in the prompt, or an image stands on both sides of it.
    """
    start = prompt.rfind(question)
    if not question.strip() or start < 0:
        raise ValueError(f"the question {question!r} matches nothing in the prompt {prompt!r}")
    encoded = processor.tokenizer(prompt, return_offsets_mapping=True, **options)
    plain, offsets = encoded["input_ids"], encoded["offset_mapping"]
    stop = start + len(question)
    inside = [i for i, (a, b) in enumerate(offsets) if a < stop and b > start and b > a]
    if not inside:
        raise ValueError(f"the question {question!r} matches no token of the prompt {prompt!r}")
    grown = len(expanded) - len(plain)
    if plain[inside[0] :] == expanded[inside[0] + grown :]:
        return [i + grown for i in inside]
    if plain[: inside[-1] + 1] == expanded[: inside[-1] + 1]:
        return inside
    raise ValueError(
        f"the question {question!r} stands between two images, or the processor rewrites text: "
        "hand over spans={'image': mask, 'question': mask}"
    )


def render(processor: Any, question: str, system: str | None = None) -> str:
    """The prompt of one image and one question, as the processor's chat template has it.

    Raises:
        ValueError: the processor has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            f"{type(processor).__name__} has no chat template, so prompts and their questions "
            "cannot be told apart: set processor.chat_template, or hand over "
            "spans={'image': mask, 'question': mask}"
        )
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


@lru_cache(maxsize=16)
def _template(
    processor: Any, chat_template: str | None, image_token: int | None
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt between image and question, and behind the question.

    Seen on a prompt that the processor itself makes, so that whatever it adds around an image is
    there. Kept for each processor and template.
    """
    from PIL import Image

    prompt = render(processor, PROBE)
    special = special_tokens(processor, prompt)
    made = processor(images=[[Image.new("RGB", (336, 336))]], text=[prompt], **special)
    ids = [int(token) for token in made["input_ids"][0]]
    found = question_tokens(processor, prompt, PROBE, ids, **special)
    if image_token not in ids[: found[0]]:
        raise ValueError(
            "the chat template puts the question before the image, so the question cannot be "
            "found from token ids alone: use pid_lens.batch, or hand over spans="
        )
    last_image = found[0] - 1 - ids[: found[0]][::-1].index(image_token)
    return ids[last_image + 1 : found[0]], ids[found[-1] + 1 :]


def special_tokens(processor: Any, prompt: str) -> dict[str, bool]:
    """How to call the tokenizer: a template that writes its own start wants no second one."""
    start = processor.tokenizer.bos_token
    return {"add_special_tokens": not (start and prompt.startswith(start))}


def _strange(
    processor: Any, row: int, rest: list[int], before: list[int], after: list[int]
) -> str:
    say = processor.tokenizer.decode
    return (
        f"the prompt of sample {row} was not made by the processor's chat template: behind the "
        f"image it should read {say(before)!r} + question + {say(after)!r}; it reads "
        f"{say(rest)!r}. Build it with pid_lens.batch, or hand over spans="
    )
