"""Cross-fitted InfoNCE bound: critics trained on all folds but the held-out fold they score."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.estimators.common.folds import folds_of
from pid_lens.estimators.infonce.copula import coordinates
from pid_lens.estimators.infonce.critics import CriticRecipe, train_critic

LEAST_FOLD = 50
"""Samples in a fold at least."""


class Measured(NamedTuple):
    """A held-out InfoNCE bound, nats.

    Attributes:
        pointwise: contribution of each sample, [n]; the bound is their mean.
        cap: the most that the bound can be.
    """

    pointwise: Float64[Tensor, " n"]
    cap: float


def show_states(
    x: Float64[Tensor, "n width"],
    recipe: CriticRecipe,
    components: int | None = None,
    seed: int = 0,
) -> Float64[Tensor, "n shown"]:
    """Prepare the critics' inputs: raw hidden states, or normal scores of their components.

    Args:
        x: [n, width].
        recipe: one of `CRITIC_RECIPES`.
        components: principal components to keep, where the recipe takes normal scores.
        seed: of the randomised search for principal components.
    """
    return coordinates(x.detach(), components, seed) if recipe.gaussian else x.detach()


def measure_held_out(
    x: Float64[Tensor, "n dx"],
    y: Float64[Tensor, "n dy"],
    recipe: CriticRecipe,
    *,
    folds: int = 3,
    seed: int = 0,
    clusters: Int64[Tensor, " n"] | None = None,
) -> Measured:
    """Compute the InfoNCE bound of I(X; Y), each sample scored by a critic not trained on it.

    Each fold in turn is the held-out fold; of the other folds a quarter validates, for early
    stopping. The negatives of a sample are the other samples of its held-out fold, or of a block
    of it; the cap is the log of the number of samples that are each other's negatives, averaged
    over samples. Clusters are held out as a whole; samples of one are each other's negatives all
    the same.

    Args:
        x: [n, dx], prepared by `show_states`.
        y: [n, dy], likewise.
        recipe: one of `CRITIC_RECIPES`.
        folds: number of folds.
        seed: of folds, weights and batches.
        clusters: of each sample, numbers from 0; each its own by default.

    Raises:
        ValueError: fewer than 50 samples per fold, or sides of two widths for one encoder.

    Example:
        >>> from pid_lens.estimators.infonce.critics import CRITIC_RECIPES
        >>> x, y = torch.randn(2, 150, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> recipe = CRITIC_RECIPES["default"]
        >>> found = measure_held_out(show_states(x, recipe), show_states(x + y, recipe), recipe)
        >>> float(found.pointwise.mean()) > 0.2, round(found.cap, 3)
        (True, 3.912)
    """
    if folds < 2 or len(x) < LEAST_FOLD * folds:
        raise ValueError(
            f"there must be at least 2 folds of {LEAST_FOLD} samples; got {len(x)} samples "
            f"and folds={folds}"
        )
    generator = torch.Generator().manual_seed(seed)
    parts = folds_of(len(x), folds, generator, clusters)
    pointwise, caps = torch.empty(2, len(x), dtype=torch.float64)
    # Cross-fitting: train on all folds but one, evaluate on all of the held-out fold
    for rows in parts:
        rest = torch.cat([part for part in parts if part is not rows])
        critic = train_critic(x, y, recipe, rest, generator, clusters)
        for block in recipe.blocks(rows):
            pointwise[block] = critic.information(block)
            caps[block] = math.log(len(block))
    return Measured(pointwise, float(caps.mean()))
