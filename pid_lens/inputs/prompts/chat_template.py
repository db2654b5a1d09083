"""Chat template: render a question as a prompt, and map its characters to token positions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STAND_IN = "\ue000"
"""A private-use character, absent from real text: it shows where a chat template puts a text."""

BY_HAND = "hand over spans={'image': mask, 'question': mask}"

SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no spaces between words, or none around what they append."""

Stretch = tuple[int, int]
"""Characters from a start up to a stop."""


def render(processor: Any, question: str, system: str | None = None, *, images: int = 1) -> str:
    """Render the prompt of a question after its images by the processor's chat template.

    Raises:
        ValueError: the processor has no chat template.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            f"{type(processor).__name__} has no chat template, so the question cannot be "
            f"located in a prompt: set processor.chat_template, or {BY_HAND}"
        )
    content = [{"type": "image"} for _ in range(images)] + [{"type": "text", "text": question}]
    turns = [{"role": "user", "content": content}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def special_tokens(processor: Any, prompt: str) -> dict[str, bool]:
    """Choose ``add_special_tokens``: False where the template writes the start token itself."""
    start = processor.tokenizer.bos_token
    return {"add_special_tokens": not (start and prompt.startswith(start))}


def locate(template: Callable[[str], str], text: str, what: str) -> Stretch:
    """Locate a text, in characters, in the prompt that a template makes of it.

    A stand-in in its place marks the position, so that the same words elsewhere in the prompt do
    not mislead.

    Args:
        template: from a text to its prompt.
        text: the text to find; white space around it does not count.
        what: its name in errors.

    Raises:
        ValueError: the text is blank, or the template leaves it out, repeats or rewrites it.
    """
    made = template(text)
    if not text.strip():
        raise ValueError(f"the {what} {text!r} matches nothing in the prompt {made!r}")
    head, _, tail = template(STAND_IN).partition(STAND_IN)
    start, stop = len(head), len(made) - len(tail)
    if made[start:stop].strip() != text.strip() or made != head + made[start:stop] + tail:
        raise ValueError(
            f"the chat template leaves out or rewrites the {what} {text!r}, which matches nothing "
            f"in its prompt {made!r}: change the template, or {BY_HAND}"
        )
    start = made.index(text.strip(), start)
    return start, start + len(text.strip())


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt with character offsets and one placeholder token per image.

    Attributes:
        text: the rendered prompt.
        tokens: token ids, before a processor widens the placeholders.
        offsets: the characters of each token; (0, 0) where it has none.
        placeholders: ids of the tokens that hold an image's place.
    """

    text: str
    tokens: list[int]
    offsets: list[Stretch]
    placeholders: frozenset[int]

    @classmethod
    def of(cls, processor: Any, text: str) -> Prompt:
        """Tokenise a prompt.

        Raises:
            ValueError: the tokenizer knows no character offsets.
        """
        tokenizer = processor.tokenizer
        special = special_tokens(processor, text)
        try:
            encoded = tokenizer(text, return_offsets_mapping=True, **special)
            offsets = encoded["offset_mapping"]
        except (NotImplementedError, KeyError) as error:
            raise ValueError(
                f"{type(tokenizer).__name__} knows no character offsets, so text cannot be found "
                "in its tokens: load the fast tokenizer of this model (tokenizer.is_fast is "
                f"True), or {BY_HAND}"
            ) from error
        return cls(text, encoded["input_ids"], offsets, placeholders(processor))

    @property
    def images(self) -> list[Stretch]:
        """The characters of each placeholder."""
        pairs = zip(self.tokens, self.offsets, strict=True)
        return [offset for token, offset in pairs if token in self.placeholders]

    def places(self, where: Stretch, expanded: list[int]) -> list[int]:
        """Find the positions, in the widened prompt, of all tokens with one of the characters.

        Args:
            where: the characters, of which neither the first nor the last is white space.
            expanded: the prompt's token ids, each placeholder widened to its image's tokens.

        Raises:
            ValueError: the characters have no token, or their tokens cannot be identified.
        """
        start, stop = where
        inside = [i for i, (a, b) in enumerate(self.offsets) if a < stop and b > start and b > a]
        if not inside:
            raise ValueError(
                f"{self.text[start:stop]!r} matches no token of the prompt {self.text!r}"
            )
        shift = self._shift(inside[0], inside[-1], expanded)
        if shift is None or any(self.tokens[i] in self.placeholders for i in inside):
            raise ValueError(
                f"{self.text[start:stop]!r} lies between images or holds one, and the processor "
                "rewrites the text around it, so its tokens cannot be identified: hand over a "
                "mask, spans | {name: mask}"
            )
        return [i + shift for i in inside]

    def _shift(self, first: int, last: int, expanded: list[int]) -> int | None:
        """Find how far tokens moved as placeholders widened; None where it is ambiguous."""
        # All tokens from the first on agree when counted from the end
        grown = len(expanded) - len(self.tokens)
        if grown >= 0 and self.tokens[first:] == expanded[first + grown :]:
            return grown
        # All tokens up to the last agree when counted from the start
        if self.tokens[: last + 1] == expanded[: last + 1]:
            return 0
        # The text between the neighbouring placeholders occurs once in the widened prompt
        images = [i for i, token in enumerate(self.tokens) if token in self.placeholders]
        start = max((i + 1 for i in images if i < first), default=0)
        stop = min((i for i in images if i > last), default=len(self.tokens))
        text = self.tokens[start:stop]
        found = [at for at in range(len(expanded)) if expanded[at : at + len(text)] == text]
        return found[0] - start if len(found) == 1 else None


