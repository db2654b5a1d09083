"""Recipes: architecture, training and early stopping of concept bottlenecks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

BottleneckConstants = Literal["default", "paper"]


def _as_count(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or int(value) < 1:
        raise ValueError(f"{name} must be whole and above 0; got {value!r}")
    return int(value)


@dataclass(frozen=True)
class BottleneckRecipe:
    """Architecture, training and early stopping of a concept bottleneck.

    Attributes:
        widths: of the hidden layers, with ReLU between.
        rate: learning rate of Adam.
        batch: samples in a training step.
        epochs: passes over the training rows at most.
        patience: epochs without progress of the validation folds (judges) that end the training;
            None: no judges, and the weights of the last epoch count.
        dropout: share of hidden units dropped in training.
        folds: parts of the samples; each is the held-out fold in turn, and a validation fold.

    Raises:
        ValueError: a number that is out of range, or not whole where it must be.

    Example:
        >>> recipe = BottleneckRecipe(widths=(32,), patience=None, folds=2)
        >>> recipe.fewest_folds, recipe.epochs
        (2, 200)
        >>> BottleneckRecipe(folds=2)
        Traceback (most recent call last):
        ValueError: folds must be at least 3: one held out, one judge and one to learn from; got 2
    """

    widths: tuple[int, ...] = (64, 64)
    rate: float = 3e-3
    batch: int = 128
    epochs: int = 200
    patience: int | None = 5
    dropout: float = 0.2
    folds: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.widths, Iterable):
            raise ValueError(f"widths must be a tuple such as (64, 64); got {self.widths!r}")
        self._set("widths", tuple(_as_count("widths", width) for width in self.widths))
        for name in ("batch", "epochs", "patience", "folds"):
            if getattr(self, name) is not None or name != "patience":
                self._set(name, _as_count(name, getattr(self, name)))
        if not (isinstance(self.rate, Real) and 0 < self.rate < math.inf):
            raise ValueError(f"rate must be a number above 0; got {self.rate!r}")
        if not (isinstance(self.dropout, Real) and 0 <= self.dropout < 1):
            raise ValueError(f"dropout must be at least 0 and below 1; got {self.dropout!r}")
        if self.folds < self.fewest_folds:
            judge = "one judge " if self.patience is not None else ""
            raise ValueError(
                f"folds must be at least {self.fewest_folds}: one held out, {judge}and one to "
                f"learn from; got {self.folds}"
            )
        self._set("rate", float(self.rate))
        self._set("dropout", float(self.dropout))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def fewest_folds(self) -> int:
        """Folds in which a group must occur to be learned: a bottleneck leaves one or two out."""
        return 2 if self.patience is None else 3


BOTTLENECK_RECIPES: dict[BottleneckConstants, BottleneckRecipe] = {
    "default": BottleneckRecipe(),
    "paper": BottleneckRecipe(
        widths=(512, 128), rate=1e-4, epochs=50, patience=None, dropout=0, folds=10
    ),
}
"""Ours, and those of: Traceable and explainable multimodal large language models (COLM 2025),
https://openreview.net/forum?id=pQm66IPmeE, where one bottleneck serves all layers."""


def recipe_of(constants: BottleneckConstants | BottleneckRecipe) -> BottleneckRecipe:
    """Look up a recipe by name, or return the one given.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(constants, BottleneckRecipe):
        return constants
    if constants not in BOTTLENECK_RECIPES:
        raise ValueError(
            f"constants must be one of {tuple(BOTTLENECK_RECIPES)} or a BottleneckRecipe; got "
            f"{constants!r}"
        )
    return BOTTLENECK_RECIPES[constants]
