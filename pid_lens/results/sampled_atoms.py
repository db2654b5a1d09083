"""Sampled: what an estimate over samples says of each of them, and the error that follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from pid_lens.results.atoms import Atoms, Unit
from pid_lens.results.sampling_error import standard_error


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Sampled:
    """What each sample has to do with a result; a part of every result over samples."""

    pointwise: Atoms | None = None
    """Each sample's contribution, [..., n]; means are the values."""
    influence: Atoms | None = None
    """How far each sample moves the values, times n, [..., n]; mean 0."""
    groups: Tensor | None = None
    """The cluster of each sample, where they are not independent."""

    def standard_error(self, name: str) -> Float64[Tensor, "*batch"]:
        """The sampling error of one value ("synergy", "information", ...), [...].

        By the delta method: that of the mean of the influences, clusters counted as one. inf
        where the value is infinite.

        Raises:
            ValueError: there are no influences.
        """
        if self.influence is None:
            raise ValueError(
                f"{self._estimated_by} gives no influences, so there is no standard error"
            )
        values = getattr(self.influence, name)
        errors = standard_error(values.reshape(-1, values.shape[-1]), self.groups)
        return errors.reshape(values.shape[:-1])

    @property
    def _estimated_by(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SampledAtoms(Sampled, Atoms):
    """Atoms of any shape, with what each sample has to do with them."""

    def _in_unit(self, unit: Unit) -> dict[str, Any]:
        parts = {"pointwise": self.pointwise, "influence": self.influence}
        known = {name: part.to(unit) for name, part in parts.items() if part is not None}
        return super()._in_unit(unit) | known
