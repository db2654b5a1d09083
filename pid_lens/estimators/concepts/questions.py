"""Question groups: k-means clustering of TF-IDF vectors."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from numbers import Integral

import torch
from jaxtyping import Int64
from torch import Tensor


def question_groups(questions: Sequence[str], k: int = 3, seed: int = 0) -> Int64[Tensor, " n"]:
    """Group questions that use the same words, by k-means of their TF-IDF vectors.

    The groups do not depend on the order of the questions: group 0 is that of the first question
    in alphabetical order, and so on.

    Source:
        Traceable and explainable multimodal large language models (COLM 2025),
        https://openreview.net/forum?id=pQm66IPmeE, with k = 3.

    Args:
        questions: the texts, [n].
        k: number of groups.
        seed: of k-means.

    Returns:
        The group of each question, 0 to k - 1.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError: one text instead of a sequence, or an element that is not a text.
        ValueError: fewer questions that differ in their words than groups, or one without a
            word of two letters.

    Example:
        >>> question_groups(["what color is it", "how many cats", "which color", "how many"], k=2)
        tensor([1, 0, 1, 0])
    """
    if isinstance(questions, str) or not all(isinstance(text, str) for text in questions):
        raise TypeError("questions must be a sequence of texts, one per sample")
    mute = [text for text in questions if not _words(text)]
    if mute:
        raise ValueError(
            f"{len(mute)} of {len(questions)} questions have no word of two letters, first "
            f"{mute[0]!r}: leave them out, or group the questions yourself"
        )
    most = len({_word_shares(text) for text in questions})
    if not (isinstance(k, Integral) and 1 <= k <= most):
        raise ValueError(
            f"k must be 1 to {most}, as many as questions that differ in the words they use; "
            f"got {k}"
        )
    # k-means on the sorted questions; groups are numbered by first appearance in that order
    order = sorted(range(len(questions)), key=questions.__getitem__)
    found = _run_kmeans([questions[row] for row in order], k, seed)
    number = {group: i for i, group in enumerate(dict.fromkeys(found))}
    groups = torch.empty(len(questions), dtype=torch.long)
    groups[order] = torch.tensor([number[group] for group in found])
    return groups


def _words(question: str) -> list[str]:
    """Find the words of two letters or more, in lower case."""
    return re.findall(r"\b\w\w+\b", question.lower())


def _word_shares(question: str) -> frozenset[tuple[str, int]]:
    """Reduce a question to words and relative counts: TF-IDF vectors are equal where these are."""
    counts = Counter(_words(question))
    common = math.gcd(*counts.values())
    return frozenset((word, count // common) for word, count in counts.items())


def _run_kmeans(questions: list[str], k: int, seed: int) -> list[int]:
    try:
        from sklearn.cluster import KMeans
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError(
            "question_groups needs scikit-learn: pip install scikit-learn, or the extra "
            "pid_lens[concepts]. Or group the questions yourself: any one value per sample will do"
        ) from error
    vectors = TfidfVectorizer(analyzer=_words).fit_transform(questions)
    return KMeans(k, n_init=10, random_state=seed).fit_predict(vectors).tolist()
