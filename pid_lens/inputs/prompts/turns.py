"""Turns: one sample's system turn and question as a prompt, and the characters of its spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pid_lens.inputs.prompts.chat_template import Prompt, Stretch, find_text, locate, render
from pid_lens.inputs.prompts.option_listing import find_listing

Named = bool | str | tuple[str, int]
"""True for what is found by its name; or a text of the prompt, or one of its occurrences."""


@dataclass(frozen=True)
class Turn:
    """One question after its images, rendered by a processor's chat template.

    Attributes:
        processor: its chat template and tokenizer make the prompt.
        question: the text, without white space around it.
        system: the system turn, or None.
        images: number of images before the question.
        options: what may be answered, as text or token ids.
    """

    processor: Any
    question: str
    system: str | None
    images: int
    options: Sequence[Any]

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt, tokenised; the template must have kept the question and the system turn."""
        prompt = Prompt.of(self.processor, self._with_question(self.question))
        if self.system is not None and self.system.strip():
            self.where("system", True)
        return prompt

    def where(self, name: str, said: Named) -> Stretch:
        """Locate a span in the prompt, in characters.

        Raises:
            ValueError: they cannot be found, or could be several.
        """
        if not isinstance(said, bool):
            return find_text(self.prompt, *((said,) if isinstance(said, str) else said))
        if name == "question":
            return locate(self._with_question, self.question, "question")
        if name == "system" and self.system is not None:
            return locate(self._with_system, self.system, "system turn")
        listing = find_listing(self.question, self.options) if name == "options" else None
        if listing is None:
            raise ValueError(
                f"span {name!r} cannot be found in the prompt of {self.question!r} "
                f"(options {list(self.options)}, system turn {self.system!r}): options must come "
                f"after markers such as 'A.', a system turn must be given. Or name its text, "
                f"spans={{{name!r}: text}}"
            )
        start, _ = self.where("question", True)
        return start + listing[0], start + listing[1]

    def _with_question(self, question: str) -> str:
        return render(self.processor, question, self.system, images=self.images)

    def _with_system(self, system: str) -> str:
        return render(self.processor, self.question, system, images=self.images)


def requested_spans(spans: Mapping[str, Any], n: int) -> list[dict[str, Named]]:
    """List the spans that each of n samples is to have, the question first.

    Raises:
        ValueError: a name that every batch has, texts of another number than samples, or a
            sample without one.
    """
    rows: list[dict[str, Named]] = [{"question": True} for _ in range(n)]
    for name, said in spans.items():
        if name in {"image", "question", "answer"} or name.startswith("image_"):
            raise ValueError(f"span {name!r} is found anyway: choose another name for {said!r}")
        texts = [said] * n if _is_one(said) else said
        if not isinstance(texts, Sequence) or len(texts) != n:
            raise ValueError(f"span {name!r} needs one text, or one per sample: {n}; got {said!r}")
        for row, (where, text) in enumerate(zip(rows, texts, strict=True)):
            if not _is_one(text):
                raise ValueError(
                    f"span {name!r} needs a text in sample {row}, or (text, k) for its k-th "
                    f"occurrence; got {text!r}. What is done to an empty span does nothing, so "
                    "samples without it belong in a batch of their own"
                )
            where[name] = text
    return rows


def _is_one(said: Any) -> bool:
    """Return whether it names a span of one sample: True, a text, or (text, occurrence)."""
    occurrence = isinstance(said, tuple) and [type(part) for part in said] == [str, int]
    return said is True or isinstance(said, str) or occurrence
