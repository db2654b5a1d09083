"""LayerAtoms: the atoms of every layer, with errors, confidence intervals and diagnostics."""

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
"""Fields of a spectrum that are themselves `Atoms`."""
TOO_MUCH = 0.05
"""Bits by which one modality's information may exceed that of both, or the certified interval be
wide, before a layer is called doubtful."""
LOW_ESS = 0.5
"""Share of effective samples below which a layer is called doubtful."""
UNANSWERED = 0.5
"""Share of samples without an answer above which a layer is called doubtful."""
SAME_VALUE = 1e-9
"""Rounding within which two values count as equal, bits or nats."""
UNTOLD: Any = None
"""Default of a diagnostic that the estimator does not compute: its best value is taken."""

_UNIQUE = ("unique_vision", "unique_language")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class LayerAtoms(SampledAtoms):
    """Atoms of every layer over the same samples, with errors, intervals and diagnostics.

    All tensors are float64 ``[layers]`` unless another shape is given. Unless the estimator sets
    it, a layer is ``doubtful``, not to be relied on, where

    - the three conditions disagree on the answers' marginal, so that the atoms rest on the
      repair: no tilting weights were found, or they keep less than half of the samples;
    - one modality alone seems to carry over .05 bits more than both, which no one joint
      distribution allows;
    - more than half of the samples have no answer yet in the full condition (``fallback``);
    - the certified interval is wider than .05 bits.

    Attributes:
        layers: numbers of the layers.
        ids: names of the samples; only spectra over the same ones are subtracted.
        conditions: names of the conditions.
        estimator: class name of the estimator.
        settings: tau, repair, draws and all else on which the numbers depend.
        mismatch: largest |mean p_condition - mean p_full| over the options, before the repair;
            0 is best.
        ess: effective sample size of the exponential tilting weights over n, in (0, 1]; 1 is
            best.
        feasible: whether tilting weights were found, bool.
        fallback: share of samples whose mass on the options is below tau, [layers, conditions].
        sensitivity: the same atoms by the other repair; NaN where it is infeasible.
        doubtful: layers not to be relied on, bool; drawn hollow.
        draw_bias: upward bias of the information of vision and of language that averaging over
            finitely many noise draws leaves, [layers, 2]; None for single draws, which carry no
            information about their own bias.
        bracket: cross-fitted values: where the plug-in estimate of the union is biased upward,
            this one is downward. Of a difference all differences of ends, [ends, layers].
        floor: null of the permutation test: the values when the two modalities are exchanged at
            random, [permutations, layers].

    Example:
        >>> import torch
        >>> bit, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> found = LayerAtoms(information=none, information_vision=bit, information_language=none,
        ...                    union=bit, gap=none, layers=(7,), ids=("a", "b"), estimator="Mine")
        >>> found.doubtful, found.n  # vision alone carries more than vision and language
        (tensor([True]), 2)
    """

    layers: tuple[int, ...]
    ids: tuple[str, ...]
    conditions: tuple[str, ...] = ("full", "vision", "language")
    estimator: str
    settings: dict[str, Any] = field(default_factory=dict)
    mismatch: Tensor = UNTOLD
    ess: Tensor = UNTOLD
    feasible: Tensor = UNTOLD
    fallback: Tensor = UNTOLD
    sensitivity: Atoms | None = None
    doubtful: Tensor = UNTOLD
    draw_bias: Tensor | None = None
    bracket: Atoms | None = None
    floor: Atoms | None = None

    def __post_init__(self) -> None:
        count = len(self.layers)
        self._fill("mismatch", torch.zeros(count, dtype=torch.float64))
        self._fill("ess", torch.ones(count, dtype=torch.float64))
        self._fill("feasible", torch.ones(count, dtype=torch.bool))
        self._fill("fallback", torch.zeros(count, len(self.conditions), dtype=torch.float64))
        if self.doubtful is UNTOLD:  # last, since it depends on the other fields
            self._fill("doubtful", self._doubts())

    def _fill(self, name: str, value: Tensor) -> None:
        """Set a field that the estimator left at its default."""
        if getattr(self, name) is UNTOLD:
            object.__setattr__(self, name, value)

    def _doubts(self) -> Tensor:
        """Find layers whose values contradict one another or rest on the repair."""
        # One source can carry no more information than both: I(Xi; Y) <= I(X1, X2; Y)
        alone = torch.maximum(self.information_vision, self.information_language)
        too_much = TOO_MUCH * NATS["bits"] / NATS[self.unit]
        contradiction = alone > self.information + too_much
        # Values that rest on the repair, or are not certified closely
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
        """Whether this is the difference of two results."""
        return self.estimator.startswith(DIFFERENCE)

    @property
    def unanswered(self) -> Tensor:
        """Share of samples without an answer in the full condition, [layers]."""
        if "full" not in self.conditions:
            return torch.zeros_like(self.information)
        return self.fallback[:, self.conditions.index("full")]

    @property
    def ends(self) -> list[Atoms]:
        """Ends between which the bias puts the truth: plug-in estimate and bracket."""
        if self.bracket is None:
            return [self]
        fields = {name: getattr(self.bracket, name) for name in FIELDS}
        columns = zip(*(torch.atleast_2d(value) for value in fields.values()), strict=True)
        ends: list[dict[str, Any]] = [dict(zip(fields, row, strict=True)) for row in columns]
        return [self, *(Atoms(**end, unit=self.unit) for end in ends)]

    @property
    def shares(self) -> dict[str, Tensor]:
        """Each atom divided by the information, [layers]; NaN where there is none.

        NaN throughout for a difference, whose parts are not parts of a whole.
        """
        shares = super().shares
        return {k: v * torch.nan for k, v in shares.items()} if self.is_difference else shares

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def interval(self, name: str, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Compute a confidence interval of one atom or information, [layers] each.

        From the plug-in to the cross-fitted end of the ``bracket``, where there is one, half the
        certified gap on either side, and c standard errors beyond, c between 1.64 and 1.96 at
        95 % (`confidence_interval`): the truth lies between the two ends but for chance. Of a
        difference the ends are crossed, plug-in minus cross-fitted and cross-fitted minus
        plug-in, as either side's bias may be anywhere in its bracket. On the recipes of
        `truth.layered_reads` 95 % intervals cover at least 90 %, and at most 98.5 % where every
        atom is above 0 (`tests/estimators/broja/test_coverage.py`); more where some are 0.
        Without a bracket it leaves out the bias of few samples and many answers.

        Raises:
            ValueError: a level outside (0, 1), or the estimator gave no influences.
        """
        ends = torch.stack([getattr(end, name) for end in self.ends])
        return confidence_interval(ends, self.gap, self.standard_error(name), level)

    def p_value(self, name: str) -> Tensor:
        """Compute the p-value of a permutation test, [layers]: (1 + hits) / (1 + permutations).

        The null is the ``floor``, where vision and language are exchanged at random: for
        "unique_vision" and "unique_language", which are equal there on average. A hit is a null
        value that is at least as large, or may be within the certified gaps.

        Raises:
            ValueError: there is no floor, or it has no null of this value.
        """
        if self.floor is None:
            raise ValueError("no floor was computed: BROJA(floor=99) exchanges 99 times")
        if name not in _UNIQUE:
            raise ValueError(f"the floor is a null of {' and '.join(_UNIQUE)} alone; got {name!r}")
        value, null = getattr(self, name), getattr(self.floor, name)
        # Hits of the null, those counted that the certified gaps and rounding leave open
        proven = (self.gap + self.floor.gap) / 2 + SAME_VALUE
        share = (1 + (null + proven >= value).sum(0)) / (1 + len(null))
        return share.where(value.isfinite(), torch.nan)

    def strongest(self, name: str, k: int = 10, layer: int = -1) -> list[tuple[str, float]]:
        """Find the samples that contribute most to a value, with the contribution of each.

        Raises:
            ValueError: the estimator gave no pointwise values.

        Example:
            >>> import torch
            >>> from pid_lens import BROJA, Reads
            >>> p = torch.tensor([[.5, .5], [.99, .01], [.01, .99], [.5, .5]])
            >>> reads = Reads.from_posteriors(p.log().expand(1, 3, 4, 2), ids="abcd")
            >>> found = BROJA().update(reads).result()
            >>> [(name, round(bits, 2)) for name, bits in found.strongest("redundancy", k=2)]
            [('b', 0.92), ('c', 0.92)]
        """
        if self.pointwise is None:
            raise ValueError(f"{self.estimator} gives no pointwise values")
        values = getattr(self.pointwise, name)[layer]
        order = values.argsort(descending=True, stable=True)[:k].tolist()
        return [(self.ids[i], float(values[i])) for i in order]
