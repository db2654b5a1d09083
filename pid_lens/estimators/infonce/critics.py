"""Critics: separable networks that score pairs (x, y), trained by the InfoNCE loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from pid_lens.estimators.common.networks import linear_layer
from pid_lens.estimators.infonce.bound import pointwise_information
from pid_lens.estimators.infonce.copula import Pairs, learn_pairs

CriticConstants = Literal["default", "paper"]


@dataclass(frozen=True)
class CriticRecipe:
    """Architecture, training and evaluation of a critic.

    Attributes:
        widths: of the layers of each encoder; the last is that of the dot product.
        activation: module class between layers.
        batch: samples in a training step.
        rate: learning rate of Adam.
        steps: training steps at most; early stopping ends the training before.
        every: steps between two evaluations on the validation samples.
        block: number of held-out samples that are each other's negatives; None: all of a fold.
        gaussian: whether inputs are normal scores and the critic learns a correction to the log
            density ratio of the canonical pairs; else inputs are raw hidden states.
        shared: whether both sides have one encoder.
        temperature: what the learned dot product is divided by.
    """

    widths: tuple[int, ...]
    activation: type[nn.Module]
    batch: int
    rate: float
    steps: int
    every: int
    block: int | None
    gaussian: bool
    shared: bool
    temperature: float = 1.0

    def blocks(self, rows: Int64[Tensor, " m"]) -> tuple[Int64[Tensor, " block"], ...]:
        """Split rows into full blocks of negatives and one of the remainder, neighbours apart.

        Example:
            >>> [block.tolist() for block in CRITIC_RECIPES["paper"].blocks(torch.arange(66))][-1]
            [0, 33]
        """
        if self.block is None or len(rows) <= self.block:
            return (rows,)
        # The remainder is taken at even spacing, the blocks by a stride
        full, left = divmod(len(rows), self.block)
        over = torch.zeros(len(rows), dtype=torch.bool)
        over[torch.arange(left) * len(rows) // max(left, 1)] = True
        blocks = [rows[~over][start::full] for start in range(full)]
        return (*blocks, rows[over]) if left else tuple(blocks)


CRITIC_RECIPES: dict[CriticConstants, CriticRecipe] = {
    "default": CriticRecipe(
        widths=(64, 64, 32),
        activation=nn.ReLU,
        batch=256,
        rate=1e-3,
        steps=5000,
        every=25,
        block=None,
        gaussian=True,
        shared=False,
    ),
    "paper": CriticRecipe(
        widths=(1024, 256, 64),
        activation=nn.Tanh,
        batch=32,
        rate=2e-4,
        steps=5000,
        every=100,
        block=32,
        gaussian=False,
        shared=True,
        temperature=64.0,
    ),
}
"""Ours, and those of: Traceable and explainable multimodal large language models (COLM 2025),
https://openreview.net/forum?id=pQm66IPmeE. It does not say how long it trains."""
CRITIC_PATIENCE = 4
"""Early stopping: evaluations without progress that end the training."""
MOST_CHECKED = 2000
"""Validation samples for early stopping at most; a quarter, if that is fewer."""


# ---------------------------------------------------------------- networks


class Encoder(nn.Module):
    """Encoder of one side: fixed features passed through, concatenated with learned ones."""

    def __init__(
        self, width: int, fixed: int, recipe: CriticRecipe, generator: torch.Generator
    ) -> None:
        """Build the network for inputs of a width, behind a number of fixed features."""
        super().__init__()
        self.fixed, self.scale = fixed, recipe.temperature**-0.5
        steps: list[nn.Module] = []
        for before, after in zip((width, *recipe.widths), recipe.widths, strict=False):
            steps += [linear_layer(before, after, generator), recipe.activation()]
        self.learned = nn.Sequential(*steps[:-1])

    def forward(self, x: Float[Tensor, "n width"]) -> Float[Tensor, "n features"]:
        """Concatenate fixed and learned features."""
        return torch.cat([x[:, : self.fixed], self.scale * self.learned(x[:, self.fixed :])], -1)


