"""BATCH: neural estimator of PID of a model's reads, layer by layer, for published numbers."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from pid_lens.estimators.batch.alignment import AlignmentRecipe
from pid_lens.estimators.batch.atoms import BatchAtoms
from pid_lens.estimators.batch.from_samples import (
    GivenRows,
    convergence_complaint,
    decompose_batches,
)
from pid_lens.estimators.broja.strata import strata_of
from pid_lens.estimators.common.over_reads import (
    OverReads,
    posteriors_under,
    require_finite,
    require_states,
    settings_from,
)
from pid_lens.reads import TAU, Reads
from pid_lens.results import FIELDS, Atoms, Spectrum, Unit, require_unit

Features = Literal["same", "first"]
STATES = ("image", "question")
_ORDER = ("vision", "language", "full")
_SETTINGS = (
    *("tau", "features", "validation", "seed"),
    *(one.name for one in fields(AlignmentRecipe)),
)


@dataclass
class BATCH(OverReads):
    """Neural PID by `batch_pid` layer by layer, an ``Estimator``: to reproduce published numbers.

    X1 and X2 are the mean hidden states of image and question tokens,
    ``Lens(..., states=[Pooled("image"), Pooled("question")])``; the posteriors are those of the
    conditions full, vision and language, uniform below ``tau``. A hash of its id assigns a sample
    to training or to evaluation, so that neither the order of arrival nor further samples move
    it from one to the other. Samples with k options are decomposed separately for each k, and
    the atoms averaged by the number of samples, as in `BROJA`.

    The spectrum's ``ids`` are the evaluated samples. Its settings have for each layer the share
    of ``converged`` projections and the worst ``violation`` of a marginal, summed over answers,
    per sample; a layer with less than nine in ten converged, a violation over .05 or a ``shift``
    over .1 bits is doubtful, and a warning names it. ``gap`` is NaN, as nothing is certified.
    `batch_pid` lists the further biases of these numbers; use `BROJA` for anything new.

    Attributes:
        tau: a sample whose options have less mass than this counts as unsure: uniform over them.
        features: ``"same"``: hidden states of the layer that is decomposed; ``"first"``: of the
            first layer that was read, for all.
        validation: share of samples to evaluate on; None trains and evaluates on all.
        seed: of weights and orders; the same in every layer.
        epochs: passes over the training samples.
        batch_size: samples in a batch.
        hidden: width of the hidden layers.
        embed: width of an embedding, at least 2.
        hidden_layers: number of hidden layers of the networks after the first.
        lr: learning rate of Adam.
        steps: rounds of Sinkhorn scaling, at most.
        atol: largest error of a marginal at which a projection has converged.
        unit: ``"bits"`` or ``"nats"``.
        progress: whether to show a bar where training takes over two seconds.

    Source:
        A comprehensive information-decomposition analysis of large vision-language models (ICLR
        2026), https://openreview.net/forum?id=6WsBGk4Iag; there X1 and X2 are at the decoder's
        input for every layer, and train and validation are given splits

    Raises:
        ValueError: a setting that is out of range, unknown features or an unknown unit.

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> from pid_lens import Reads, truth
        >>> log_p = truth.posteriors_of(truth.gate("XOR"), 400)
        >>> x1, x2 = torch.arange(400) // 200, torch.arange(400) // 100 % 2
        >>> states = {"image": torch.eye(2)[x1][None], "question": torch.eye(2)[x2][None]}
        >>> reads = replace(Reads.from_posteriors(log_p), states=states)
        >>> found = BATCH(epochs=1).update(reads).result()
        >>> bool(found.synergy > 0.99), found.settings["converged"]
        (True, [1.0])
    """

    tau: float = TAU
    features: Features = "same"
    validation: float | None = 0.3
    seed: int = 0
    epochs: int = 8
    batch_size: int = 256
    hidden: int = 32
    embed: int = 10
    hidden_layers: int = 3
    lr: float = 1e-3
    steps: int = 500
    atol: float = 0.01
    unit: Unit = "bits"
    progress: bool = field(default=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._recipe()
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau is a probability, 0 <= tau < 1; got {self.tau}")
        if self.features not in get_args(Features):
            raise ValueError(
                f"features must be one of {get_args(Features)}; got {self.features!r}"
            )
        if self.validation is not None and not 0 < self.validation < 1:
            raise ValueError(
                "validation must be a share above 0 and below 1, or None to evaluate on the "
                f"training samples; got {self.validation}"
            )
        require_unit(self.unit)

    def update(self, reads: Reads) -> Self:
        """Add samples; one with the id of an earlier sample replaces it.

        Raises:
            ValueError: states were not kept, or these reads cannot be mixed with those before.
        """
        require_states(type(self).__name__, reads, STATES)
        return super().update(reads)

    def result(self) -> Spectrum:
        """Train one pair of networks per layer; compute the spectrum of the evaluated samples.

        Warns:
            UserWarning: projections did not converge; it names the layers.

        Raises:
            ValueError: no sample was added, a condition was not read, NaN, or no sample of some
                number of options is left to train or to evaluate on.
        """
        # Order samples by the hash of their id: the order of arrival plays no part
        reads = self.gather()
        places = {name: _place_of(name) for name in reads.ids}
        order = sorted(range(reads.n), key=lambda row: (places[reads.ids[row]], reads.ids[row]))
        reads = reads.rows(order)
        at = torch.tensor([places[name] for name in reads.ids], dtype=torch.float64)
        return self._spectrum(reads, at)

    def _spectrum(self, reads: Reads, places: Float64[Tensor, " n"]) -> Spectrum:
        """Train, evaluate and average, of samples in the order of their places."""
        from tqdm import tqdm

        # Networks for each layer and number of options
        strata = self._strata(reads, places)
        rounds = range(len(reads.layers))
        layers = [
            [self._decompose(stratum, layer) for stratum in strata]
            for layer in tqdm(rounds, "aligning", delay=2, leave=False, disable=not self.progress)
        ]
        unsound = torch.tensor([not all(part.sound for part in parts) for parts in layers])
        self._warn({reads.layers[at]: layers[at] for at in unsound.nonzero().flatten()})
        evaluated = torch.cat([stratum.evaluated for stratum in strata]).sort().values
        # Mean over numbers of options, weighted by their shares of the samples
        shares = torch.tensor([len(stratum.rows) / reads.n for stratum in strata]).double()
        totals: dict[str, Any] = {name: _mix(layers, name, shares) for name in FIELDS}
        read = reads.rows(evaluated.tolist())
        spectrum = Spectrum.of(
            read,
            Atoms(**totals),
            estimator=self,
            mismatch=torch.stack([stratum.mismatch for stratum in strata]).amax(0),
            fallback=read.fallback(self.tau),
            settings=self._settings_and_doubts(layers, shares),
        )
        return replace(spectrum, doubtful=spectrum.doubtful | unsound).to(self.unit)

    def _settings_and_doubts(
        self, layers: list[list[BatchAtoms]], shares: Float64[Tensor, " strata"]
    ) -> dict[str, Any]:
        """Collect settings, and diagnostics layer by layer."""
        return {
            **{name: getattr(self, name) for name in _SETTINGS},
            "converged": _mix(layers, "converged", shares).tolist(),
            "violation": [max(part.worst_violation for part in parts) for parts in layers],
            "shift": [max(part.shift for part in parts) for parts in layers],
        }

    def _strata(self, reads: Reads, places: Float64[Tensor, " n"]) -> list[_Stratum]:
        """Split the samples by their number of options."""
        log_p = posteriors_under(type(self).__name__, reads, _ORDER, self.tau)
        return [
            _Stratum(
                rows=found.rows,
                vision=self._features(reads, "image")[:, found.rows],
                language=self._features(reads, "question")[:, found.rows],
                posteriors=found.log_p.exp(),
                **self._split(places[found.rows], found.log_p.shape[-1]),
            )
            for found in strata_of(log_p, reads.mask)
        ]

    def _features(self, reads: Reads, name: str) -> Float[Tensor, "layers n width"]:
        states = require_finite(reads, name)
        return states[:1].expand_as(states) if self.features == "first" else states

    def _split(self, places: Float64[Tensor, " members"], options: int) -> dict[str, Tensor]:
        """Choose a stratum's samples to train on, and those to evaluate on, in full batches."""
        # Hashes below the share are held out; None trains and evaluates on all
        share = self.validation
        held = torch.ones_like(places, dtype=torch.bool) if share is None else places < share
        trained = ~held if share is not None else held
        if not bool(held.any() and trained.any()):
            raise ValueError(
                f"of {len(places)} samples with {options} options, {int(trained.sum())} are to "
                f"train on and {int(held.sum())} to evaluate on (validation={share}): read more "
                "of them, leave them out, or give validation=None to evaluate on all"
            )
        # Drop an incomplete last batch of the evaluated samples
        at = held.nonzero().flatten()
        size = min(self.batch_size, len(at))
        return {"trained": trained.nonzero().flatten(), "held": at[: len(at) - len(at) % size]}

    def _decompose(self, stratum: _Stratum, layer: int) -> BatchAtoms:
        train, held = (stratum.take(layer, rows) for rows in (stratum.trained, stratum.held))
        return decompose_batches(train, held, self._recipe(), self.seed, progress=False)

    def _recipe(self) -> AlignmentRecipe:
        return settings_from(AlignmentRecipe, self)

    def _warn(self, unsound: dict[int, list[BatchAtoms]]) -> None:
        if unsound:
            said = convergence_complaint(
                [part for parts in unsound.values() for part in parts], self.atol
            )
            warnings.warn(f"layers {', '.join(map(str, unsound))}: {said}", stacklevel=4)


