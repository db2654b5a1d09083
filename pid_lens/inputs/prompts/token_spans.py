"""Token positions of image, question and answer, found from token ids, as masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs.prompts.chat_template import Prompt, locate, render, special_tokens
from pid_lens.per_object import PerObject

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

PROBE_QUESTION = "probe"
"""A stand-in for the question: it shows what a chat template puts around it."""

_Frame = tuple[list[int], list[int]]
"""Token ids of a prompt between image and question, and behind the question."""

_FRAMES: PerObject[dict[tuple[str | None, int | None], _Frame]] = PerObject(dict)
"""Of each processor: chat template and image token -> the tokens around the question."""


def find_image(
    input_ids: Int[Tensor, "n tokens"], image_token: int | None
) -> Bool[Tensor, "n tokens"]:
    """Find the image tokens: all positions of the placeholder id, contiguous or not.

    Raises:
        ValueError: the placeholder is unknown, or a sample has none.

    Example:
        >>> import torch
        >>> find_image(torch.tensor([[1, 9, 9, 5], [9, 1, 9, 5]]), image_token=9)
        tensor([[False,  True,  True, False],
                [ True, False,  True, False]])
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
    """Find the last attended token of each sample, with padding on either side.

    Example:
        >>> import torch
        >>> attended = torch.tensor([[False, True, True], [True, True, False]])
        >>> find_answer(attended)
        tensor([[False, False,  True],
                [False,  True, False]])
    """
    steps = torch.arange(attended.shape[1], device=attended.device)
    return steps == (attended * steps).amax(-1, keepdim=True)


def find_question(
    processor: Any,
    input_ids: Int[Tensor, "n tokens"],
    attended: Bool[Tensor, "n tokens"],
    image_token: int | None,
) -> Bool[Tensor, "n tokens"]:
    """Find the question's tokens in prompts of the processor's chat template.

    The processor makes one prompt around a stand-in; what follows the stand-in must end every
    prompt, what lies between the image and it must follow the last image token, and the
    question is all that lies between. Where tokens merged across a seam (a "?" and the newline
    behind it, say) the text is compared instead, white space aside, and a merged token is the
    question's.

    Raises:
        ValueError: there is no template, a prompt was not made by it, holds several turns, or
            holds a video.
    """
    if processor is None:
        raise ValueError(
            "without a processor the question cannot be found in token ids: hand over the "
            "processor, a Batch of pid_lens.batch, or spans={'image': mask, 'question': mask}"
        )
    require_no_videos({"input_ids": input_ids}, processor)
    before, after = _frame_of(processor, image_token)
    mask = torch.zeros_like(attended)
    for row, (ids, kept) in enumerate(zip(input_ids.tolist(), attended.tolist(), strict=True)):
        positions = [at for at, yes in enumerate(kept) if yes]
        prompt = [ids[at] for at in positions]
        first = len(prompt) - prompt[::-1].index(image_token)
        between = _between(processor.tokenizer, prompt[first:], before, after)
        if between is None:
            raise ValueError(_describe_mismatch(processor, row, prompt[first:], before, after))
        mask[row, positions[first:][between]] = True
    return mask


def require_no_videos(inputs: Mapping[str, Any], processor: Any = None) -> None:
    """Require that no video came: its tokens would be taken for text.

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


def _frame_of(processor: Any, image_token: int | None) -> _Frame:
    """Look up the tokens around the question, built once for each processor and template.

    For a processor that cannot be weakly referenced they are built every time.
    """
    try:
        known = _FRAMES.of(processor)
    except TypeError:
        return _build_frame(processor, image_token)
    template = processor.chat_template, image_token
    if template not in known:
        known[template] = _build_frame(processor, image_token)
    return known[template]


def _build_frame(processor: Any, image_token: int | None) -> _Frame:
    """Build the tokens around the question from a prompt that the processor itself makes.

    They include all that the processor adds around an image.
    """
    from PIL import Image

    prompt = render(processor, PROBE_QUESTION)
    special = special_tokens(processor, prompt)
    made = processor(images=[[Image.new("RGB", (336, 336))]], text=[prompt], **special)
    ids = [int(token) for token in made["input_ids"][0]]
    where = locate(lambda text: render(processor, text), PROBE_QUESTION, "question")
    found = Prompt.of(processor, prompt).places(where, ids)
    if image_token not in ids[: found[0]]:
        raise ValueError(
            "the chat template puts the question before the image, so the question cannot be "
            "found from token ids alone: use pid_lens.batch, or hand over spans="
        )
    last_image = found[0] - 1 - ids[: found[0]][::-1].index(image_token)
    return ids[last_image + 1 : found[0]], ids[found[-1] + 1 :]


def _between(tokenizer: Any, rest: list[int], before: list[int], after: list[int]) -> slice | None:
    """Find the question among the tokens behind the image; None where they are not one turn."""
    found = slice(len(before), len(rest) - len(after))
    if rest[: found.start] != before or rest[found.stop :] != after:
        found = _between_texts(tokenizer, rest, before, after)
    question = rest[found]
    return found if question and not _turns_within(tokenizer, question, after) else None


def _between_texts(tokenizer: Any, rest: list[int], before: list[int], after: list[int]) -> slice:
    """Find the tokens with a letter between two texts; an empty slice where these are missing."""

    def say(ids: list[int]) -> str:
        return "".join(tokenizer.decode(ids).split())

    opening, ending, text = say(before), say(after), say(rest)
    if not (text.startswith(opening) and text.endswith(ending)):
        return slice(0)
    cuts = range(len(rest) + 1)
    return slice(
        max(cut for cut in cuts if opening.startswith(say(rest[:cut]))),
        min(cut for cut in cuts if ending.endswith(say(rest[cut:]))),
    )


def _turns_within(tokenizer: Any, question: list[int], after: list[int]) -> bool:
    """Return whether a turn ends within the question, by the template's text or special tokens."""
    ending = tokenizer.decode(after).strip()
    marks = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    by_text = ending != "" and ending in tokenizer.decode(question)
    return by_text or not marks.isdisjoint({*after} & {*question})


def _describe_mismatch(
    processor: Any, row: int, rest: list[int], before: list[int], after: list[int]
) -> str:
    say = processor.tokenizer.decode
    return (
        f"the prompt of sample {row} was not made by the processor's chat template in one turn: "
        f"behind the image it should read {say(before)!r} + question + {say(after)!r}; it reads "
        f"{say(rest)!r}. If it does, tokens may have merged where the question begins or ends. "
        "Build it with pid_lens.batch, which finds the question all the same, or hand over spans="
    )
