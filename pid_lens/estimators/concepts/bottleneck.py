"""Bottlenecks: networks from states to concepts, each asked about samples it never saw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from pid_lens.estimators.concepts.recipe import BottleneckRecipe

PROGRESS = 1e-4
"""Nats by which judges must see the loss fall to call it progress."""
HOPELESS = 100.0
"""Nats: no bottleneck that learns has such a loss."""


@dataclass(frozen=True)
class BottleneckRows:
    """What bottlenecks learn from and are asked about, one row a sample (and layer)."""

    states: Float[Tensor, "rows width"]
    concepts: Float[Tensor, "rows concepts"]
    """Probabilities."""
    groups: Int64[Tensor, " rows"]
    """From 0; outputs start at the concepts' mean in the row's group."""
    folds: Int64[Tensor, " rows"]
    """From 0; rows that belong together share one."""


class Answers(NamedTuple):
    """What bottlenecks say of samples that they never saw."""

    log_probs: Float64[Tensor, "rows concepts"]
    finished: bool
    """Whether training ended because judges saw no more progress, or without judges."""


def answer_held_out(rows: BottleneckRows, recipe: BottleneckRecipe, seed: int) -> Answers:
    """The log-probability of each concept given a state, by bottlenecks that never saw the row.

    For every pair of folds one bottleneck is trained on the others. Each of the two is the
    other's judge: a bottleneck answers for one fold as it was in the epoch in which it did best
    on the other. So a row's answer is the mean of ``folds`` - 1 bottlenecks. Without judges
    (``patience`` None) one bottleneck a fold is trained to the end.

    Before the first step every output is the concepts' mean over the rows learned from.

    Args:
        rows: states (standardise them), concepts, groups and folds.
        recipe: how to train.
        seed: of weights, batches and dropout.

    Raises:
        ValueError: the training diverged.
    """
    generator = torch.Generator(rows.states.device).manual_seed(seed)
    committee = Committee(rows, recipe, generator)
    judged = recipe.patience is not None
    kept, finished = (_train_judged if judged else _train_unjudged)(committee, recipe)
    total = rows.concepts.new_zeros(rows.concepts.shape, dtype=torch.float64)
    for asked, weights in zip(committee.left_out.flip(1).T, kept, strict=True):
        for fold, models in _members_by_fold(asked):
            at = rows.folds == fold
            total[at] += committee.log_probs(models, at, weights).double().exp().sum(0)
    found = (total / total.sum(-1, keepdim=True)).log()
    _require_converged(bool(found.isfinite().all()), recipe)
    return Answers(found, finished)


def _train_judged(
    committee: Committee, recipe: BottleneckRecipe
) -> tuple[list[list[Tensor]], bool]:
    """Each member as each of its judges liked it best, by the judge's place."""
    assert recipe.patience is not None
    best = committee.losses()
    kept = [[w.detach().clone() for w in committee.weights] for _ in range(2)]
    least, waited = float(best.mean()), 0
    for _ in range(recipe.epochs):
        committee.learn()
        losses = committee.losses()
        for place, better in enumerate((losses < best).T):
            _keep(kept[place], committee.weights, better)
        best = torch.minimum(best, losses)
        reached = float(losses.mean())
        _require_converged(reached < HOPELESS, recipe)
        waited = 0 if reached < least - PROGRESS else waited + 1
        least = least if waited else reached
        if waited == recipe.patience:
            return kept, True
    return kept, False


def _require_converged(sound: bool, recipe: BottleneckRecipe) -> None:
    if not sound:
        raise ValueError(
            "the training of a bottleneck diverged: lower its rate, BottleneckRecipe(rate=...); "
            f"it was {recipe.rate}"
        )


def _train_unjudged(
    committee: Committee, recipe: BottleneckRecipe
) -> tuple[list[list[Tensor]], bool]:
    for _ in range(recipe.epochs):
        committee.learn()
    return [committee.weights], True


def _keep(kept: list[Tensor], weights: list[Tensor], better: Tensor) -> None:
    for old, new in zip(kept, weights, strict=True):
        old[better] = new.detach()[better]


def _members_by_fold(folds: Int64[Tensor, " models"]) -> Iterator[tuple[int, Tensor]]:
    """Each fold with the models that have it."""
    for fold in folds.unique().tolist():
        yield fold, (folds == fold).nonzero().flatten()


