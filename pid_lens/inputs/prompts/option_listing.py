"""Option listing: the characters of a question that list its options, behind markers (``A.``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

START = r"(?:^|(?<=\s))"
LISTING_LABEL = r"\(?{}[.):]\s+(?=\S)"
"""How an option's own letter opens its line: ``A.``, ``A)``, ``(A)``, ``A:``."""
MARKED = r"(?:\(?(?:[A-Za-z]|\d{{1,2}})[.):]|[-*•])\s+{}(?!\w)"
"""How any letter, number or bullet opens the line of an option's text."""


def find_listing(question: str, options: Sequence[Any]) -> tuple[int, int] | None:
    """Find the characters of a question that list its options; None where it lists none.

    Options count as listed where each of them occurs once after a marker, and all in their
    order: as the marker itself (``A. a cat`` for the option "A"; the listing then ends
    with the last option's line) or right behind one (``A. a cat`` or ``- a cat`` for the option
    "a cat"). Markers belong to the listing.

    Args:
        question: the text.
        options: what may be answered; only text can be found.

    Example:
        >>> question = "What is it? A. a cat B. a dog"
        >>> said = ["A", "B"], ["a cat", "a dog"]
        >>> [question[slice(*find_listing(question, options))] for options in said]
        ['A. a cat B. a dog', 'A. a cat B. a dog']
        >>> find_listing("Is it a cat or a dog?", ["a cat", "a dog"]) is None
        True
    """
    if len(options) < 2 or not all(
        isinstance(option, str) and option.strip() for option in options
    ):
        return None
    labels = _in_order(question, options, LISTING_LABEL)
    if labels:
        line = question.find("\n", labels[-1][1])
        end = len(question) if line < 0 else line
        return labels[0][0], len(question[:end].rstrip())
    texts = _in_order(question, options, MARKED)
    return (texts[0][0], texts[-1][1]) if texts else None


def _in_order(question: str, options: Sequence[str], pattern: str) -> list[tuple[int, int]]:
    """Locate each option behind its marker; return [] unless each occurs once, in order."""
    found = [
        [match.span() for match in re.finditer(_of(pattern, option), question, re.MULTILINE)]
        for option in options
    ]
    if any(len(spans) != 1 for spans in found):
        return []
    spans = [one for (one,) in found]
    ordered = all(a[1] <= b[0] for a, b in pairwise(spans))
    return spans if ordered else []


def _of(pattern: str, option: str) -> str:
    return START + pattern.format(re.escape(option.strip()))
