"""Per-sample contributions and influences of an estimate, and the standard error from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from pid_lens.results.atoms import Atoms, Unit
from pid_lens.results.sampling_error import standard_error


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Sampled:
    """Per-sample part of a result: contributions, influence function, groups of samples.

    A base class of every result over samples.

    Attributes:
        pointwise: contribution of each sample, [..., n], whose means are the values.
        influence: influence function of the values at each sample, [..., n]: how far the sample
            moves them, times n; mean 0.
        groups: group of each sample, [n]; None where the samples are independent.

    Example:
        >>> import torch
        >>> from pid_lens.results import Atoms
        >>> each = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        >>> names = ("information", "information_vision", "information_language", "union", "gap")
        >>> Sampled(influence=Atoms(**dict.fromkeys(names, each))).standard_error("information")
        tensor(1., dtype=torch.float64)
    """

    pointwise: Atoms | None = None
    influence: Atoms | None = None
    groups: Tensor | None = None

    def standard_error(self, name: str) -> Float64[Tensor, "*batch"]:
        """Compute the standard error of one value ("synergy", "information", ...), [...].

        By the delta method: that of the mean of the influences, cluster-robust where samples have
        groups. inf where the value is infinite.

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
    """Atoms of any shape, with the per-sample contributions and influences behind them.

    Example:
        >>> import torch
        >>> from pid_lens.results import Atoms
        >>> names = ("information", "information_vision", "information_language", "union", "gap")
        >>> each = Atoms(**dict.fromkeys(names, torch.tensor([0.5, 1.5], dtype=torch.float64)))
        >>> whole = {name: getattr(each, name).mean() for name in names}
        >>> found = SampledAtoms(**whole, pointwise=each)
        >>> found.information, [round(one, 4) for one in found.to("nats").pointwise.union.tolist()]
        (tensor(1., dtype=torch.float64), [0.3466, 1.0397])
    """

    def _in_unit(self, unit: Unit) -> dict[str, Any]:
        parts = {"pointwise": self.pointwise, "influence": self.influence}
        known = {name: part.to(unit) for name, part in parts.items() if part is not None}
        return super()._in_unit(unit) | known
