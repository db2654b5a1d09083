"""Curve: one quantity at every layer, with its unit, its standard error and its upper bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from pid_lens.records import load_record, save_record
from pid_lens.results.atoms import NATS, Unit, require_unit
from pid_lens.results.drawing import label_layers, layer_axes
from pid_lens.results.pairing import DIFFERENCE, align_rows, common_groups, require_comparable
from pid_lens.results.sampling_error import confidence_interval, standard_error

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from torch import Tensor

NEAR_CAP = 0.9
"""Share of its cap above which a value says only that it is large."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Curve:
    """One quantity at every layer: a mean over samples, with the contribution of each sample.

    The result of `InfoNCE`, `ContextualContribution` and `ConceptBottleneck`. Tensors are float64
    on the CPU, in ``unit``. ``a - b`` of two curves over the same samples is paired: its error is
    that of the mean difference.

    ``value``, ``error``, ``near_cap``: [layers]; ``n``: number of samples

    ``interval()``, ``to("nats")``, ``to_pandas()``, ``plot()``, ``save(path)``, ``load(path)``

    Attributes:
        name: name of the quantity, as an axis shows it.
        pointwise: contribution of each sample, [layers, n] in the order of ``ids``.
        layers: numbers of the layers.
        ids: names of the samples behind it: those on which the estimator was not trained.
        estimator: class name of the estimator; "difference of ..." after ``a - b``.
        unit: ``"bits"`` or ``"nats"``.
        settings: settings of the reads and of the estimator.
        cap: upper bound of what the estimator can report, [layers], such as the log of the number
            of samples among which a critic chooses; None where there is none.
        groups: group of each sample, [n]; None where the samples are independent.
        parts: the curves of which it is made, by name.

    Raises:
        ValueError: pointwise values of another shape or not finite, or a sample that occurs
            twice.

    Example:
        >>> import torch
        >>> values = torch.tensor([[1.0, 3.0], [2.0, 2.0]], dtype=torch.float64)
        >>> curve = Curve(name="information", pointwise=values, layers=(0, 1), ids=("a", "b"),
        ...               estimator="Mine")
        >>> curve.value, curve.error
        (tensor([2., 2.], dtype=torch.float64), tensor([1., 0.], dtype=torch.float64))
        >>> curve
        Curve(information, layer 1: 2.000±0.000 bits; n=2, 2 layers, Mine())
        >>> (curve - curve).value.tolist(), curve.to_pandas()["value"].tolist()
        ([0.0, 0.0], [2.0, 2.0])
    """

    name: str
    pointwise: Tensor
    layers: tuple[int, ...]
    ids: tuple[str, ...]
    estimator: str
    unit: Unit = "bits"
    settings: dict[str, Any] = field(default_factory=dict)
    cap: Tensor | None = None
    groups: Tensor | None = None
    parts: dict[str, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = [len(self.layers), len(self.ids)]
        if list(self.pointwise.shape) != expected:
            raise ValueError(
                f"pointwise must be [layers, n] = {expected}; got {list(self.pointwise.shape)}"
            )
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise ValueError(
                f"each sample counts once; {len(twice)} of the ids occur more than once, such as "
                f"{twice[0]!r}"
            )
        bad = (~self.pointwise.isfinite()).nonzero()
        if len(bad):
            layer, row = bad[0].tolist()
            raise ValueError(
                f"pointwise must be finite; got {float(self.pointwise[layer, row])} at layer "
                f"{self.layers[layer]}, sample {self.ids[row]!r}: leave that sample out"
            )

    @property
    def value(self) -> Tensor:
        """Mean over samples, [layers]."""
        return self.pointwise.mean(1)

    @property
    def error(self) -> Tensor:
        """Standard error of the value, [layers]; cluster-robust where samples have groups."""
        return standard_error(self.pointwise - self.value[:, None], self.groups)

    @property
    def near_cap(self) -> Tensor:
        """Whether the value, or one of its parts, is above 90 % of its cap, [layers] bool.

        Within 10 % of its cap a value says only that it is large, and a difference with such a
        part says little.
        """
        near = torch.zeros(len(self.layers), dtype=torch.bool)
        if self.cap is not None:
            near |= self.value > NEAR_CAP * self.cap
        for part in self.parts.values():
            near |= part.near_cap
        return near

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Compute a confidence interval of the value, [layers] each, from sampling error alone.

        Raises:
            ValueError: a level outside (0, 1).
        """
        return confidence_interval(
            self.value[None], torch.zeros_like(self.value), self.error, level
        )

    def to(self, unit: Unit) -> Self:
        """Convert to another unit, ``"bits"`` or ``"nats"``.

        Raises:
            ValueError: an unknown unit.
        """
        require_unit(unit)
        factor = NATS[self.unit] / NATS[unit]
        return replace(
            self,
            unit=unit,
            pointwise=self.pointwise * factor,
            cap=None if self.cap is None else self.cap * factor,
            parts={name: part.to(unit) for name, part in self.parts.items()},
        )

    def __sub__(self, other: Curve) -> Curve:
        """Subtract ``other``, sample by sample; both curves become parts of the difference.

        Raises:
            ValueError: another quantity, or other samples, layers, unit, estimator or settings.
        """
        if not isinstance(other, Curve):
            return NotImplemented
        require_comparable(self, other, ("name", "unit", "layers", "estimator"))
        return replace(
            self,
            pointwise=self.pointwise - other.pointwise[:, align_rows(self, other)],
            groups=common_groups(self, other),
            estimator=f"{DIFFERENCE}{self.estimator}",
            settings={**self.settings, "minus": other.settings},
            cap=None,
            parts={"changed": self, "baseline": other},
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return a table, a row per layer: value, error, near_cap, cap; those of each part."""
        import pandas as pd

        columns = {"value": self.value, **self._columns("")}
        for name, part in self.parts.items():
            columns |= {name: part.value, **part._columns(f"{name}_")}
        rows = pd.Index(self.layers, name="layer")
        return pd.DataFrame({k: v.numpy() for k, v in columns.items()}, index=rows)

    def _columns(self, prefix: str) -> dict[str, Tensor]:
        """Collect the columns of a table that go with the value."""
        columns = {"error": self.error, "near_cap": self.near_cap}
        columns |= {} if self.cap is None else {"cap": self.cap}
        return {f"{prefix}{name}": column for name, column in columns.items()}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the value over the layers with its 95 % interval and its cap."""
        return plot_curve(self, ax)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, which `load` loads.

        Raises:
            FileNotFoundError: its folder does not exist.
        """
        tensors: dict[str, Tensor] = {}
        save_record(path, "pid_lens.Curve", tensors, self._record("", tensors))

    @classmethod
    def load(cls, path: str | Path) -> Curve:
        """Load a curve that `save` wrote.

        Raises:
            ValueError: the file is not a safetensors file, or holds another kind of record.
            FileNotFoundError: there is no such file.
        """
        tensors, about = load_record(path, "pid_lens.Curve")
        return cls._recalled("", tensors, about)

    def _record(self, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Return all but the tensors, which are added to those given, names prefixed."""
        for name in _TENSORS:
            if getattr(self, name) is not None:
                tensors[prefix + name] = getattr(self, name)
        about = {name: getattr(self, name) for name in _ABOUT}
        parts = {k: p._record(f"{prefix}{k}/", tensors) for k, p in self.parts.items()}
        return {**about, "parts": parts}

    @classmethod
    def _recalled(cls, prefix: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> Curve:
        found: dict[str, Any] = {k: tensors[prefix + k] for k in _TENSORS if prefix + k in tensors}
        parts = {k: cls._recalled(f"{prefix}{k}/", tensors, p) for k, p in about["parts"].items()}
        tuples = {name: tuple(about[name]) for name in ("layers", "ids")}
        return cls(**{**about, **tuples, "parts": parts}, **found)

    def __repr__(self) -> str:
        settings = ", ".join(
            f"{k}={v}" for k, v in self.settings.items() if isinstance(v, str | int | float)
        )
        capped = int(self.near_cap.sum())
        return (
            f"Curve({self.name}, layer {self.layers[-1]}: {float(self.value[-1]):.3f}±"
            f"{float(self.error[-1]):.3f} {self.unit}; n={self.n}, {len(self.layers)} layers, "
            f"{self.estimator}({settings}){f', {capped} near the cap' if capped else ''})"
        )


_TENSORS = ("pointwise", "cap", "groups")
_ABOUT = ("name", "unit", "layers", "ids", "estimator", "settings")


def plot_curve(curve: Curve, ax: Axes | None = None) -> Axes:
    """Plot one quantity over the layers, its parts, and the cap of its estimator.

    Bands are 95 % intervals of the mean over samples; where a marker is hollow the value, or one
    of its parts, lies within 10 % of its cap and says only that it is large.

    Example:
        >>> import torch
        >>> from pid_lens import Curve
        >>> values = torch.tensor([[1.0, 3.0], [2.0, 4.0]], dtype=torch.float64)
        >>> curve = Curve(name="information", pointwise=values, layers=(0, 1), ids=("a", "b"),
        ...               estimator="Mine")
        >>> ax = plot_curve(curve)
        >>> [line.get_ydata().tolist() for line in ax.lines if line.get_label() == "information"]
        [[2.0, 3.0]]
        >>> ax.get_ylabel()
        'information (bits)'
    """
    ax = layer_axes(ax)
    lines = {curve.name: curve, **curve.parts}
    for index, (name, line) in enumerate(lines.items()):
        colour = f"C{index}"
        ax.fill_between(line.layers, *line.interval(), color=colour, alpha=0.25, linewidth=0)
        ax.plot(
            line.layers, line.value, color=colour, linewidth=1.6 if index == 0 else 1.1, label=name
        )
        for hollow in (False, True):
            at = (line.near_cap == hollow).nonzero().flatten().tolist()
            ax.plot(
                [line.layers[i] for i in at],
                line.value[at],
                linestyle="none",
                marker="o" if index == 0 else ".",
                markeredgecolor=colour,
                markerfacecolor="white" if hollow else colour,
            )
    caps = {float(c) for line in lines.values() if line.cap is not None for c in line.cap}
    for cap in sorted(caps):
        ax.axhline(cap, color="0.5", linestyle=":", linewidth=1)
        ax.annotate("cap", (1, cap), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    label_layers(ax, curve.layers, curve.unit if curve.parts else f"{curve.name} ({curve.unit})")
    ax.legend(frameon=False, fontsize="small")
    return ax