@dataclass(frozen=True)
class _Stratum:
    """Samples with one number of options, in the order of their places.

    Attributes:
        rows: their rows among all samples, [members].
        vision: features of the image, [layers, members, width].
        language: features of the question, [layers, members, width].
        posteriors: given vision, language and both, [layers, 3, members, options].
        trained: the members that are trained on.
        held: the members that are evaluated.
    """

    rows: Int64[Tensor, " members"]
    vision: Float[Tensor, "layers members width"]
    language: Float[Tensor, "layers members width"]
    posteriors: Float64[Tensor, "layers 3 members options"]
    trained: Int64[Tensor, " trained"]
    held: Int64[Tensor, " held"]

    def take(self, layer: int, rows: Int64[Tensor, " rows"]) -> GivenRows:
        """Select some members of a layer, in the form that `batch_pid` takes."""
        x1, x2 = self.vision[layer, rows], self.language[layer, rows]
        p1, p2, p12 = self.posteriors[layer][:, rows]
        return x1, x2, p1, p2, p12

    @property
    def evaluated(self) -> Int64[Tensor, " held"]:
        """Rows of the evaluated samples among all samples."""
        return self.rows[self.held]

    @property
    def mismatch(self) -> Float64[Tensor, " layers"]:
        """Largest |mean p_condition - mean p_full| over the options."""
        vision, language, both = self.posteriors[:, :, self.held].mean(2).unbind(1)
        return torch.maximum((vision - both).abs(), (language - both).abs()).amax(-1)


def _mix(
    layers: list[list[BatchAtoms]], name: str, shares: Float64[Tensor, " strata"]
) -> Float64[Tensor, " layers"]:
    values = [[float(getattr(part, name)) for part in parts] for parts in layers]
    return torch.tensor(values, dtype=torch.float64) @ shares


def _place_of(name: str) -> float:
    """Hash a sample's id to a number in [0, 1)."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
