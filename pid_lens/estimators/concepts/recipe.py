"""Recipes: how bottlenecks are built, trained and judged."""

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
    """How a bottleneck is built, trained and judged.

    Raises:
        ValueError: a number that is out of range, or not whole where it must be.
    """

    widths: tuple[int, ...] = (64, 64)
    """Of the hidden layers, with ReLU between."""
    rate: float = 3e-3
    """Of Adam."""
    batch: int = 128
    epochs: int = 200
    """At most."""
    patience: int | None = 5
    """So many epochs in which judges see no progress end the training; None: no judges, and the
    last epoch counts."""
    dropout: float = 0.2
    """Share of hidden units left out in training."""
    folds: int = 5
    """Parts of the samples; each is held out in turn, and judges in turn."""

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
        """In which whatever is to be learned must occur: of these, one or two are left out."""
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
    """The recipe that is meant.

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
