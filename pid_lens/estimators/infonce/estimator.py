"""InfoNCE: mutual information of the hidden states of each layer and a target, as a curve."""

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
"""Name of the target that is the right option, in place of a hidden state."""


@dataclass
class StatePair(OverReads):
    """Names of the two hidden states whose mutual information InfoNCE bounds.

    Attributes:
        x: the state of each layer.
        y: the target state, or ``"label"``, the right option.
        target: layer of y: ``"last"`` that was read, or the ``"same"`` one as x.
    """

    x: str = "answer"
    y: str = "answer"
    target: Target = "last"


@dataclass
class InfoNCE(ByCritics, StatePair):
    r"""InfoNCE lower bound of the mutual information of two hidden states, layer by layer.

    .. math::  I(h_l; h_L) \ge \frac1B \sum_i \Big( s(x_i, y_i)
        - \tfrac12 \log \tfrac1B \sum_j e^{s(x_i, y_j)}
        - \tfrac12 \log \tfrac1B \sum_j e^{s(x_j, y_i)} \Big) \quad\text{(at most } \log B)

    for any critic s. An ``Estimator``. Each layer has critics of its own; every sample is
    evaluated by one that was not trained on it, among the B samples of its held-out fold, and
    nothing depends on the order in which samples came. Hidden states are kept by the Lens:
    ``Lens(..., states=[Pooled("answer")])``.

    Several questions about one image are not independent: a critic trained on one of them
    recognises the image's state in the next. 100 images of six questions each, whose states are
    independent of a code of the image, read 2.9 bits. ``groups`` holds the questions of an image
    out together and counts them as one cluster in the error: -0.1 then (means over eight data
    sets).

    Where h_L is a function of h_l the truth is infinite and any good critic reads log B: such a
    value is near the ``cap``, says that the information is large, and nothing else. That is so
    at the last layer when x and y are the same state.

    ``constants="paper"`` takes the paper's encoder (1024, 256, 64, tanh, one for both sides),
    its score (dot product / 64), batch (32, also in the evaluation, so that the cap is 5 bits,
    or less where folds are not multiples of 32) and rate (2e-4) on raw states, all of their
    coordinates. The paper does not say how long it trains: here early stopping on validation
    samples ends the training.

    Attributes:
        x: name of the state of each layer.
        y: name of the target state, or ``"label"``, the right option.
        target: layer of y: ``"last"`` that was read, or the ``"same"`` one as x.
        constants: name of the critics' recipe, ``"default"`` or ``"paper"``.
        components: principal components kept of each state's normal scores; None keeps all.
        folds: number of held-out folds.
        seed: of folds, weights and batches.
        unit: ``"bits"`` or ``"nats"``.
        groups: sample id -> its group of dependent samples; None where all are independent.
        progress: whether to show a bar when it takes longer than two seconds.

    Source:
        Representation learning with contrastive predictive coding (van den Oord, Li, Vinyals,
        2018), https://arxiv.org/abs/1807.03748; Traceable and explainable multimodal large
        language models (COLM 2025), https://openreview.net/forum?id=pQm66IPmeE

    Raises:
        ValueError: an unknown target, constants or unit, fewer than one component (or any with
            ``constants="paper"``), or fewer than two folds.

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> from pid_lens import Reads
        >>> reads = Reads.from_posteriors(torch.zeros(2, 1, 300, 1), conditions=["full"])
        >>> y, noise = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(0))
        >>> states = {"image": torch.stack([noise, y + noise]), "answer": y.expand(2, -1, -1)}
        >>> found = InfoNCE(x="image").update(replace(reads, states=states)).result()
        >>> bool(abs(found.value[0]) < 0.1), bool(0.5 < found.value[1] < 1.1)  # I = 0 and 1 bits
        (True, True)
    """

    def __post_init__(self) -> None:
        require_known("target", self.target, get_args(Target))
        super().__post_init__()

    def update(self, reads: Reads) -> Self:
        """Add samples; one with the id of an earlier sample replaces it.

        Raises:
            ValueError: a state was not kept, or these reads cannot be mixed with those before.
        """
        states = [name for name in (self.x, self.y) if name != LABEL_STATE]
        require_states(type(self).__name__, reads, states)
        return super().update(reads)

    def result(self) -> Curve:
        """Compute the curve over all samples; warn of layers near the cap.

        Raises:
            ValueError: no samples or too few, NaN among the states, no labels, or a sample that
                ``groups`` lack.
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
        """Compute the curve without a warning of values near the cap.

        Raises:
            ValueError: as `result`.
        """
        reads = self.gather_in_order()
        of = clusters_of(reads.ids, self.groups)
        layers = self._measure_layers(reads, of)
        return Curve(
            name=f"I({self.x}; {self.y}{' of the last layer' * self._targets_last})",
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
    def _targets_last(self) -> bool:
        return self.target == "last" and self.y != LABEL_STATE

    def _measure_layers(self, reads: Reads, of: Int64[Tensor, " n"] | None) -> list[Measured]:
        from tqdm import tqdm

        recipe = CRITIC_RECIPES[self.constants]
        prepare = partial(show_states, recipe=recipe, components=self.components, seed=self.seed)
        x, y = _states_of(reads, self.x), _states_of(reads, self.y)
        last = prepare(y[-1].double()) if self.target == "last" else None
        layers = tqdm(
            range(len(x)),
            f"{self.x} and {self.y}",
            delay=2,
            leave=False,
            disable=not self.progress,
        )
        return [
            measure_held_out(
                prepare(x[layer].double()),
                prepare(y[layer].double()) if last is None else last,
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
    """Encode the right option one-hot, one column per option."""
    if bool((reads.labels < 0).any()):
        raise ValueError(
            f"{int((reads.labels < 0).sum())} of {reads.n} samples have no label: give labels= to "
            "pid_lens.batch, or take a state for y"
        )
    return torch.nn.functional.one_hot(reads.labels.long())
