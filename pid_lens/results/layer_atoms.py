"""LayerAtoms: four atoms a layer, with errors, intervals and reasons for doubt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pid_lens.results.atoms import FIELDS, NATS, Atoms, Unit
from pid_lens.results.pairing import DIFFERENCE
from pid_lens.results.sampled_atoms import SampledAtoms
from pid_lens.results.sampling_error import confidence_interval

PARTS = ("sensitivity", "pointwise", "influence", "bracket", "floor")
"""What a spectrum holds besides its own atoms, as atoms."""
TOO_MUCH = 0.05
"""So many bits may one modality tell beyond both, or an interval be wide, without doubt."""
LOW_ESS = 0.5
"""Below this share of effective samples a layer is called doubtful."""
UNANSWERED = 0.5
"""Above this share of samples without an answer a layer is called doubtful."""
SAME_VALUE = 1e-9
"""Two values this near are one, bits or nats."""
UNTOLD: Any = None
"""Stands for a flag that an estimator says nothing of: the best value is taken."""

_UNIQUE = ("unique_vision", "unique_language")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LayerAtoms(SampledAtoms):
    """The atoms of every layer over the same samples, and what is to be thought of them.

    All tensors are float64 ``[layers]`` unless said otherwise.
    """

    layers: tuple[int, ...]
    ids: tuple[str, ...]
    """The samples behind it, so that only spectra over the same ones are subtracted."""
    conditions: tuple[str, ...] = ("full", "vision", "language")
    estimator: str
    settings: dict[str, Any] = field(default_factory=dict)
    """tau, repair, draws and whatever else the numbers depend on."""
    mismatch: Tensor = UNTOLD
    """Largest |mean p_condition - mean p_full| over the options, before repair; 0 is best."""
    ess: Tensor = UNTOLD
    """Effective sample size of the tilting weights over n, in (0, 1]; 1 is best."""
    feasible: Tensor = UNTOLD
    """Whether tilting weights were found, bool."""
    fallback: Tensor = UNTOLD
    """Share of samples below tau, [layers, conditions]."""
    sensitivity: Atoms | None = None
    """The same atoms by the other repair; NaN where it is infeasible."""
    doubtful: Tensor = UNTOLD
    """Layers not to be relied on, bool; drawn hollow. Unless said otherwise, where

    - the three conditions disagree on the answers' marginal, so that the atoms rest on the
      repair: no tilting weights were found, or they keep less than half of the samples;
    - one modality alone seems to tell over .05 more than both, which no one world allows;
    - more than half of the samples have no answer yet in the full condition (`fallback`);
    - the certified interval is wider than .05.
    """

    draw_bias: Tensor | None = None
    """How much too high finitely many noise draws make what vision and language tell alone,
    [layers, 2]; None for single draws, which tell nothing about their own bias."""
    bracket: Atoms | None = None
    """Cross-fitted values: where the plug-in's union is biased upward, this one is downward. Of
    a difference all differences of ends, [ends, layers]."""
    floor: Atoms | None = None
    """What the values are when the two modalities are exchanged at random, [draws, layers]."""

    def __post_init__(self) -> None:
        count = len(self.layers)
        self._fill("mismatch", torch.zeros(count, dtype=torch.float64))
        self._fill("ess", torch.ones(count, dtype=torch.float64))
        self._fill("feasible", torch.ones(count, dtype=torch.bool))
        self._fill("fallback", torch.zeros(count, len(self.conditions), dtype=torch.float64))
        if self.doubtful is UNTOLD:  # asked last, as it looks at the others
            self._fill("doubtful", self._doubts())

    def _fill(self, name: str, value: Tensor) -> None:
        """Gives a field its value, where it has none."""
        if getattr(self, name) is UNTOLD:
            object.__setattr__(self, name, value)

    def _doubts(self) -> Tensor:
        """Where the layers contradict themselves or their repair decides."""
        alone = torch.maximum(self.information_vision, self.information_language)
        too_much = TOO_MUCH * NATS["bits"] / NATS[self.unit]
        contradiction = alone > self.information + too_much
        unsure = ~self.feasible | (self.ess < LOW_ESS) | (self.gap > too_much)
        return unsure | contradiction | (self.unanswered > UNANSWERED)

    def _in_unit(self, unit: Unit) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("sensitivity", "bracket", "floor")}
        known = {name: part.to(unit) for name, part in parts.items() if part is not None}
        if self.draw_bias is not None:
            known["draw_bias"] = NATS[self.unit] / NATS[unit] * self.draw_bias
        return super()._in_unit(unit) | known

    @property
    def _estimated_by(self) -> str:
        return self.estimator

    @property
    def is_difference(self) -> bool:
        """Whether it is what changed from one result to another."""
        return self.estimator.startswith(DIFFERENCE)

    @property
    def unanswered(self) -> Tensor:
        """Share of samples without an answer in the full condition, [layers]."""
        if "full" not in self.conditions:
            return torch.zeros_like(self.information)
        return self.fallback[:, self.conditions.index("full")]

    @property
    def ends(self) -> list[Atoms]:
        """What a bias may lie between: the plug-in, and whatever the bracket has."""
        if self.bracket is None:
            return [self]
        fields = {name: getattr(self.bracket, name) for name in FIELDS}
        columns = zip(*(torch.atleast_2d(value) for value in fields.values()), strict=True)
        ends: list[dict[str, Any]] = [dict(zip(fields, row, strict=True)) for row in columns]
        return [self, *(Atoms(**end, unit=self.unit) for end in ends)]

    @property
    def shares(self) -> dict[str, Tensor]:
        """Each atom as a share of the information, [layers]; NaN where there is none.

        NaN throughout for a difference, whose parts are no parts of a whole.
        """
        shares = super().shares
        return {k: v * torch.nan for k, v in shares.items()} if self.is_difference else shares

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def interval(self, name: str, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """A confidence interval of one value, [layers] each.

        From the plug-in to the cross-fitted end of the `bracket`, where there is one, half the
        certified gap on either side, and c standard errors beyond, c between 1.64 and 1.96 at
        95 % (`confidence_interval`): the truth lies between the two ends but for chance. Of a
        difference the ends are crossed, plug-in minus cross-fitted and cross-fitted minus
        plug-in, as either side's bias may be anywhere in its bracket. On the recipes of
        `truth.layered_reads` 95 % intervals cover at least 90 %, and at most 98.5 % where every
        atom is above 0 (`tests/estimators/broja/test_coverage.py`); more where some are 0.
        Without a bracket it knows nothing of the bias of few samples and many answers.
        """
        ends = torch.stack([getattr(end, name) for end in self.ends])
        return confidence_interval(ends, self.gap, self.standard_error(name), level)

    def p_value(self, name: str) -> Tensor:
        """How often chance alone reads at least as much, [layers]: (1 + hits) / (1 + draws).

        Chance being the `floor`, where vision and language are exchanged at random: for
        "unique_vision" and "unique_language", which are equal there on average. What the
        certified gaps leave open counts as at least as much.

        Raises:
            ValueError: there is no floor, or another value.
        """
        if self.floor is None:
            raise ValueError("no floor was computed: BROJA(floor=99) exchanges 99 times")
        if name not in _UNIQUE:
            raise ValueError(f"the floor tells of {' and '.join(_UNIQUE)}; got {name!r}")
        value, null = getattr(self, name), getattr(self.floor, name)
        proven = (self.gap + self.floor.gap) / 2 + SAME_VALUE
        share = (1 + (null + proven >= value).sum(0)) / (1 + len(null))
        return share.where(value.isfinite(), torch.nan)

    def strongest(self, name: str, k: int = 10, layer: int = -1) -> list[tuple[str, float]]:
        """The samples that contribute most to a value, with how much each contributes.

        Example:
            >>> import pid_lens
            >>> model, _ = pid_lens.demo.load()
            >>> found = pid_lens.spectrum(model, pid_lens.demo.batches("synergy", n=64))
            >>> len(found.strongest("synergy", k=3))
            3

        Raises:
            ValueError: the estimator gave no pointwise values.
        """
        if self.pointwise is None:
            raise ValueError(f"{self.estimator} gives no pointwise values")
        values = getattr(self.pointwise, name)[layer]
        order = values.argsort(descending=True, stable=True)[:k].tolist()
        return [(self.ids[i], float(values[i])) for i in order]
