"""What an estimator returns: four atoms a layer, with their unit, their proof and their doubts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pid_lens.atoms import ATOMS, FIELDS, PARTS, Atoms
from pid_lens.differences import DIFFERENCE, difference, ends_of
from pid_lens.doubts import doubts, unanswered
from pid_lens.errors import interval, standard_error
from pid_lens.storage import load_record, save_record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TOTALS = (
    "information",
    "information_vision",
    "information_language",
    "co_information",
)
FLAGS = ("gap", "mismatch", "ess", "feasible", "doubtful")
_UNIQUE = ("unique_vision", "unique_language")
SHOWN = ("repair", "tau", "draws", "redundancy", "target", "components")
"""The settings that a representation names."""
ROUNDING = 1e-9
"""Two values this near are one, bits or nats."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Spectrum(Atoms):
    """The atoms of every layer, with the settings behind them and the reasons for doubt.

    All tensors are float64 ``[layers]``. ``a - b`` of two spectra over the same samples gives
    the change of every number, for instance what a knockout costs.
    """

    layers: tuple[int, ...]
    ids: tuple[str, ...]
    """The samples behind it, so that only spectra over the same ones are subtracted."""
    conditions: tuple[str, ...] = ("full", "vision", "language")
    estimator: str
    settings: dict[str, Any] = field(default_factory=dict)
    """tau, repair, draws and whatever else the numbers depend on."""
    mismatch: Tensor = None  # type: ignore[assignment]
    """Largest |mean p_condition - mean p_full| over the options, before repair; 0 is best."""
    ess: Tensor = None  # type: ignore[assignment]
    """Effective sample size of the tilting weights over n, in (0, 1]; 1 is best."""
    feasible: Tensor = None  # type: ignore[assignment]
    """Whether tilting weights were found, bool."""
    fallback: Tensor = None  # type: ignore[assignment]
    """Share of samples below tau, [layers, conditions]."""
    sensitivity: Atoms | None = None
    """The same atoms by the other repair; NaN where it is infeasible."""
    doubtful: Tensor = None  # type: ignore[assignment]
    """Layers not to be relied on, bool; drawn hollow. Unless said otherwise, where

    - the three conditions disagree on the answers' marginal, so that the atoms rest on the
      repair: no tilting weights were found, or they keep less than half of the samples;
    - one modality alone seems to tell over .05 more than both, which no one world allows;
    - more than half of the samples have no answer yet in the full condition (`fallback`);
    - the certified interval is wider than .05.
    """

    pointwise: Atoms | None = None
    """Each sample's contribution, [layers, n] in the order of ``ids``; means are the values."""
    influence: Atoms | None = None
    """How far each sample moves the values, times n, [layers, n]."""
    groups: Tensor | None = None
    """The cluster of each sample, where they are not independent."""
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
        best = {
            "mismatch": torch.zeros(count, dtype=torch.float64),
            "ess": torch.ones(count, dtype=torch.float64),
            "feasible": torch.ones(count, dtype=torch.bool),
            "fallback": torch.zeros(count, len(self.conditions), dtype=torch.float64),
        }
        for name, value in best.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.doubtful is None:
            object.__setattr__(self, "doubtful", doubts(self))

    @property
    def shares(self) -> dict[str, Tensor]:
        """Each atom as a share of the information, [layers]; NaN where there is none.

        NaN throughout for a difference, whose parts are no parts of a whole.
        """
        shares = super().shares
        difference = self.estimator.startswith(DIFFERENCE)
        return {k: v * torch.nan for k, v in shares.items()} if difference else shares

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def standard_error(self, name: str) -> Tensor:
        """The sampling error of one value ("synergy", "information", ...), [layers].

        By the delta method, repair included; of a difference, paired by sample.

        Raises:
            ValueError: the estimator gave no influences.
        """
        if self.influence is None:
            raise ValueError(f"{self.estimator} gives no influences, so there is no error")
        return standard_error(getattr(self.influence, name), self.groups)

    def interval(self, name: str, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """A confidence interval of one value, [layers] each.

        From the plug-in to the cross-fitted end of the `bracket`, where there is one, half the
        certified gap on either side, and c standard errors beyond, c between 1.64 and 1.96 at
        95 % (`errors.interval`): the truth lies between the two ends but for chance. Of a
        difference the ends are crossed, plug-in minus cross-fitted and cross-fitted minus
        plug-in, as either side's bias may be anywhere in its bracket. On the recipes of
        `truth.layered_reads` 95 % intervals cover at least 90 %, and at most 98.5 % where every
        atom is above 0 (`tests/test_coverage.py`); more where some are 0. Without a bracket it
        knows nothing of the bias of few samples and many answers.
        """
        ends = torch.stack([getattr(end, name) for end in ends_of(self)])
        return interval(ends, self.gap, self.standard_error(name), level)

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
        proven = (self.gap + self.floor.gap) / 2 + ROUNDING
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

    def __sub__(self, other: Spectrum) -> Spectrum:
        """The change of the atoms from ``other`` to this, over the same samples.

        Gaps add up; every flag is the worse of the two; the floor of chance is left out. Where
        both informations are infinite their change is NaN, with a warning. Model and noise may
        differ: that is what is compared. Settings are this one's, the other's stand under
        ``minus``.

        Raises:
            ValueError: other samples, layers, unit, estimator, repair or threshold.
        """
        if not isinstance(other, Spectrum):
            return NotImplemented
        return difference(self, other)

    def to_pandas(self) -> pd.DataFrame:
        """One row a layer: atoms, information, gap and every flag."""
        import pandas as pd

        columns = {name: getattr(self, name).numpy() for name in (*ATOMS, *TOTALS, *FLAGS)}
        for name in ATOMS if self.influence is not None else ():
            columns[f"{name}_error"] = self.standard_error(name).numpy()
        for name, below in zip(self.conditions, self.fallback.T, strict=True):
            columns[f"fallback_{name}"] = below.numpy()
        for name in ATOMS if self.sensitivity is not None else ():
            columns[f"{name}_other_repair"] = getattr(self.sensitivity, name).numpy()
        return pd.DataFrame(columns, index=pd.Index(self.layers, name="layer"))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the atoms over the layers; doubtful layers hollow."""
        from pid_lens.plots import plot_spectrum

        return plot_spectrum(self, ax)

    def _errors(self) -> str:
        """The last layer's atoms, each with its standard error where there is one."""
        if self.influence is None:
            return self._line(-1)
        errors = (float(self.standard_error(name)[-1]) for name in ATOMS)
        pairs = zip(self._line(-1).split(), errors, strict=True)
        return " ".join(f"{atom}±{error:.3f}" for atom, error in pairs)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        for part in PARTS:
            if getattr(self, part) is not None:
                tensors |= {f"{part}.{k}": getattr(getattr(self, part), k) for k in FIELDS}
        for name in ("groups", "draw_bias"):
            if getattr(self, name) is not None:
                tensors[name] = getattr(self, name)
        about = {name: getattr(self, name) for name in _ABOUT}
        save_record(path, "pid_lens.Spectrum", tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> Spectrum:
        """Reads what `save` wrote."""
        tensors, about = load_record(path, "pid_lens.Spectrum")
        parts: dict[str, Any] = {}
        for part in PARTS:
            found = {k: tensors.pop(f"{part}.{k}", None) for k in FIELDS}
            sound = found["union"] is not None
            parts[part] = Atoms(unit=about["unit"], **found) if sound else None
        for name in ("layers", "ids", "conditions"):
            about[name] = tuple(about[name])
        return cls(**parts, **tensors, **about)

    def __repr__(self) -> str:
        doubt, below = int(self.doubtful.sum()), float(unanswered(self)[-1])
        settings = ", ".join(f"{k}={v}" for k, v in self.settings.items() if k in SHOWN)
        widest = float(self.gap.max())
        proven = f"gap<={widest:.1g}, " if widest > 0 else ""
        return (
            f"Spectrum(layer {self.layers[-1]}: {self._errors()} of "
            f"I={float(self.information[-1]):.3f} {self.unit}; n={self.n}, "
            f"{len(self.layers)} layers, {proven}{self.estimator}"
            f"({settings}){f', {doubt} doubtful layers' if doubt else ''}"
            f"{f', {below:.0%} below tau' if below > 0.5 else ''})"
        )


_TENSORS = (*FIELDS, "mismatch", "ess", "feasible", "fallback", "doubtful")
_ABOUT = ("unit", "layers", "ids", "conditions", "estimator", "settings")
