"""Options: the token ids of the answers on offer, by which logits are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

Choice = str | int
ABSENT = -1
"""Token id of an option that a sample does not have."""


def first_tokens(choices: Sequence[Choice] | Tensor, processor: Any = None) -> list[int]:
    """Return the token id of each option: itself, or the first token of its text.

    The text is tokenised as it stands, without special tokens. What to write where the answer
    follows a space depends on the tokenizer: ``" A"`` where it keeps the space in the word and
    adds none (Qwen, Llama 3, Gemma), and ``"A"`` where it puts a space before every text by
    itself (Llama 2, Mistral), and where ``" A"`` may begin with a token of the space alone.
    ``tokenizer.tokenize("A")`` shows which.

    Raises:
        TypeError: choices is one string, or an option is neither text nor a token id.
        ValueError: fewer than two options, text without a processor, text without a token, an
            unknown word, or two options that share their first token.

    Example:
        >>> first_tokens([7, 9])
        [7, 9]
    """
    if isinstance(choices, str):
        raise TypeError(f"choices must be a list of options; got the one string {choices!r}")
    choices = list(as_lists(choices))
    tokens = [_first_token(choice, processor) for choice in choices]
    present = [token for token in tokens if token != ABSENT]
    if len(present) < 2:
        raise ValueError(f"a question needs at least two options; got {choices}")
    if len(set(present)) < len(present):
        clash = [c for c, t in zip(choices, tokens, strict=True) if present.count(t) > 1]
        raise ValueError(
            f"options {clash} share a first token, so the model's answer cannot tell them apart: "
            "use option letters (A, B, ...) or options that begin differently, or score whole "
            "options with pid_lens.scoring.score_options"
        )
    return tokens


def _first_token(choice: Choice, processor: Any) -> int:
    if not isinstance(choice, str):
        if not isinstance(choice, int):
            raise TypeError(f"an option must be a text or a token id; got {choice!r}")
        if int(choice) < ABSENT:
            raise ValueError(f"option {choice!r} is not a token id: they begin at 0, -1 is absent")
        return int(choice)
    return text_tokens(choice, processor, known=1)[0]


def text_tokens(text: str, processor: Any, known: int | None = None) -> list[int]:
    """Tokenise a text without special tokens; the first ``known``, or all, must not be unknown.

    Raises:
        ValueError: no tokenizer, no token, or an unknown one.

    Example:
        >>> import pid_lens
        >>> _, processor = pid_lens.demo.load()
        >>> ids = text_tokens("is the digit even ?", processor)
        >>> processor.tokenizer.decode(ids)
        'is the digit even ?'
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is None:
        raise ValueError(
            f"option {text!r} is text: hand over the processor too, or token ids as choices"
        )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids[:known]):
        raise ValueError(f"option {text!r} has no token in this model's vocabulary")
    return ids


def option_table(
    options: Sequence[Any] | Tensor, n: int, processor: Any = None
) -> Int[Tensor, "n answers"]:
    """Tabulate the token ids of every sample's options, [n, K]; -1 where a sample has fewer.

    Args:
        options: one list for all samples, or one per sample.
        n: number of samples.
        processor: needed for options that are text.

    Raises:
        TypeError: ``options`` is one string.
        ValueError: as `first_tokens`, or another number of lists than samples.

    Example:
        >>> option_table([[3, 4], [3, 4, 5]], n=2)
        tensor([[ 3,  4, -1],
                [ 3,  4,  5]])
    """
    if isinstance(options, str):
        raise TypeError(f"options must be a list of options; got the one string {options!r}")
    given = list(as_lists(options))
    each = bool(given) and all(isinstance(row, list) for row in given)
    if not each:
        return torch.tensor(first_tokens(given, processor)).expand(n, -1).clone()
    rows = [torch.tensor(first_tokens(row, processor)) for row in as_option_rows(given, n)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=ABSENT)


def as_lists(options: Any) -> Any:
    """Convert every tensor, array or sequence in the options to a list of plain numbers and texts.

    Example:
        >>> import torch
        >>> as_lists((torch.tensor([7, 9]), "A"))
        [[7, 9], 'A']
    """
    if hasattr(options, "tolist"):
        options = options.tolist()
    if isinstance(options, str) or not isinstance(options, Sequence):
        return options
    return [as_lists(one) for one in options]


def as_option_rows(rows: list[Any], n: int) -> list[Any]:
    """Repeat a single list of options for all n samples; keep one list per sample.

    Raises:
        ValueError: another number of lists than samples.

    Example:
        >>> as_option_rows([[3, 4]], n=2)
        [[3, 4], [3, 4]]
    """
    if len(rows) not in (1, n):
        raise ValueError(f"options must be one list, or one per sample: {n}; got {len(rows)}")
    return rows * n if len(rows) == 1 else rows
