"""Inputs of concept bottlenecks: validated, standardised, split into folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from pid_lens.estimators.common.arrays import as_float64
from pid_lens.estimators.common.clusters import as_clusters as numbered
from pid_lens.estimators.common.folds import folds_of
from pid_lens.estimators.concepts.bottleneck import BottleneckRows

Name = TypeVar("Name")
Labels = Sequence[Any] | Tensor | np.ndarray
"""Names of groups or clusters, one per sample, of any kind."""


@dataclass(frozen=True)
class Inputs:
    """Samples as bottlenecks need them, all but the question groups.

    Attributes:
        states: standardised hidden states [n, width] of each layer.
        targets: distribution over concepts, [n, concepts].
        folds: fold of each sample, from 0, [n].
        clusters: cluster of each sample, from 0, [n]; None: samples are independent.
    """

    states: list[Float[Tensor, "n width"]]
    targets: Float64[Tensor, "n concepts"]
    folds: Int64[Tensor, " n"]
    clusters: Int64[Tensor, " n"] | None

    def rows(self, groups: Int64[Tensor, " n"], shared: bool) -> list[BottleneckRows]:
        """Build the rows of each bottleneck, one per layer or one for all, with groups one-hot."""
        count = int(groups.max()) + 1
        one_hot = F.one_hot(groups, count).float() if count > 1 else self.states[0][:, :0]
        states = [torch.cat([x, one_hot.to(x.device)], 1) for x in self.states]
        parts = [torch.cat(states)] if shared else states
        return [self._repeat(x, groups) for x in parts]

    def _repeat(self, states: Tensor, groups: Tensor) -> BottleneckRows:
        times = len(states) // len(groups)
        common = (self.targets.float(), groups, self.folds)
        repeated = (x.repeat(times, *[1] * (x.ndim - 1)).to(states.device) for x in common)
        return BottleneckRows(states, *repeated)


def as_concept_inputs(
    states: Any, concepts: Any, clusters: Labels | None, folds: int, seed: int
) -> Inputs:
    """Validate and standardise; what is refused and why: `concept_information`."""
    standard = _standardise(states)
    n = len(standard[0])
    of = None if clusters is None else numbered(clusters, n)
    return Inputs(standard, _as_targets(concepts, n), _assign_folds(n, folds, seed, of), of)


def as_names(
    given: Sequence[Any] | None, count: int, of: str, kind: Callable[[Any], Name]
) -> tuple[Name, ...]:
    """Convert the names of samples or layers, positions by default, and require them unique.

    Raises:
        ValueError: more or fewer than there are, or one that comes twice.
    """
    names = tuple(map(kind, range(count) if given is None else given))
    if len(names) != count:
        raise ValueError(
            f"hidden states have {count} {of}, which need as many names; got {len(names)}"
        )
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{of} must differ; {twice[0]!r} comes {names.count(twice[0])} times")
    return names


def _standardise(states: Any) -> list[Float[Tensor, "n width"]]:
    shape = list(getattr(states, "shape", ()))
    if len(shape) != 3 or 0 in shape:
        got = shape or type(states).__name__
        raise ValueError(f"hidden states must be [layers, n, width] with no empty axis; got {got}")
    return [_standardise_layer(as_float64(x, "hidden"), layer) for layer, x in enumerate(states)]


def _standardise_layer(states: Float64[Tensor, "n width"], layer: int) -> Float[Tensor, "n width"]:
    wrong = ~states.isfinite().all(1)
    if bool(wrong.any()):
        raise ValueError(
            f"hidden states have NaN or infinity in {int(wrong.sum())} of {len(states)} samples, "
            f"first at layer {layer}, sample {int(wrong.nonzero()[0])}: half precision that "
            "overflows?"
        )
    # z-scores over samples; constant coordinates become 0
    varies = states.amax(0) > states.amin(0)
    return ((states - states.mean(0)) / states.std(0)).where(varies, 0.0).float()


def _as_targets(concepts: Any, n: int) -> Float64[Tensor, "n concepts"]:
    values = as_float64(concepts, "concepts").cpu()
    if values.ndim not in (1, 2) or len(values) != n:
        raise ValueError(
            f"concepts must be scores [n, concepts] or class indices [n] of {n} samples; got "
            f"{list(values.shape)}"
        )
    if not bool(values.isfinite().all() & (values >= 0).all()):
        raise ValueError("concepts must be finite and at least 0: leave unknown samples out")
    scores = _one_hot(values) if values.ndim == 1 else values
    if scores.shape[1] < 2:
        raise ValueError(
            f"there must be at least two concepts; got {list(values.shape)}, which names one "
            "(class indices have one axis, [n])"
        )
    total = scores.sum(1, keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError(
            f"{int((total == 0).sum())} of {n} samples have no score above 0, first sample "
            f"{int((total == 0).nonzero()[0, 0])}: leave them out, or give them a concept 'none'"
        )
    return scores / total


def _one_hot(classes: Tensor) -> Float64[Tensor, "n concepts"]:
    if not torch.equal(classes, classes.round()):
        raise ValueError(
            "class indices must be whole numbers; scores have two axes, [n, concepts]"
        )
    most = int(classes.max())
    if most >= len(classes):
        raise ValueError(
            f"class indices are 0 to concepts - 1; got {most} in {len(classes)} samples: number "
            "the classes: concepts.unique(return_inverse=True)[1]"
        )
    return F.one_hot(classes.long()).double()


def _assign_folds(
    n: int, folds: int, seed: int, clusters: Int64[Tensor, " n"] | None
) -> Int64[Tensor, " n"]:
    """Assign each sample a fold; clusters stay together."""
    found = torch.empty(n, dtype=torch.long)
    parts = folds_of(n, folds, torch.Generator().manual_seed(seed), clusters)
    for fold, rows in enumerate(parts):
        found[rows] = fold
    return found