def placeholders(processor: Any) -> frozenset[int]:
    """Collect the token ids that hold an image's or a video's place in the processor's text."""
    tokenizer = processor.tokenizer
    known = [
        getattr(processor, "image_token_id", None),
        getattr(processor, "video_token_id", None),
        getattr(tokenizer, "image_token_id", None),
        getattr(tokenizer, "video_token_id", None),
    ]
    return frozenset(token for token in known if token is not None)


def find_text(prompt: Prompt, wanted: str, occurrence: int | None = None) -> Stretch:
    """Locate a text in a prompt, in characters: whole words, outside the images' placeholders.

    Args:
        prompt: the prompt to search.
        wanted: the text; white space around it does not count.
        occurrence: which of several is meant, from 0; -1 is the last.

    Raises:
        ValueError: it is not there, occurs only inside longer words, or occurs more than once and
            no ``occurrence`` was given.
    """
    wanted = wanted.strip()
    if not wanted:
        raise ValueError("a blank text names no tokens: name some words of the prompt")
    starts = [at.start() for at in re.finditer(f"(?={re.escape(wanted)})", prompt.text)]
    spread = [(start, start + len(wanted)) for start in starts]
    found = [(a, b) for a, b in spread if not any(a < d and b > c for c, d in prompt.images)]
    whole = [where for where in found if not _inside_a_word(prompt.text, where)]
    if not whole:
        problem = "occurs only inside longer words" if found else "is not"
        raise ValueError(f"the text {wanted!r} {problem} in the prompt {prompt.text!r}")
    if occurrence is None and len(whole) > 1:
        raise ValueError(
            f"the text {wanted!r} occurs {len(whole)} times in the prompt {prompt.text!r}: say "
            f"which is meant, ({wanted!r}, 0) for the first or ({wanted!r}, -1) for the last"
        )
    which = occurrence or 0
    if not -len(whole) <= which < len(whole):
        raise ValueError(
            f"the text {wanted!r} occurs {len(whole)} times in the prompt {prompt.text!r}: "
            f"there is no occurrence {which}, they count from 0"
        )
    return whole[which]


def _inside_a_word(text: str, where: Stretch) -> bool:
    """Return whether letters or digits of a script with spaces go on beyond either end."""
    return any(0 < at < len(text) and all(map(_of_a_word, text[at - 1 : at + 1])) for at in where)


def _of_a_word(character: str) -> bool:
    """Return whether it is a letter, a digit or a mark on one, in a script with spaces."""
    written = character == "_" or unicodedata.category(character)[0] in "LNM"
    return written and not SPACELESS.match(character)


def image_id(processor: Any) -> int:
    """Look up the id of image tokens in a processor's ids.

    The tokenizer's attribute counts first: that of Gemma 3's processor is the token before them.
    """
    known = getattr(processor.tokenizer, "image_token_id", None)
    return processor.image_token_id if known is None else known