class Critic:
    """Separable critic s(x, y) = u(x) . v(y), an estimate of log p(x, y) / (p(x) p(y))."""

    def __init__(
        self,
        x: Float64[Tensor, "n dx"],
        y: Float64[Tensor, "n dy"],
        pairs: Pairs | None,
        recipe: CriticRecipe,
        generator: torch.Generator,
    ) -> None:
        """Start at the log density ratio of the canonical pairs; without them, at random weights.

        Raises:
            ValueError: one encoder for two sides of different widths.
        """
        # Fixed features whose dot product is the Gaussian log density ratio
        of_x, of_y = (x[:, :0], y[:, :0]) if pairs is None else pairs.features(x, y)
        self.x, self.y = torch.cat([of_x, x], -1).float(), torch.cat([of_y, y], -1).float()
        u = Encoder(x.shape[1], of_x.shape[1], recipe, generator)
        if recipe.shared and x.shape[1] != y.shape[1]:
            raise ValueError(
                f"one encoder for both sides needs states of one width; got {x.shape[1]} and "
                f"{y.shape[1]}: constants='default' has an encoder for each"
            )
        v = u if recipe.shared else Encoder(y.shape[1], of_y.shape[1], recipe, generator)
        # The learned part starts at 0: u(x) . v(y) is the Gaussian ratio before the first step
        if pairs is not None:
            for parameter in u.learned[-1].parameters():
                nn.init.zeros_(parameter)
        self.encoders = nn.ModuleList([u, v])

    def scores(self, rows: Int64[Tensor, " m"]) -> Float[Tensor, "m m"]:
        """Compute the scores s(x_i, y_j) of all pairs of some rows."""
        return self.encoders[0](self.x[rows]) @ self.encoders[1](self.y[rows]).mT

    @torch.no_grad()
    def information(self, rows: Int64[Tensor, " m"]) -> Float64[Tensor, " m"]:
        """Compute each row's contribution to the InfoNCE bound, nats, the rows as negatives."""
        u, v = self.encoders
        return pointwise_information(u(self.x[rows]).double(), v(self.y[rows]).double())


# ---------------------------------------------------------------- training


@torch.inference_mode(False)
@torch.enable_grad()
def train_critic(
    x: Float64[Tensor, "n dx"],
    y: Float64[Tensor, "n dy"],
    recipe: CriticRecipe,
    rows: Int64[Tensor, " some"],
    generator: torch.Generator,
    clusters: Int64[Tensor, " n"] | None = None,
) -> Critic:
    """Train a critic on some rows by InfoNCE, with early stopping on a validation part of them.

    Args:
        x: samples, [n, dx].
        y: samples, [n, dy].
        recipe: architecture and training.
        rows: rows to use: the first quarter (at most `MOST_CHECKED`) validates, the rest trains.
        generator: of weights and batches.
        clusters: of each sample, numbers from 0; each its own by default.
    """
    size = min(len(rows) // 4, MOST_CHECKED)
    check, learn = rows[:size], rows[size:]
    pairs = _starting_pairs(x, y, learn, check, clusters) if recipe.gaussian else None
    critic = Critic(x, y, pairs, recipe, generator)
    adam = torch.optim.Adam(critic.encoders.parameters(), lr=recipe.rate, fused=True)
    best, kept, waited = -math.inf, deepcopy(critic.encoders.state_dict()), 0
    for step, batch in enumerate(_draw_batches(learn, recipe, generator)):
        # Early stopping: keep the weights with the highest bound on the validation rows
        if step % recipe.every == 0:
            bounds = [critic.information(block) for block in recipe.blocks(check)]
            reached, waited = float(torch.cat(bounds).mean()), waited + 1
            if reached > best:
                best, kept, waited = reached, deepcopy(critic.encoders.state_dict()), 0
            elif waited == CRITIC_PATIENCE:
                break
        _improve(critic, batch, adam)
    else:
        warnings.warn(
            f"a critic was still getting better after {recipe.steps} steps, so the information is "
            "underestimated: more samples, or fewer components",
            stacklevel=2,
        )
    critic.encoders.load_state_dict(kept)
    return critic


def _improve(critic: Critic, batch: Int64[Tensor, " batch"], adam: torch.optim.Adam) -> None:
    # Symmetric InfoNCE loss: cross-entropy of the true pair by rows and by columns, halved
    scores = critic.scores(batch)
    both = scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()
    adam.zero_grad()
    (-both.mean() / 2).backward()
    adam.step()


def _draw_batches(
    rows: Int64[Tensor, " some"], recipe: CriticRecipe, generator: torch.Generator
) -> Iterator[Int64[Tensor, " batch"]]:
    """Yield batches of one size, reshuffled every epoch, as many as there are steps."""
    size, left = min(recipe.batch, len(rows)), recipe.steps
    while left:
        order = rows[torch.randperm(len(rows), generator=generator)]
        for batch in order[: len(order) // size * size].split(size)[:left]:
            left -= 1
            yield batch


def _starting_pairs(
    x: Tensor, y: Tensor, learn: Tensor, check: Tensor, clusters: Tensor | None
) -> Pairs:
    """Choose canonical pairs with or without the norm coordinate, by the validation bound."""

    def informativeness(pairs: Pairs) -> float:
        of_x, of_y = pairs.features(x[check], y[check])
        return float(pointwise_information(of_x, of_y).mean())

    plain = learn_pairs(x[:, :-1], y[:, :-1], learn, check, clusters).without_norm()
    return max(plain, learn_pairs(x, y, learn, check, clusters), key=informativeness)
