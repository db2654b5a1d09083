"""FlowAtoms: a Gaussian PID after normalizing flows, with its diagnostics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pid_lens.estimators.flow.gaussianity import Gaussianity
from pid_lens.estimators.gaussian.from_samples import is_uncertain, width_between
from pid_lens.results import Atoms, SampledAtoms, Unit

VARIABLES = ("answer", "vision", "language")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class FlowAtoms(SampledAtoms):
    """Plug-in estimate of a Gaussian PID after normalizing flows, with its diagnostics.

    Attributes:
        pointwise: each sample's local information, [n].
        influence: how far each sample moves the atoms, times n, [n]; the flows are taken as
            given.
        bracket: the cross-fitted estimate of `gaussian_pid_samples`; it does not include the
            flows' own error.
        components: number of principal components kept of answer, vision and language.
        variance: their share of the variance of answer, vision and language.
        gain: mean log-likelihood gain of the flows over a Gaussian, nats per held-out sample; 0
            where there was none, and only the principal components were used.
        steps: of gradient descent, the last ones that held-out samples gained by.
        bounded: whether the likelihood of the flows is bounded. It is not where a direction of
            one variable is determined by the rest without error; then, too, only the components
            were used.
        gaussianity: how Gaussian answer, vision, language and all three jointly are, before and
            after the flows.
        n: number of samples.

    Example:
        >>> import torch
        >>> from pid_lens.estimators import flow_pid
        >>> noise = torch.randn(3, 300, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> y, skewed, other = noise[0], (noise[0] + noise[1]).exp(), noise[2]
        >>> found = flow_pid(skewed, other, y, steps=0, folds=2, progress=False)
        >>> [one.clear for one in found.gaussianity["vision"]], found.components["answer"]
        ([True, False], 1)
        >>> found.gain > 0.5, bool(found.unique_vision > found.redundancy)
        (True, True)
    """

    pointwise: Atoms = field()
    influence: Atoms = field()
    bracket: Atoms
    components: dict[str, int]
    variance: dict[str, float]
    gain: float
    steps: int
    bounded: bool
    gaussianity: dict[str, tuple[Gaussianity, Gaussianity]]
    n: int

    @property
    def width(self) -> float:
        """Largest difference between plug-in and cross-fitted atoms."""
        return float(width_between(self, self.bracket))

    @property
    def doubtful(self) -> bool:
        """Whether the result is clearly not Gaussian, infinite, unbounded or of a wide bracket."""
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
