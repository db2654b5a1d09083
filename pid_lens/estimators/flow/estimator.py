"""FlowPID: PID of a model's hidden states after normalizing flows, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Self, get_args

import torch
from torch import Tensor

from pid_lens.estimators.common.clusters import Groups, clusters_of
from pid_lens.estimators.common.over_reads import (
    OverReads,
    require_finite,
    require_states,
    settings_from,
)
from pid_lens.estimators.flow.atoms import FlowAtoms
from pid_lens.estimators.flow.from_samples import decompose_flows, reduce_variable
from pid_lens.estimators.flow.inputs import FlowSettings, warn_if_many
from pid_lens.estimators.flow.reduction import Components
from pid_lens.estimators.gaussian.estimator import STATES_NEEDED, Target
from pid_lens.estimators.gaussian.from_covariance import Redundancy
from pid_lens.reads import Reads
from pid_lens.results import FIELDS, Atoms, Spectrum, Unit

_STATE_OF = {"answer": "answer", "vision": "image", "language": "question"}


@dataclass
class FlowPID(OverReads):
    """PID Flow: PID of a model's hidden states after normalizing flows, an ``Estimator``.

    X1 is the mean hidden state of the image tokens, X2 that of the question tokens, Y the
    hidden state at the answer position:
    ``Lens(..., states=[Pooled("image"), Pooled("question"), Pooled("answer")])``. In each layer
    `flow_pid` reduces them to principal components, makes them Gaussian by an invertible map
    each, and decomposes the result.

    What the numbers are:

    - Under a causal mask the question's tokens, which come after the image, have attended to
      it: X2 is not the question alone, and its unique information may have been read off the
      image. Knock out Image->Question attention (`Knockout`) to separate these.
    - Y is the answer position's state, by default that after the last layer, with all that the
      model holds there and not only the answer: information about it can be many bits. With
      ``target="same"`` it is that of the layer itself.
    - All states are of the forward pass without ablation; the options play no part.
    - The paper's flow maps source and target together, which changes their mutual information
      (``joint=True`` does so); here each variable has its own. Its redundancy is
      ``redundancy="minimum"``, by which one of the unique informations is always 0. The paper
      published no code; spans, Y and the flow are fixed here as said above.

    The spectrum is the plug-in estimate and ``bracket`` the cross-fitted one, as of
    `GaussianPID`. Doubtful are layers whose result is clearly not Gaussian, as states in
    clusters are: their informations are lower bounds at best. ``settings`` has, layer by layer,
    the number of components ``kept`` and their share of the variance, ``kept_variance``, the
    held-out ``gain`` of the flows in nats per sample, whether their likelihood is ``bounded``, and
    how Gaussian the result is: ``gaussianity[name]`` has skewness and kurtosis (`Gaussianity`)
    before and after.

    On the digits model, 450 samples of each task, the curves of three seeds correlate by .98 to
    1, but for those that are 0 throughout; six layers take about 10 seconds of one core.

    Attributes:
        target: Y is the hidden state at the answer position in the ``"last"`` layer that was
            read, or in the ``"same"`` layer as X1 and X2.
        redundancy: ``"exact"``, or ``"minimum"``: R = min(I1, I2), the paper's.
        variance: share of the variance to keep of a variable of more than 16 coordinates.
        components: of each variable, at most: three times 30 are a tenth of 900 samples; None
            for no limit.
        joint: let one flow mix all variables, see `flow_pid`: that changes mutual information.
        transforms: number of splines of each coordinate, with rotations in between.
        steps: of gradient descent, at most.
        folds: number of folds, held out in turn for early stopping.
        seed: of folds, batches and halves.
        unit: ``"bits"`` or ``"nats"``.
        groups: sample id -> its group of dependent samples; a group is held out as a whole, and
            standard errors are then cluster-robust. None where all samples are independent.
        progress: show a bar over the layers if they take longer than two seconds.

    Source:
        How vision becomes language: a layer-wise information-theoretic analysis of multimodal
        reasoning (Wu et al., 2026), https://arxiv.org/abs/2602.15580; Partial information
        decomposition via normalizing flows in latent Gaussian distributions (Zhao et al., 2025),
        https://arxiv.org/abs/2510.04417

    Raises:
        ValueError: an unknown target, redundancy or unit, or a number that is out of range, such
            as fewer than two folds.

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> from pid_lens import Reads
        >>> reads = Reads.from_posteriors(torch.zeros(1, 1, 900, 1), conditions=["full"])
        >>> one, two, n = torch.randn(3, 1, 900, 1, generator=torch.Generator().manual_seed(0))
        >>> states = {"image": one**3, "question": two, "answer": (one + n).exp()}
        >>> found = FlowPID().update(replace(reads, states=states)).result()
        >>> abs(float(found.unique_vision) - 0.5) < 0.15  # measured 0.57
        True
    """

    target: Target = "last"
    redundancy: Redundancy = "exact"
    variance: float = 0.95
    components: int | None = 30
    joint: bool = False
    transforms: int = 1
    steps: int = 300
    folds: int = 3
    seed: int = 0
    unit: Unit = "bits"
    groups: Groups | None = field(default=None, repr=False)
    progress: bool = field(default=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._settings()
        if self.target not in get_args(Target):
            raise ValueError(f"target must be one of {get_args(Target)}; got {self.target!r}")

    def update(self, reads: Reads) -> Self:
        """Add samples; one with the id of an earlier sample replaces it.

        Raises:
            ValueError: states were not kept, or these reads cannot be mixed with those before.
        """
        require_states(type(self).__name__, reads, STATES_NEEDED)
        return super().update(reads)

    def result(self) -> Spectrum:
        """Compute the spectrum of all samples: flows and a Gaussian PID in each layer.

        Raises:
            ImportError: zuko is not installed.
            ValueError: no sample was added, too few for the components, NaN, a sample that
                ``groups`` lack, or a source that determines the answer's state.
        """
        from tqdm import tqdm

        reads = self.gather_in_order()
        layers = self._reduce_layers(reads)
        warn_if_many(layers)
        shown = tqdm(layers, "flows", delay=2, leave=False, disable=not self.progress)
        of = clusters_of(reads.ids, self.groups)
        rounds = zip(reads.layers, shown, strict=True)
        found = [self._decompose(layer, kept, of) for layer, kept in rounds]
        return Spectrum.of(
            reads,
            Atoms(**_stack(found), unit=self.unit),
            estimator=self,
            settings=self._own_settings() | _report(found),
            bracket=Atoms(**_stack([atoms.bracket for atoms in found]), unit=self.unit),
            pointwise=Atoms(**_stack([atoms.pointwise for atoms in found]), unit=self.unit),
            influence=Atoms(**_stack([atoms.influence for atoms in found]), unit=self.unit),
            groups=of,
            doubtful=torch.tensor([atoms.doubtful for atoms in found]),
        )

    def _decompose(self, layer: int, kept: dict[str, Components], of: Tensor | None) -> FlowAtoms:
        try:
            return decompose_flows(kept, self._settings(), of)
        except ValueError as error:
            raise ValueError(f"layer {layer}: {error}") from error

    def _settings(self) -> FlowSettings:
        return settings_from(FlowSettings, self)

    def _own_settings(self) -> dict[str, Any]:
        shown = (f.name for f in fields(self) if f.repr and f.name != "unit")
        said = {name: getattr(self, name) for name in shown}
        return {**said, "clustered": self.groups is not None}

    def _reduce_layers(self, reads: Reads) -> list[dict[str, Components]]:
        """Reduce each layer's variables to components, a last-layer answer once for all."""
        kept = {
            name: [self._reduce(x) for x in require_finite(reads, state)]
            for name, state in _STATE_OF.items()
            if name != "answer" or self.target == "same"
        }
        if self.target == "last":
            last = self._reduce(require_finite(reads, "answer")[-1])
            kept["answer"] = [last] * len(reads.layers)
        return [dict(zip(kept, layer, strict=True)) for layer in zip(*kept.values(), strict=True)]

    def _reduce(self, state: Tensor) -> Components:
        return reduce_variable(state.double(), self._settings())


def _stack(found: list[Any]) -> dict[str, Any]:
    return {name: torch.stack([getattr(atoms, name) for atoms in found]) for name in FIELDS}


def _report(found: list[FlowAtoms]) -> dict[str, Any]:
    """Collect the diagnostics of each layer in a form that JSON can hold."""
    return {
        "kept": {name: [a.components[name] for a in found] for name in found[0].components},
        "kept_variance": {name: [a.variance[name] for a in found] for name in found[0].variance},
        "gain": [atoms.gain for atoms in found],
        "bounded": [atoms.bounded for atoms in found],
        "gaussianity": {
            name: {
                when: [
                    [a.gaussianity[name][at].skewness, a.gaussianity[name][at].kurtosis]
                    for a in found
                ]
                for at, when in enumerate(("before", "after"))
            }
            for name in found[0].gaussianity
        },
    }
