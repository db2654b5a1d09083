"""InfoNCE: what the states of a layer tell of another state, by critics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Self, get_args

import torch
from jaxtyping import Int, Int64, Real
from torch import Tensor

from pid_lens.estimators.common.clusters import clusters_of
from pid_lens.estimators.common.over_reads import OverReads, require_finite, require_states
from pid_lens.estimators.gaussian.estimator import Target
from pid_lens.estimators.infonce.by_critics import ByCritics, near_cap_layers, require_known
from pid_lens.estimators.infonce.critics import CRITIC_RECIPES
from pid_lens.estimators.infonce.held_out import Measured, measure_held_out, show_states
from pid_lens.reads import Reads
from pid_lens.results import NATS, Curve

LABEL_STATE = "label"
"""The right option in place of a state."""


@dataclass
class StatePair(OverReads):
    """Which two states InfoNCE relates."""

    x: str = "answer"
    """The state of each layer."""
    y: str = "answer"
    """The state that it is to tell of, or ``"label"``, the right option."""
    target: Target = "last"
    """y is that of the last layer that was read, or of the ``"same"`` one."""


@dataclass
class InfoNCE(ByCritics, StatePair):
    r"""Mutual information of two states, layer by layer, by InfoNCE; an ``Estimator``.

    .. math::  I(h_l; h_L) \ge \frac1B \sum_i \Big( s(x_i, y_i)
        - \tfrac12 \log \tfrac1B \sum_j e^{s(x_i, y_j)}
        - \tfrac12 \log \tfrac1B \sum_j e^{s(x_j, y_i)} \Big) \quad\text{(at most } \log B)

    for any critic s. Each layer has critics of its own; every sample is told by one that was not
    trained on it, among the B samples of its fold, and nothing depends on the order in which
    samples came. States are kept by the Lens: ``Lens(..., states=[Pooled("answer")])``.

    Several questions about one image are not independent: a critic that saw the image knows its
    state again. 100 images of six questions each, whose states tell nothing of a code of the
    image, read 2.9 bits. ``groups`` holds the questions of an image out together and counts them
    as one in the error: -0.1 then (means over eight draws).

    Where h_L is a function of h_l the truth is infinite and any good critic reads log B: such a
    value is near the ``cap``, says that the information is large, and nothing else. That is so
    at the last layer when x and y are the same state.

    ``constants="paper"`` takes the paper's encoder (1024, 256, 64, tanh, one for both sides),
    its score (dot product / 64), batch (32, also in the evaluation, so that the cap is 5 bits,
    or less where folds are no multiples of 32) and rate (2e-4) on raw states, all of their
    coordinates. The paper does not say how long it trains: here until samples set aside see no
    more progress.

    Source:
        Representation learning with contrastive predictive coding (van den Oord, Li, Vinyals,
        2018), https://arxiv.org/abs/1807.03748; Traceable and explainable multimodal large
        language models (COLM 2025), https://openreview.net/forum?id=pQm66IPmeE

    Example:
        >>> from dataclasses import replace
        >>> reads = Reads.from_posteriors(torch.zeros(2, 1, 300, 1), conditions=["full"])
        >>> y, noise = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(0))
        >>> states = {"image": torch.stack([noise, y + noise]), "answer": y.expand(2, -1, -1)}
        >>> InfoNCE(x="image").update(replace(reads, states=states)).result()
        Curve(I(image; answer of the last layer), layer 1: ...±0.0... bits; n=300, 2 layers, ...)
    """

    def __post_init__(self) -> None:
        require_known("target", self.target, get_args(Target))
        super().__post_init__()

    def update(self, reads: Reads) -> Self:
        """Takes in more samples; one that came before is replaced.

        Raises:
            ValueError: a state was not kept, or these reads cannot be mixed with those before.
        """
        states = [name for name in (self.x, self.y) if name != LABEL_STATE]
        require_states(type(self).__name__, reads, states)
        return super().update(reads)

    def result(self) -> Curve:
        """The curve of everything seen.

        Raises:
            ValueError: no sample was seen or too few, NaN among the states, or no labels.
        """
        curve = self.measure()
        if bool(curve.near_cap.any()):
            warnings.warn(
                f"{curve.name} is within 10 % of its cap at layers {near_cap_layers(curve)}: the "
                "information is large there, and how large needs more samples",
                stacklevel=2,
            )
        return curve

    def measure(self) -> Curve:
        """The result, whatever it may be worth."""
        reads = self.gather_in_order()
        of = clusters_of(reads.ids, self.groups)
        layers = self._measure_layers(reads, of)
        return Curve(
            name=f"I({self.x}; {self.y}{' of the last layer' * self._looks_ahead})",
            pointwise=torch.stack([layer.pointwise for layer in layers]) / NATS[self.unit],
            layers=reads.layers,
            ids=reads.ids,
            estimator=type(self).__name__,
            unit=self.unit,
            settings={**reads.settings, **self.settings_of("x", "y", "target")},
            cap=torch.tensor([layer.cap for layer in layers]).double() / NATS[self.unit],
            groups=of,
        )

    @property
    def _looks_ahead(self) -> bool:
        return self.target == "last" and self.y != LABEL_STATE

    def _measure_layers(self, reads: Reads, of: Int64[Tensor, " n"] | None) -> list[Measured]:
        from tqdm import tqdm

        recipe = CRITIC_RECIPES[self.constants]
        see = partial(show_states, recipe=recipe, components=self.components, seed=self.seed)
        x, y = _states_of(reads, self.x), _states_of(reads, self.y)
        last = see(y[-1].double()) if self.target == "last" else None
        layers = tqdm(
            range(len(x)),
            f"{self.x} and {self.y}",
            delay=2,
            leave=False,
            disable=not self.progress,
        )
        return [
            measure_held_out(
                see(x[layer].double()),
                see(y[layer].double()) if last is None else last,
                recipe,
                folds=self.folds,
                seed=self.seed,
                clusters=of,
            )
            for layer in layers
        ]


def _states_of(reads: Reads, name: str) -> Real[Tensor, "layers n width"]:
    if name == LABEL_STATE:
        return _one_hot_labels(reads).expand(len(reads.layers), -1, -1)
    return require_finite(reads, name)


def _one_hot_labels(reads: Reads) -> Int[Tensor, "n answers"]:
    """One column an option."""
    if bool((reads.labels < 0).any()):
        raise ValueError(
            f"{int((reads.labels < 0).sum())} of {reads.n} samples have no label: give labels= to "
            "pid_lens.batch, or take a state for y"
        )
    return torch.nn.functional.one_hot(reads.labels.long())
