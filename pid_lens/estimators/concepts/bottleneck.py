"""Bottlenecks: networks from hidden states to concepts, evaluated on held-out folds alone."""

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
"""Early stopping: nats by which the validation loss must fall to count as progress."""
HOPELESS = 100.0
"""Nats: a validation loss above this means that the training diverged."""


@dataclass(frozen=True)
class BottleneckRows:
    """Inputs and targets of bottlenecks, one row per sample (and layer).

    Attributes:
        states: hidden states, standardised, [rows, width].
        concepts: target probabilities, [rows, concepts].
        groups: question group of each row, from 0, [rows]; outputs start at the group's mean
            concepts.
        folds: fold of each row, from 0, [rows]; dependent rows share one.
    """

    states: Float[Tensor, "rows width"]
    concepts: Float[Tensor, "rows concepts"]
    groups: Int64[Tensor, " rows"]
    folds: Int64[Tensor, " rows"]


class Answers(NamedTuple):
    """Held-out predictions of bottlenecks.

    Attributes:
        log_probs: natural log of q(concept | state), [rows, concepts].
        finished: whether early stopping ended the training, or there was none to end it.
    """

    log_probs: Float64[Tensor, "rows concepts"]
    finished: bool


def answer_held_out(rows: BottleneckRows, recipe: BottleneckRecipe, seed: int) -> Answers:
    """Predict each row's concepts, log q(c | state), by bottlenecks not trained on its fold.

    For every pair of folds one bottleneck is trained on the other folds. Each of the two is the
    validation fold (judge) of the other: a bottleneck predicts the one with the weights of the
    epoch in which its loss on the other was least. So a row's prediction is the mean of
    ``folds`` - 1 bottlenecks. Without judges (``patience`` None) one bottleneck per fold is
    trained for all epochs.

    Before the first step every output is the mean of the concepts over the training rows.

    Args:
        rows: standardised states, concepts, groups and folds.
        recipe: how to train.
        seed: of weights, batches and dropout.

    Raises:
        ValueError: the training diverged.
    """
    generator = torch.Generator(rows.states.device).manual_seed(seed)
    committee = Committee(rows, recipe, generator)
    judged = recipe.patience is not None
    kept, finished = (_train_judged if judged else _train_unjudged)(committee, recipe)
    # Cross-fitting: with the weights that fold a judged best, predict fold b, and conversely;
    # average the predicted probabilities over members (linear opinion pool)
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
    """Train with early stopping; keep each member's best weights by each of its judges."""
    assert recipe.patience is not None
    best = committee.losses()
    kept = [[w.detach().clone() for w in committee.weights] for _ in range(2)]
    least, waited = float(best.mean()), 0
    for _ in range(recipe.epochs):
        committee.learn()
        # Checkpoint each member wherever a judge's loss is the least so far
        losses = committee.losses()
        for place, better in enumerate((losses < best).T):
            _keep(kept[place], committee.weights, better)
        best = torch.minimum(best, losses)
        # Early stopping on the mean validation loss of the whole committee
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
    """Yield each fold with the models that left it out."""
    for fold in folds.unique().tolist():
        yield fold, (folds == fold).nonzero().flatten()


class Committee:
    """An ensemble of bottlenecks, trained at once, each on all folds but one or two."""

    def __init__(
        self, rows: BottleneckRows, recipe: BottleneckRecipe, generator: torch.Generator
    ) -> None:
        """Start every bottleneck at the mean concepts of its training rows."""
        self.rows, self.recipe, self.generator = rows, recipe, generator
        # One member for each fold, or pair of folds, that is left out
        out = 1 if recipe.patience is None else 2
        pairs = list(combinations(range(recipe.folds), out))
        self.left_out = torch.tensor(pairs, device=rows.folds.device)
        learned = (rows.folds[:, None, None] != self.left_out).all(-1).T
        self.learned = [of.nonzero().flatten() for of in learned]
        # Log marginals, added to the logits: log q = log_softmax(logits + log m_group)
        self.prior = torch.stack([_prior(rows, of) for of in self.learned])
        self.weights = self._start_weights()
        self.adam = torch.optim.Adam(self.weights, lr=recipe.rate)

    def _start_weights(self) -> list[Tensor]:
        """Draw weights [models, in, out] (He), biases [models, 1, out] of 0; the last layer 0."""
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
        """Train one epoch: each member on its own shuffled rows, equally many for all members."""
        count = min(map(len, self.learned))
        drawn = [
            of[torch.randperm(len(of), generator=self.generator, device=of.device)[:count]]
            for of in self.learned
        ]
        for at in torch.stack(drawn).tensor_split(math.ceil(count / self.recipe.batch), 1):
            self._improve(at)

    def _improve(self, at: Int64[Tensor, "models batch"]) -> None:
        # One Adam step on the sum of all members' cross-entropies, which share no weights
        rows, member = self.rows, torch.arange(len(at), device=at.device)[:, None]
        logits = self._logits(rows.states[at], self.weights, training=True)
        log_q = (logits + self.prior[member, rows.groups[at]]).log_softmax(-1)
        self.adam.zero_grad()
        _cross_entropy(rows.concepts[at], log_q).sum().backward()
        self.adam.step()

    @torch.no_grad()
    def losses(self) -> Float[Tensor, "models judges"]:
        """Compute the cross-entropy of each member on each fold that it left out, nats."""
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
        """Predict the log-probabilities of some members for some rows."""
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
        """Draw an inverted dropout mask, the same for all members."""
        kept = 1 - self.recipe.dropout
        mask = torch.empty(shape, device=self.rows.states.device)
        return mask.bernoulli_(kept, generator=self.generator) / kept


def _prior(rows: BottleneckRows, learned: Tensor) -> Float[Tensor, "groups concepts"]:
    """Compute the log of each group's mean concepts, smoothed by one sample of all groups'."""
    concepts, groups = rows.concepts[learned], rows.groups[learned]
    # The overall mean is itself smoothed by one uniform sample, so that every log is finite
    overall = (concepts.sum(0) + 1 / concepts.shape[1]) / (len(concepts) + 1)
    sums = overall.repeat(int(rows.groups.max()) + 1, 1).index_add_(0, groups, concepts)
    return (sums / sums.sum(-1, keepdim=True)).log()


def _cross_entropy(concepts: Tensor, log_q: Tensor) -> Float[Tensor, " models"]:
    return -(concepts * log_q).sum(-1).mean(-1)
