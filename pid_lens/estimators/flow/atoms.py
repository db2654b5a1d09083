"""FlowAtoms: a decomposition after flows, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pid_lens.estimators.flow.gaussianity import Gaussianity
from pid_lens.estimators.gaussian.from_samples import is_uncertain, width_between
from pid_lens.results import Atoms, SampledAtoms, Unit

VARIABLES = ("answer", "vision", "language")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class FlowAtoms(SampledAtoms):
    """A decomposition after flows: the plug-in end, and what it rests on."""

    pointwise: Atoms = field()
    """Each sample's local information, [n]."""
    influence: Atoms = field()
    """How far each sample moves the atoms, times n, [n]; the flows are taken for given."""
    bracket: Atoms
    """The cross-fitted end of `gaussian_pid_samples`; it knows nothing of the flows' own error."""
    components: dict[str, int]
    """How many principal components of answer, vision and language were kept."""
    variance: dict[str, float]
    """The share of the variance that they hold."""
    gain: float
    """How much likelier the flows make a held-out sample than a Gaussian does, nats; 0 where
    they did not, and nothing but the principal components was taken."""
    steps: int
    """Of descent, the last ones that held-out samples gained by."""
    bounded: bool
    """Whether there is a likeliest flow. There is none where a direction of one variable is told
    by the others without error; then too nothing but the components was taken."""
    gaussianity: dict[str, tuple[Gaussianity, Gaussianity]]
    """How Gaussian answer, vision, language and all three jointly are, before and after."""
    n: int

    @property
    def width(self) -> float:
        """How far plug-in and cross-fitted atoms are apart at most."""
        return float(width_between(self, self.bracket))

    @property
    def doubtful(self) -> bool:
        """Whether it is clearly not Gaussian, infinite, without flows or wide in its bracket."""
        clear = any(after.clear for _, after in self.gaussianity.values())
        return clear or not self.bounded or bool(is_uncertain(self, self.bracket))

    def _in_unit(self, unit: Unit) -> dict[str, Any]:
        return super()._in_unit(unit) | {"bracket": self.bracket.to(unit)}

    def __repr__(self) -> str:
        kept = "+".join(str(self.components[name]) for name in VARIABLES)
        doubt = ", doubtful" * self.doubtful
        return (
            f"FlowAtoms({self._line(())} {self.unit}; n={self.n}, {kept} components, "
            f"gain={self.gain:.2f} nats{doubt})"
        )
