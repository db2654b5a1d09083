"""Tokens of answer options, of any number of tokens each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pid_lens.inputs import as_lists, as_option_rows, text_tokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor


class Option(NamedTuple):
    """An option: one of the answers on offer.

    Attributes:
        name: its text, or its token ids as text.
        tokens: its token ids.
    """

    name: str
    tokens: tuple[int, ...]


Options = tuple[tuple[Option, ...], ...]
"""The options of each sample."""


def tokenise_options(options: Sequence[Any], n: int, processor: Any = None) -> Options:
    """Tokenise the options of every sample.

    An option is a text, tokenised as it stands without special tokens, or a list of token ids;
    tensors and arrays are accepted in place of lists.

    Args:
        options: one list of options for all samples, or one such list per sample.
        n: number of samples.
        processor: needed for options that are text.

    Raises:
        TypeError: options is one string, or an option is neither text nor a list of ids.
        ValueError: no samples, no options, another number of lists than samples, an option
            without tokens or with a word that the tokenizer lacks, or two options of the same
            tokens.

    Example:
        >>> tokenise_options([[7], [7, 9]], n=1)
        ((Option(name='[7]', tokens=(7,)), Option(name='[7, 9]', tokens=(7, 9))),)
    """
    given = as_lists(options)
    if not isinstance(given, list):
        raise TypeError(f"options must be a list of texts or of token ids; got {options!r}")
    if n < 1:
        raise ValueError("no samples: the batch is empty, so there is nothing to score")
    each = bool(given) and all(isinstance(row, list) and _is_row(row) for row in given)
    rows = as_option_rows(given if each else [given], n)
    return tuple(_as_distinct_options(row, processor) for row in rows)


def stack_tokens(
    options: Options,
) -> tuple[Int[Tensor, "n answers steps"], Bool[Tensor, "n answers steps"]]:
    """Stack token ids, 0 where there is none, with the mask of those present.

    Example:
        >>> stack_tokens(tokenise_options([[7], [7, 9]], n=1))[0]
        tensor([[[7, 0],
                 [7, 9]]])
    """
    answers = max(map(len, options))
    steps = max(len(option.tokens) for row in options for option in row)
    tokens = torch.full((len(options), answers, steps), -1)
    for at, row in enumerate(options):
        for k, option in enumerate(row):
            tokens[at, k, : len(option.tokens)] = torch.tensor(option.tokens)
    return tokens.clamp(min=0), tokens >= 0


def collisions(options: Options) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Find for each sample the sets of options that share a first token, by name.

    Example:
        >>> collisions(tokenise_options([[7], [8], [7, 9]], n=1))
        ((('[7]', '[7, 9]'),),)
    """
    found = []
    for row in options:
        groups: dict[int, list[str]] = {}
        for option in row:
            groups.setdefault(option.tokens[0], []).append(option.name)
        found.append(tuple(tuple(group) for group in groups.values() if len(group) > 1))
    return tuple(found)


def _is_row(row: list[Any]) -> bool:
    """Return whether this is a list of options, and not one option."""
    return not all(isinstance(one, int) for one in row)


def _as_distinct_options(row: list[Any], processor: Any) -> tuple[Option, ...]:
    found = tuple(_as_option(option, processor) for option in row)
    if not found:
        raise ValueError("no options: a sample needs at least one")
    tokens = [option.tokens for option in found]
    twice = [option.name for option in found if tokens.count(option.tokens) > 1]
    if twice:
        raise ValueError(f"options {twice} are the same tokens, so nothing can tell them apart")
    return found


def _as_option(option: Any, processor: Any) -> Option:
    if isinstance(option, str):
        return Option(option, tuple(text_tokens(option, processor)))
    if not isinstance(option, list) or not all(isinstance(one, int) for one in option):
        raise TypeError(
            f"an option must be a text or a list of token ids, [7] for a single one; got "
            f"{option!r}"
        )
    if not option or min(option) < 0:
        raise ValueError(f"option {option} must be token ids, at least one, from 0 on")
    return Option(str(option), tuple(option))
