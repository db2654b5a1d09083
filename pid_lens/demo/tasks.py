"""The tasks: a question about a digit, its answer, and which modality alone determines it.

A prompt reads `<bos> SYSTEM: {task} USER: <image> {question} ASSISTANT:`. The task's name is
in the system turn, which no condition ablates; a coin decides what the question says.

| task | question | answer | known decomposition |
|---|---|---|---|
| vision | is the digit even ? | parity of the digit | unique to vision, 1 bit |
| language | the caption says even . | what the caption says | unique to language, 1 bit |
| redundant | the caption says even . is it even ? (always true) | parity | redundancy, 1 bit |
| synergy | answer opposite . is it even ? (or truthfully) | parity, turned by the word | synergy |
| caption | what digit ? | the digit's word | unique to vision, log2(10) bits |

The four tasks of two answers, A (even, yes) and B, are in `TASKS`; with captions LLaVA aligns
its projector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pid_lens.demo.processor import DIGIT_WORDS

COINS = (0, 1)


def parity(even: bool) -> str:
    """Return the word for a parity.

    Example:
        >>> parity(True)
        'even'
    """
    return "even" if even else "odd"


@dataclass(frozen=True)
class Task:
    """A question about a digit and its answer; digits are 0 to 9 and coins 0 or 1.

    Attributes:
        name: text of the system turn.
        options: the words that an answer may be.
        told_by: which of "vision" and "language" determines the answer when the other modality
            is ablated.
        question: the question's text for a digit and a coin.
        answer: the right option's index for a digit and a coin.

    Example:
        >>> from pid_lens.demo import task
        >>> found = task("synergy")
        >>> found.question(7, 1), found.options[found.answer(7, 1)]
        ('answer opposite . is it even ?', 'A')
    """

    name: str
    options: tuple[str, ...]
    told_by: frozenset[str]
    question: Callable[[int, int], str] = field(repr=False)
    answer: Callable[[int, int], int] = field(repr=False)

    def messages(self, digit: int, coin: int) -> list[dict]:
        """Write the conversation to render with the processor's chat template.

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
    """Look up the task of that name.

    Raises:
        ValueError: an unknown task.

    Example:
        >>> task("vision").answer(7, 0)
        1
    """
    if name not in ALL_TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(ALL_TASKS)}")
    return ALL_TASKS[name]
