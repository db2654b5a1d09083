"""Spans: which positions of a prompt are image, question and answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pid_lens.prompts.rendering import Prompt, located, render, special_tokens

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
    unless given. Masks are plain tensors, so ``&``, ``|`` and ``~`` make new ones of them, and
    ``spans | {name: mask}`` makes new spans with more names (or a name's new mask). Every sample
    has a token in every span: what is done to an empty one would do nothing, unnoticed.

    Raises:
        TypeError: a mask is not boolean.
        ValueError: masks of different shapes, or a sample without a token in some span.

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

    def __or__(self, more: Mapping[str, Tensor]) -> Spans:
        """New spans with more masks; a name that is there already gets the new mask."""
        if not isinstance(more, Mapping):
            return NotImplemented
        return Spans(**{**self._masks, **more})

    def pick(
        self, name: str, ranks: Sequence[int] | Sequence[Sequence[int]]
    ) -> Bool[Tensor, "n tokens"]:
        """The mask of some tokens of a span, by their rank in it: an object's patches, say.

        Args:
            name: the span.
            ranks: which of its tokens, from 0; one list for all samples, or one a sample.

        Raises:
            TypeError: a rank is no whole number.
            ValueError: as many lists as samples did not come, a list is empty, or a sample's
                span has no token of such a rank.

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
        ValueError: there is no template, a prompt was not made by it, or holds a video.
    """
    if processor is None:
        raise ValueError(
            "without a processor the question cannot be found in token ids: hand over the "
            "processor, a Batch of pid_lens.batch, or spans={'image': mask, 'question': mask}"
        )
    refuse_videos({"input_ids": input_ids}, processor)
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


def refuse_videos(inputs: Mapping[str, Any], processor: Any = None) -> None:
    """Videos are not read: their tokens would be taken for text.

    Raises:
        ValueError: there is a video among the inputs, or its token in a prompt.
    """
    named = [name for name in inputs if "video" in name and inputs[name] is not None]
    token = getattr(processor, "video_token_id", None)
    held = token is not None and bool((inputs["input_ids"] == token).any())
    if named or held:
        raise ValueError(
            f"a video came ({', '.join(named) or f'token {token} in input_ids'}): its frames are "
            "neither image nor question, so videos cannot be read. Hand over single frames as "
            "images"
        )


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
    where = located(lambda text: render(processor, text), PROBE, "question")
    found = Prompt.of(processor, prompt).places(where, ids)
    if image_token not in ids[: found[0]]:
        raise ValueError(
            "the chat template puts the question before the image, so the question cannot be "
            "found from token ids alone: use pid_lens.batch, or hand over spans="
        )
    last_image = found[0] - 1 - ids[: found[0]][::-1].index(image_token)
    return ids[last_image + 1 : found[0]], ids[found[-1] + 1 :]


def _one_a_sample(ranks: Sequence[Any], n: int) -> list[list[int]]:
    ranks = ranks.tolist() if hasattr(ranks, "tolist") else list(ranks)
    rows = ranks if ranks and isinstance(ranks[0], Sequence) else [ranks] * n
    if len(rows) != n:
        raise ValueError(f"ranks must be one list, or one a sample: {n}; got {len(rows)}")
    strange = [rank for row in rows for rank in row if type(rank) is not int]
    if strange:
        raise TypeError(f"ranks are whole numbers from 0; got {strange[:8]}")
    return [list(row) for row in rows]


def _strange(
    processor: Any, row: int, rest: list[int], before: list[int], after: list[int]
) -> str:
    say = processor.tokenizer.decode
    return (
        f"the prompt of sample {row} was not made by the processor's chat template: behind the "
        f"image it should read {say(before)!r} + question + {say(after)!r}; it reads "
        f"{say(rest)!r}. Build it with pid_lens.batch, or hand over spans="
    )
