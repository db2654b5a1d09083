"""Spectrum: the partial information decomposition of every layer, as an estimator returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pid_lens.records import load_record, save_record
from pid_lens.results.atoms import ATOMS, FIELDS, Atoms
from pid_lens.results.difference import difference
from pid_lens.results.drawing import plot_spectrum
from pid_lens.results.layer_atoms import PARTS, LayerAtoms

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
SHOWN = ("repair", "tau", "draws", "redundancy", "target", "components")
"""Settings that the repr shows."""
EFFECTS = {
    "trapped visual-unique information": "unique_vision",
    "compensatory synergy": "synergy",
    "total information cost": "information",
}
"""The PID Flow paper's names for the changes that an attention knockout makes."""


class Provenance(Protocol):
    """Fields of `pid_lens.Reads` that its spectrum takes over."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the samples."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings on which the reads depend."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Spectrum(LayerAtoms):
    """Partial information decomposition of every layer, with errors and diagnostics.

    The result of `pid_lens.spectrum` for a model and its batches, and of ``result()`` of `BROJA`,
    `BATCH`, `FlowPID` and `GaussianPID` for reads. Tensors are float64 ``[layers]`` unless another
    shape is given; informations and atoms are in ``unit``. ``a - b`` of two spectra over the same
    samples is the change of every number with its paired error, for instance the cost of a
    knockout.

    Atoms: ``redundancy``, ``unique_vision``, ``unique_language``, ``synergy``, ``shares``

    Errors: ``standard_error("synergy")``, ``interval("synergy")``, ``p_value("unique_vision")``

    Output: ``to("nats")``, ``to_pandas()``, ``plot()``, ``save(path)``, ``load(path)``

    Attributes:
        information: I(X1, X2; Y), of image and question together about the answer.
        information_vision: I(X1; Y), of the image alone.
        information_language: I(X2; Y), of the question alone.
        union: the least I(X1, X2; Y) that the pairwise marginals allow.
        gap: width of the certified interval around ``union``; NaN where nothing is certified.
        unit: ``"bits"`` or ``"nats"``.
        layers: numbers of the layers.
        ids: names of the samples.
        conditions: names of the conditions.
        estimator: class name of the estimator.
        settings: tau, repair, draws and all else on which the numbers depend.
        doubtful: layers not to be relied on, bool; `LayerAtoms` lists the reasons.
        mismatch: largest |mean p_condition - mean p_full| over the options, before the repair.
        ess: effective sample size of the tilting weights over n, in (0, 1]; 1 is best.
        feasible: whether tilting weights were found, bool.
        fallback: share of samples without an answer (mass below tau), [layers, conditions].
        pointwise: contribution of each sample, `Atoms` of [layers, n].
        influence: influence function at each sample, `Atoms` of [layers, n].
        groups: group of each sample, [n]; None where the samples are independent.
        sensitivity: the same atoms by the other repair.
        bracket: cross-fitted values, `Atoms` of [layers].
        floor: null of the permutation test, `Atoms` of [permutations, layers].
        draw_bias: upward bias left by few noise draws, of vision and of language, [layers, 2].

    Example:
        >>> import torch, pid_lens
        >>> xor = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        >>> conditions = [xor, torch.full((4, 2), 0.5), torch.full((4, 2), 0.5)]
        >>> reads = pid_lens.Reads.from_posteriors(torch.stack(conditions)[None].log())
        >>> found = pid_lens.BROJA().update(reads).result()
        >>> found
        Spectrum(layer 0: R=...0.000... S=1.000... of I=1.000 bits; n=4, 1 layers, ...BROJA(...))
        >>> found.synergy.round(decimals=3)
        tensor([1.], dtype=torch.float64)
        >>> found.to("nats").to_pandas()["synergy"].round(3).tolist()
        [0.693]
    """

    @classmethod
    def of(
        cls,
        reads: Provenance,
        atoms: Atoms,
        *,
        estimator: object,
        settings: Mapping[str, Any],
        **more: Any,
    ) -> Spectrum:
        """Make the spectrum of reads from the atoms that an estimator computed.

        Args:
            reads: `pid_lens.Reads`, or an object with their layers, ids, conditions and settings.
            atoms: of each layer, [layers].
            estimator: the estimator, whose class name is recorded.
            settings: its own settings, in addition to those of the reads.
            more: the other fields of a spectrum, as far as the estimator computes them.

        Example:
            >>> import torch
            >>> from pid_lens import Reads
            >>> from pid_lens.results import Atoms
            >>> reads = Reads.from_posteriors(torch.full((1, 3, 4, 2), .5).log())
            >>> zero = torch.zeros(1, dtype=torch.float64)
            >>> atoms = Atoms(information=zero + 1, information_vision=zero,
            ...               information_language=zero, union=zero, gap=zero)
            >>> Spectrum.of(reads, atoms, estimator=object(), settings={"tau": 0.3})
            Spectrum(layer 0: R=0.000 U_vision=0.000 U_language=0.000 S=1.000 of I=1.000 bits;
            n=4, 1 layers, object(tau=0.3))
        """
        return cls(
            **{name: getattr(atoms, name) for name in FIELDS},
            unit=atoms.unit,
            layers=reads.layers,
            ids=reads.ids,
            conditions=reads.conditions,
            estimator=type(estimator).__name__,
            settings={**reads.settings, **settings},
            **more,
        )

    def __sub__(self, other: Spectrum) -> Spectrum:
        """Subtract another spectrum over the same samples, with paired errors.

        Gaps add up; every flag is the worse of the two; the floor of chance is left out. Where
        both informations are infinite their change is NaN, with a warning. Model and noise may
        differ: that is what is compared. Settings are this spectrum's, with the other's under
        ``minus``.

        Raises:
            ValueError: other samples, layers, unit, estimator, repair or threshold.
        """
        if not isinstance(other, Spectrum):
            return NotImplemented
        return difference(self, other)

    def effects(self) -> pd.DataFrame:
        """Return the three figures by which the PID Flow paper sums up a knockout, with errors.

        =================================== ==================================================
        trapped visual-unique information   change of U_vision. On answers: below 0, information
                                            that only vision carried and that no longer reaches
                                            them; on hidden states, as in the paper, it may rise
        compensatory synergy                change of S
        total information cost              change of I(X1, X2; Y) = R + U_vision + U_language
                                            + S
        =================================== ==================================================

        Returns:
            One row per layer: each figure and its paired standard error (``..., error``), in the
            unit of the spectra.

        Raises:
            ValueError: it is not a difference of two spectra, or has no errors.

        Source:
            How vision becomes language: a layer-wise information-theoretic analysis of
            multimodal reasoning (Wu et al., 2026), https://arxiv.org/abs/2602.15580

        Example:
            >>> import pid_lens
            >>> model, processor = pid_lens.demo.load()
            >>> batches = pid_lens.demo.batches("vision", n=64)
            >>> knockout = [pid_lens.Knockout("image", "question")]
            >>> masked = pid_lens.spectrum(model, batches, interventions=knockout)
            >>> change = pid_lens.compare(masked, pid_lens.spectrum(model, batches))
            >>> bool(change.effects()["trapped visual-unique information"].iloc[-1] < -0.9)
            True
        """
        import pandas as pd

        if not self.is_difference:
            raise ValueError(
                "the effects of a knockout are differences: compare(with_it, without).effects(); "
                f"this is a spectrum of {self.estimator}"
            )
        columns: dict[str, Any] = {}
        for figure, name in EFFECTS.items():
            columns[figure] = getattr(self, name).numpy()
            columns[f"{figure}, error"] = self.standard_error(name).numpy()
        return pd.DataFrame(columns, index=pd.Index(self.layers, name="layer"))

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row per layer: atoms, informations, gap and diagnostics."""
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
        """Plot the atoms over the layers; markers of doubtful layers are hollow."""
        return plot_spectrum(self, ax)

    def _errors(self) -> str:
        """Format the last layer's atoms, each with its standard error where there is one."""
        if self.influence is None:
            return self._line(-1)
        errors = (float(self.standard_error(name)[-1]) for name in ATOMS)
        pairs = zip(self._line(-1).split(), errors, strict=True)
        return " ".join(f"{atom}±{error:.3f}" for atom, error in pairs)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, which `load` loads.

        Raises:
            FileNotFoundError: its folder does not exist.
        """
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
        """Load a spectrum that `save` wrote.

        Raises:
            ValueError: the file is not a safetensors file, or holds another kind of record.
            FileNotFoundError: there is no such file.
        """
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
        doubt, below = int(self.doubtful.sum()), float(self.unanswered[-1])
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