class Committee:
    """Bottlenecks side by side, each of which learns from all folds but one or two."""

    def __init__(
        self, rows: BottleneckRows, recipe: BottleneckRecipe, generator: torch.Generator
    ) -> None:
        """Starts every bottleneck at the mean of what it will learn from."""
        self.rows, self.recipe, self.generator = rows, recipe, generator
        out = 1 if recipe.patience is None else 2
        pairs = list(combinations(range(recipe.folds), out))
        self.left_out = torch.tensor(pairs, device=rows.folds.device)
        learned = (rows.folds[:, None, None] != self.left_out).all(-1).T
        self.learned = [of.nonzero().flatten() for of in learned]
        self.prior = torch.stack([_prior(rows, of) for of in self.learned])
        self.weights = self._start_weights()
        self.adam = torch.optim.Adam(self.weights, lr=recipe.rate)

    def _start_weights(self) -> list[Tensor]:
        """Weights and biases in turn, [models, in, out] and [models, 1, out]; the last are 0."""
        rows, models = self.rows, len(self.learned)
        sizes = (rows.states.shape[1], *self.recipe.widths, rows.concepts.shape[1])
        weights = []
        for before, after in pairwise(sizes):
            weight = torch.empty(models, before, after, device=rows.states.device)
            weight.normal_(0, math.sqrt(2 / before), generator=self.generator)
            weights += [weight, weight.new_zeros(models, 1, after)]
        weights[-2].zero_()
        return [weight.requires_grad_() for weight in weights]

    def learn(self) -> None:
        """One epoch: as many rows as the member with the fewest has, drawn by each for itself."""
        count = min(map(len, self.learned))
        drawn = [
            of[torch.randperm(len(of), generator=self.generator, device=of.device)[:count]]
            for of in self.learned
        ]
        for at in torch.stack(drawn).tensor_split(math.ceil(count / self.recipe.batch), 1):
            self._improve(at)

    def _improve(self, at: Int64[Tensor, "models batch"]) -> None:
        rows, member = self.rows, torch.arange(len(at), device=at.device)[:, None]
        logits = self._logits(rows.states[at], self.weights, training=True)
        log_q = (logits + self.prior[member, rows.groups[at]]).log_softmax(-1)
        self.adam.zero_grad()
        _cross_entropy(rows.concepts[at], log_q).sum().backward()
        self.adam.step()

    @torch.no_grad()
    def losses(self) -> Float[Tensor, "models judges"]:
        """The cross-entropy of each member on each fold that it left out."""
        found = torch.empty(self.left_out.shape, device=self.rows.states.device)
        for place, folds in enumerate(self.left_out.T):
            for fold, models in _members_by_fold(folds):
                at = self.rows.folds == fold
                log_q = self.log_probs(models, at, self.weights)
                found[models, place] = _cross_entropy(self.rows.concepts[at], log_q)
        return found

    @torch.no_grad()
    def log_probs(
        self, models: Tensor, at: Tensor, weights: list[Tensor]
    ) -> Float[Tensor, "models rows concepts"]:
        """What some members say of some rows."""
        logits = self._logits(self.rows.states[at], [w[models] for w in weights])
        return (logits + self.prior[models][:, self.rows.groups[at]]).log_softmax(-1)

    def _logits(
        self, states: Tensor, weights: list[Tensor], *, training: bool = False
    ) -> Float[Tensor, "models rows concepts"]:
        x = states
        for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            x = F.relu(x @ weight + bias)
            if training and self.recipe.dropout:
                x = x * self._mask(x.shape[1:])
        return x @ weights[-2] + weights[-1]

    def _mask(self, shape: torch.Size) -> Float[Tensor, "rows width"]:
        """Which units a step leaves out, the same in all members; the others make up for them."""
        kept = 1 - self.recipe.dropout
        mask = torch.empty(shape, device=self.rows.states.device)
        return mask.bernoulli_(kept, generator=self.generator) / kept


def _prior(rows: BottleneckRows, learned: Tensor) -> Float[Tensor, "groups concepts"]:
    """The log of each group's mean concepts, one sample of all groups' added to each."""
    concepts, groups = rows.concepts[learned], rows.groups[learned]
    overall = (concepts.sum(0) + 1 / concepts.shape[1]) / (len(concepts) + 1)
    sums = overall.repeat(int(rows.groups.max()) + 1, 1).index_add_(0, groups, concepts)
    return (sums / sums.sum(-1, keepdim=True)).log()


def _cross_entropy(concepts: Tensor, log_q: Tensor) -> Float[Tensor, " models"]:
    return -(concepts * log_q).sum(-1).mean(-1)
