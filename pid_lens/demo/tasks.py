"""The tasks: what is asked about a digit, what the answer is, and which modality alone tells it.

A prompt reads `<bos> SYSTEM: {task} USER: <image> {question} ASSISTANT:`. The task's name stands
in the system turn, which no condition hides; a coin decides what the question says.

| task | question | answer | known decomposition |
|---|---|---|---|
| vision | is the digit even ? | parity of the digit | unique to vision, 1 bit |
| language | the caption says even . | what the caption says | unique to language, 1 bit |
| redundant | the caption says even . is it even ? (always true) | parity | redundancy, 1 bit |
| synergy | answer opposite . is it even ? (or truthfully) | parity, turned by the word | synergy |
| caption | what digit ? | the digit's word | unique to vision, log2(10) bits |

The four of two answers, A (even, yes) and B, are in `TASKS`; the caption is what LLaVA aligns its
projector with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pid_lens.demo.processor import DIGIT_WORDS

COINS = (0, 1)


def parity(even: bool) -> str:
    """The word for a parity.

    Example:
        >>> parity(True)
        'even'
    """
    return "even" if even else "odd"


@dataclass(frozen=True)
class Task:
    """What is asked about a digit; digits are 0 to 9 and coins 0 or 1."""

    name: str
    """What stands in the system turn."""
    options: tuple[str, ...]
    """The words that an answer may be."""
    told_by: frozenset[str]
    """Which of "vision" and "language" tells the answer when the other is hidden."""
    question: Callable[[int, int], str] = field(repr=False)
    """The question's text for a digit and a coin."""
    answer: Callable[[int, int], int] = field(repr=False)
    """The right option's index for a digit and a coin."""

    def messages(self, digit: int, coin: int) -> list[dict]:
        """The conversation to render with the processor's chat template.

        Example:
            >>> ALL_TASKS["synergy"].messages(7, 1)[1]["content"][1]["text"]
            'answer opposite . is it even ?'
        """
        question = {"type": "text", "text": self.question(digit, coin)}
        return [
            {"role": "system", "content": [{"type": "text", "text": self.name}]},
            {"role": "user", "content": [{"type": "image"}, question]},
        ]


_TASKS = (
    Task(
        name="vision",
        options=("A", "B"),
        told_by=frozenset({"vision"}),
        question=lambda digit, coin: "is the digit even ?",
        answer=lambda digit, coin: digit % 2,
    ),
    Task(
        name="language",
        options=("A", "B"),
        told_by=frozenset({"language"}),
        question=lambda digit, coin: f"the caption says {parity(coin == 0)} .",
        answer=lambda digit, coin: coin,
    ),
    Task(
        name="redundant",
        options=("A", "B"),
        told_by=frozenset({"vision", "language"}),
        question=lambda digit, coin: f"the caption says {parity(digit % 2 == 0)} . is it even ?",
        answer=lambda digit, coin: digit % 2,
    ),
    Task(
        name="synergy",
        options=("A", "B"),
        told_by=frozenset(),
        question=lambda digit, coin: f"answer {('truthfully', 'opposite')[coin]} . is it even ?",
        answer=lambda digit, coin: digit % 2 ^ coin,
    ),
    Task(
        name="caption",
        options=DIGIT_WORDS,
        told_by=frozenset({"vision"}),
        question=lambda digit, coin: "what digit ?",
        answer=lambda digit, coin: digit,
    ),
)
ALL_TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
TASKS: tuple[str, ...] = ("vision", "language", "redundant", "synergy")


def task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> task("vision").answer(7, 0)
        1
    """
    if name not in ALL_TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(ALL_TASKS)}")
    return ALL_TASKS[name]
