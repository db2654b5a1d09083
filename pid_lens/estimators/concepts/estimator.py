"""Concept bottleneck: a bound of I(concepts; hidden state) for each layer, from reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from pid_lens.estimators.common.clusters import Groups, labels_of
from pid_lens.estimators.common.over_reads import (
    OverReads,
    require_finite,
    require_states,
    settings_from,
)
from pid_lens.estimators.concepts.held_out_information import Settings, measure_concepts
from pid_lens.estimators.concepts.recipe import BottleneckConstants, BottleneckRecipe
from pid_lens.reads import Reads
from pid_lens.results import Curve, Unit


@dataclass
class ConceptBottleneck(OverReads):
    """Variational bound of the information of hidden states about concepts; an ``Estimator``.

    See `concept_information` for what is computed and what it means. Without ``groups`` the
    result is the unconditional bound. With them it is the visual information gain, which is
    biased upward: the bound less that within groups of questions. Its parts are these two bounds,
    the gain of groups exchanged at random (``gain_by_chance``) and the gain minus that
    (``gain_beyond_chance``). The published numbers are among the parts, as ``paper_*``.
    Nothing is trained before `result`; samples are then sorted by id, so that it does not depend
    on the order in which they came.

    Attributes:
        concepts: sample id -> scores of the concepts (a detector's, in one order for all), or one
            class (text or whole number); ``"label"`` takes the index of the right option, which
            reads have.
        groups: sample id -> group of its question (`question_groups`).
        clusters: sample id -> the image, where there are several questions on one.
        state: name of the hidden states, as in ``Lens(..., states=[Pooled("answer")])``.
        shared: whether one bottleneck serves all layers instead of one for each.
        constants: ``"default"``, ``"paper"`` or a `BottleneckRecipe`.
        seed: of folds, weights, batches and of the exchange of groups.
        unit: ``"bits"`` or ``"nats"``.
        progress: whether to show a bar when it takes longer than two seconds.

    Source:
        Traceable and explainable multimodal large language models (COLM 2025),
        https://openreview.net/forum?id=pQm66IPmeE

    Raises:
        ValueError: unknown constants or unit.
        TypeError: concepts, groups or clusters that do not map sample ids.

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> from pid_lens import Reads
        >>> dog = torch.arange(200) % 2
        >>> reads = Reads.from_posteriors(torch.zeros(1, 1, 200, 1), conditions=["full"])
        >>> reads = replace(reads, states={"answer": 9.0 * dog[None, :, None]})
        >>> shown = {str(row): ["cat", "dog"][dog[row]] for row in range(200)}
        >>> ConceptBottleneck(shown).update(reads).result().value.round(decimals=2)
        tensor([1.], dtype=torch.float64)
    """

    concepts: Groups | Literal["label"] = field(default="label", repr=False)
    groups: Groups | None = field(default=None, repr=False)
    clusters: Groups | None = field(default=None, repr=False)
    state: str = "answer"
    shared: bool = False
    constants: BottleneckConstants | BottleneckRecipe = "default"
    seed: int = 0
    unit: Unit = "bits"
    progress: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        settings_from(Settings, self)
        for name in ("concepts", "groups", "clusters"):
            given, default = getattr(self, name), "label" if name == "concepts" else None
            if not (isinstance(given, str | None) and given == default):
                setattr(self, name, _as_groups(given, name))

    @torch.no_grad()
    def update(self, reads: Reads) -> Self:
        """Add samples; one with the id of an earlier sample replaces it.

        Raises:
            ValueError: the state was not kept, or these reads cannot be mixed with those before.
        """
        require_states(type(self).__name__, reads, [self.state])
        return super().update(reads)

    def result(self) -> Curve:
        """Compute the gain, or without groups the bound, over all samples.

        Raises:
            ValueError: no samples, or one has no concepts or group, or a state that is not
                finite; and what `concept_information` refuses.
        """
        reads = self.gather_in_order()
        found, said = measure_concepts(
            settings_from(Settings, self),
            require_finite(reads, self.state),
            self._concepts(reads),
            labels_of(reads.ids, self.groups),
            labels_of(reads.ids, self.clusters, "clusters"),
            reads.ids,
            reads.layers,
        )
        for words in said:
            warnings.warn(words, stacklevel=2)
        parts = found.curves
        whole = parts.pop("gain" if found.gain is not None else "unconditional")
        settings = {**reads.settings, "state": self.state, **whole.settings}
        return replace(whole, parts=parts, settings=settings)

    def _concepts(self, reads: Reads) -> Tensor:
        if self.concepts != "label":
            return _as_scores(labels_of(reads.ids, self.concepts, "concepts") or [])
        unknown = int((reads.labels < 0).sum())
        if unknown:
            raise ValueError(
                f"{unknown} of {reads.n} samples have no label: give labels= to pid_lens.batch, "
                "or concepts={id: scores}"
            )
        return reads.labels


def _as_groups(given: Any, name: str) -> Groups:
    if isinstance(given, Mapping):
        return {str(key): _as_plain(value) for key, value in given.items()}
    if not callable(given):
        raise TypeError(f"{name} must map sample ids: a dict or a function; got {given!r}")
    return given


def _as_plain(value: Any) -> Any:
    """Convert tensors and arrays to what can be compared with ==."""
    return value.tolist() if hasattr(value, "tolist") else value


def _as_scores(given: list[Any]) -> Tensor:
    """Convert scores to [n, concepts], classes to numbers [n] in their sorted order."""
    values = [_as_plain(value) for value in given]
    if all(isinstance(value, str | int) for value in values):
        number = {name: i for i, name in enumerate(sorted(set(values), key=repr))}
        return torch.tensor([number[name] for name in values])
    lengths = {len(value) if isinstance(value, Sequence) else 0 for value in values}
    if len(lengths) > 1 or 0 in lengths or any(isinstance(value, str) for value in values):
        raise ValueError(
            "concepts must be all classes (text or whole numbers) or all score vectors of one "
            f"length; got lengths {sorted(lengths)}, where 0 is not a vector"
        )
    return torch.tensor(values, dtype=torch.float64)
