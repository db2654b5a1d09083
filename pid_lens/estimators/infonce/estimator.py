"""InfoNCE: what the states of a layer tell of another state, by critics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, get_args

import torch
from jaxtyping import Int, Int64, Real
from torch import Tensor

from pid_lens.estimators.common.clusters import Groups, clusters_of
from pid_lens.estimators.common.over_reads import OverReads, require_finite, require_states
from pid_lens.estimators.gaussian.estimator import Target
from pid_lens.estimators.infonce.critics import CRITIC_RECIPES, CriticConstants
from pid_lens.estimators.infonce.held_out import Measured, measure_held_out, show_states
from pid_lens.reads import Reads
from pid_lens.results import NATS, Curve, Unit

LABEL_STATE = "label"
"""The right option in place of a state."""


@dataclass
class InfoNCE(OverReads):
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

    x: str = "answer"
    """The state of each layer."""
    y: str = "answer"
    """The state that it is to tell of, or ``"label"``, the right option."""
    target: Target = "last"
    """y is that of the last layer that was read, or of the ``"same"`` one."""
    constants: CriticConstants = "default"
    components: int | None = 64
    """Keep so many principal components of either state's normal scores; None keeps all, as
    ``constants="paper"`` always does."""
    folds: int = 3
    """In how many parts samples are held out."""
    seed: int = 0
    """Of folds, weights and batches."""
    unit: Unit = "bits"
    groups: Groups | None = field(default=None, repr=False)
    """Sample id -> its cluster, where samples are not independent."""
    progress: bool = field(default=True, repr=False, compare=False)
    """Whether to show a bar when it takes longer than two seconds."""

    def __post_init__(self) -> None:
        for name, known in (
            ("target", get_args(Target)),
            ("constants", CRITIC_RECIPES),
            ("unit", NATS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {tuple(known)}; got {getattr(self, name)!r}"
                )
        if self.components is not None and self.components < 1:
            raise ValueError(f"components must be at least 1, or None; got {self.components}")
        if not CRITIC_RECIPES[self.constants].gaussian:
            _require_all_components(self.components)
            self.components = None
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2; got {self.folds}")

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
        curve = self.measured()
        if bool(curve.near_cap.any()):
            warnings.warn(
                f"{curve.name} is within 10 % of its cap at layers {near_cap_layers(curve)}: the "
                "information is large there, and how large needs more samples",
                stacklevel=2,
            )
        return curve

    def measured(self) -> Curve:
        """The result, whatever it may be worth."""
        reads = self.in_order()
        of = clusters_of(reads.ids, self.groups)
        layers = self._measured(reads, of)
        return Curve(
            name=f"I({self.x}; {self.y}{' of the last layer' * self._looks_ahead})",
            pointwise=torch.stack([layer.pointwise for layer in layers]) / NATS[self.unit],
            layers=reads.layers,
            ids=reads.ids,
            estimator=type(self).__name__,
            unit=self.unit,
            settings={**reads.settings, **settings_of(self, ("x", "y", "target"))},
            cap=torch.tensor([layer.cap for layer in layers]).double() / NATS[self.unit],
            groups=of,
        )

    @property
    def _looks_ahead(self) -> bool:
        return self.target == "last" and self.y != LABEL_STATE

    def _measured(self, reads: Reads, of: Int64[Tensor, " n"] | None) -> list[Measured]:
        from tqdm import tqdm

        recipe = CRITIC_RECIPES[self.constants]
        see = partial(show_states, recipe=recipe, components=self.components, seed=self.seed)
        x, y = _states(reads, self.x), _states(reads, self.y)
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


def settings_of(estimator: Any, own: tuple[str, ...]) -> dict[str, Any]:
    """What a result by critics depends on: some settings of the estimator's own, and all's."""
    names = (*own, "constants", "components", "folds", "seed")
    said = {name: getattr(estimator, name) for name in names}
    return {**said, "clustered": estimator.groups is not None}


def near_cap_layers(curve: Curve) -> str:
    """The layers at which a curve is near its cap, as a list."""
    layers = curve.near_cap.nonzero().flatten().tolist()
    return ", ".join(str(curve.layers[at]) for at in layers)


def _require_all_components(given: int | None) -> None:
    """The paper's encoder takes states as they are.

    Raises:
        ValueError: somebody asked for something else.
    """
    if given not in (None, InfoNCE.components):
        raise ValueError(
            f"constants='paper' takes raw states, without components; got components={given}: "
            "leave it out, or take constants='default'"
        )


def _states(reads: Reads, name: str) -> Real[Tensor, "layers n width"]:
    if name == LABEL_STATE:
        return _labels(reads).expand(len(reads.layers), -1, -1)
    return require_finite(reads, name)


def _labels(reads: Reads) -> Int[Tensor, "n answers"]:
    """One column an option."""
    if bool((reads.labels < 0).any()):
        raise ValueError(
            f"{int((reads.labels < 0).sum())} of {reads.n} samples have no label: give labels= to "
            "pid_lens.batch, or take a state for y"
        )
    return torch.nn.functional.one_hot(reads.labels.long())
