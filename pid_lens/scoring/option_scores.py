"""OptionScores: log-probabilities of whole options, as `score_options` returns them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

Rule = Literal["whole", "mean", "first"]
RULES = ("whole", "mean", "first")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OptionScores:
    """Log-probability of every whole option after its prompt.

    ::

        log p(option | prompt) = sum_j log p(token_j | prompt, token_1 .. token_{j-1})

    in natural log, full vocabulary, float32, on the CPU; -inf where a sample has fewer options
    than others. Three rules choose an answer: by the probability of the ``"whole"`` option, which
    favours short ones; by its ``"mean"`` per token, which does not; and by that of its
    ``"first"`` token alone, which is what a Lens reads and which cannot distinguish options that
    begin alike.

    Attributes:
        log_probs: log-probability of each whole option, [n, answers].
        first: log-probability of each option's first token, [n, answers].
        tokens: number of tokens of each option, [n, answers]; 0 where a sample has fewer options.
        names: the options of each sample: their texts, or their token ids.
        collisions: for each sample the sets of options that share a first token.
        shared: whether the options ran on the prompt's KV cache. False: the prompt ran again with
            every option, as this model needs it or as the caller asked.
        ids: names of the samples, where the batch had some.

    Example:
        >>> import torch
        >>> names = (("no", "no idea yet"),)
        >>> found = OptionScores(log_probs=torch.tensor([[-2., -3.]]), names=names,
        ...                      tokens=torch.tensor([[1, 3]]), first=torch.tensor([[-2., -2.]]),
        ...                      collisions=(names,), shared=True)
        >>> found
        OptionScores(1 samples, 2 options of 1 to 3 tokens, first tokens collide in 1 samples, keys
        and values of the prompt shared)
        >>> [found.best(rule).item() for rule in ("whole", "mean", "first")]
        [0, 1, -1]
    """

    log_probs: Float[Tensor, "n answers"]
    first: Float[Tensor, "n answers"]
    tokens: Int[Tensor, "n answers"]
    names: tuple[tuple[str, ...], ...]
    collisions: tuple[tuple[tuple[str, ...], ...], ...]
    shared: bool
    ids: tuple[str, ...] | None = None

    @property
    def mean(self) -> Float[Tensor, "n answers"]:
        """Length-normalised log-probability: its mean per token, [n, answers]."""
        return torch.where(self.tokens > 0, self.log_probs / self.tokens.clamp(min=1), -math.inf)

    def best(self, rule: Rule = "mean") -> Int[Tensor, " n"]:
        """Find the index of each sample's most probable option; -1 where several are equally so.

        By the ``"first"`` rule -1, too, where the best first token begins several options.

        Raises:
            ValueError: an unknown rule.
        """
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
        scores = {"whole": self.log_probs, "mean": self.mean, "first": self.first}[rule]
        torn = (scores == scores.amax(-1, keepdim=True)).sum(-1) > 1
        return scores.argmax(-1).masked_fill(torn, -1)

    def __repr__(self) -> str:
        n, answers = self.tokens.shape
        present = self.tokens[self.tokens > 0]
        colliding = sum(map(bool, self.collisions))
        how = "shared" if self.shared else "not shared: the prompt ran again with every option"
        return (
            f"OptionScores({n} samples, {answers} options of {present.min()} to {present.max()} "
            f"tokens, first tokens collide in {colliding} samples, keys and values of the prompt "
            f"{how})"
        )
