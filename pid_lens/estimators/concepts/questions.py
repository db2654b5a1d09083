"""Questions: which of them ask alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor


def question_groups(questions: Sequence[str], k: int = 3, seed: int = 0) -> Int64[Tensor, " n"]:
    """Groups of questions that use the same words: k-means of their TF-IDF vectors.

    The groups do not depend on the order of the questions: group 0 is that of the first question
    in alphabetical order, and so on.

    Source:
        Traceable and explainable multimodal large language models (COLM 2025),
        https://openreview.net/forum?id=pQm66IPmeE, with k = 3.

    Args:
        questions: the texts, [n].
        k: how many groups.
        seed: of k-means.

    Returns:
        The group of each question, 0 to k - 1.

    Raises:
        ImportError: scikit-learn is not installed.
        TypeError: one text instead of many, or something that is no text.
        ValueError: fewer different questions than groups, or questions without words.

    Example:
        >>> question_groups(["what color is it", "how many cats", "which color", "how many"], k=2)
        tensor([1, 0, 1, 0])
    """
    if isinstance(questions, str) or not all(isinstance(text, str) for text in questions):
        raise TypeError("questions must be a sequence of texts, one a sample")
    if not 1 <= k <= len(set(questions)):
        raise ValueError(f"k must be 1 to {len(set(questions))}, as many as questions; got {k}")
    order = sorted(range(len(questions)), key=questions.__getitem__)
    found = _clustered([questions[row] for row in order], k, seed)
    number = {group: i for i, group in enumerate(dict.fromkeys(found))}
    groups = torch.empty(len(questions), dtype=torch.long)
    groups[order] = torch.tensor([number[group] for group in found])
    return groups


def _clustered(questions: list[str], k: int, seed: int) -> list[int]:
    try:
        from sklearn.cluster import KMeans
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError(
            "question_groups needs scikit-learn: pip install scikit-learn. Or group the questions "
            "yourself: any label a sample will do"
        ) from error
    vectors = TfidfVectorizer().fit_transform(questions)
    return KMeans(k, n_init=10, random_state=seed).fit_predict(vectors).tolist()
