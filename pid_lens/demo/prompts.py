"""Every prompt of every task as tokens, with the answer distribution to train on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pid_lens.demo.processor import DIGIT_WORDS, IMAGE_TOKENS, processor
from pid_lens.demo.tasks import ALL_TASKS, COINS, Task

FULL, VISION, LANGUAGE = range(3)  # not ablated: both, the image, the question
DIGITS = range(len(DIGIT_WORDS))


@dataclass(frozen=True)
class Prompts:
    """Rows of tokens, padded on the left; as a table, one row for each task, digit and coin.

    Attributes:
        tokens: token ids, [n, tokens].
        padding: mask of the padding tokens, [n, tokens].
        image: mask of the image's tokens, [n, tokens].
        question: mask of the question's tokens, without the template around them, [n, tokens].
        answers: the answer's token id if the image showed each of the ten digits, [n, digits].
        answer: the answer's token id, [n].
        uniform: the same probability for each of the task's options, [n, vocabulary].
        vision_tells: whether the image alone determines the answer, [n].
        language_tells: whether the question alone determines the answer, [n].
    """

    tokens: Int[Tensor, "n tokens"]
    padding: Bool[Tensor, "n tokens"]
    image: Bool[Tensor, "n tokens"]
    question: Bool[Tensor, "n tokens"]
    answers: Int[Tensor, "n digits"]
    answer: Int[Tensor, " n"]
    uniform: Float[Tensor, "n vocabulary"]
    vision_tells: Bool[Tensor, " n"]
    language_tells: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Int[Tensor, " m"]) -> Prompts:
        """Select rows by their numbers."""
        return Prompts(**{name: value[rows] for name, value in vars(self).items()})

    def targets(
        self, seen: Int[Tensor, " n"], cut: Bool[Tensor, " n"], digit: Float[Tensor, "n digits"]
    ) -> Float[Tensor, "n vocabulary"]:
        """Compute p(answer | seen): the sum over digits d of p(d | image) p(answer | d, seen).

        Args:
            seen: what is not ablated, `FULL`, `VISION` or `LANGUAGE`.
            cut: rows where the image does not reach the question, and so has no information
                about the answer.
            digit: p(digit | image).
        """
        # By the image: sum_d p(d | image) [answers_d = word]; by the question: the answer itself
        words = self.uniform.shape[-1]
        by_image = (digit[..., None] * F.one_hot(self.answers, words)).sum(1)
        by_question = F.one_hot(self.answer, words).to(digit.dtype)
        reads_question = self.language_tells & (seen != VISION)
        reads_image = ~cut & ((seen == FULL) | (seen == VISION) & self.vision_tells)
        # The question determines the answer, else the image does, else the options are uniform
        target = torch.where(reads_image[:, None], by_image, self.uniform)
        return torch.where(reads_question[:, None], by_question, target)


def row(
    task: int | Tensor, digit: Int[Tensor, " n"], coin: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Compute the row of a task (its rank), digit and coin in the table of `prompts`.

    Example:
        >>> row(1, torch.tensor([3]), torch.tensor([1]))
        tensor([27])
    """
    return (task * len(DIGITS) + digit) * len(COINS) + coin


def prompts() -> Prompts:
    """Build the table of all prompts: 5 tasks x 10 digits x 2 coins.

    Example:
        >>> prompts().tokens.shape
        torch.Size([100, 30])
    """
    table = [(task, d, c) for task in ALL_TASKS.values() for d in DIGITS for c in COINS]
    reader = processor()
    words = reader.tokenizer
    texts = [
        reader.apply_chat_template(task.messages(d, c), add_generation_prompt=True)
        for task, d, c in table
    ]
    pictures = [text.replace("<image>", "<image> " * IMAGE_TOKENS) for text in texts]
    tokens = words(pictures, padding=True, return_tensors="pt")
    lengths = torch.tensor([len(words.tokenize(task.question(d, c))) for task, d, c in table])
    place = torch.arange(tokens.input_ids.shape[1] - 1, -1, -1)  # tokens still to come
    options = torch.stack([_options(task, words.get_vocab()) for task, _, _ in table])
    answers = [[_answer(task, k, c, words.get_vocab()) for k in DIGITS] for task, _, c in table]
    return Prompts(
        tokens=tokens.input_ids,
        padding=tokens.attention_mask == 0,
        image=tokens.input_ids == reader.image_token_id,
        question=(place >= 1) & (place <= lengths[:, None]),
        answers=torch.tensor(answers),
        answer=torch.tensor([_answer(task, d, c, words.get_vocab()) for task, d, c in table]),
        uniform=options / options.sum(1, keepdim=True),
        vision_tells=torch.tensor(["vision" in task.told_by for task, _, _ in table]),
        language_tells=torch.tensor(["language" in task.told_by for task, _, _ in table]),
    )


def _answer(task: Task, digit: int, coin: int, vocabulary: dict[str, int]) -> int:
    return vocabulary[task.options[task.answer(digit, coin)]]


def _options(task: Task, vocabulary: dict[str, int]) -> Float[Tensor, " vocabulary"]:
    options = torch.zeros(len(vocabulary))
    options[[vocabulary[word] for word in task.options]] = 1.0
    return options
