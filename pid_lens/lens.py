"""Lens: one instrumented forward pass, read at every layer under every condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from pid_lens.anatomy import Anatomy, dissect
from pid_lens.batching import Batch, as_batches
from pid_lens.conditions import CONDITIONS, Variation, variations
from pid_lens.estimators import BROJA
from pid_lens.instrument import Instrument, mean_probability
from pid_lens.moments import Moments, calibrate
from pid_lens.readouts import LogitLens, Pooled, option_table
from pid_lens.reads import Reads

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from pid_lens.protocols import Estimator, Intervention, Readout
    from pid_lens.spectra import Spectrum


class Lens:
    """Reads a model's answer at every layer: as it is, without its question, without its image.

    Inside ``with lens:`` every forward pass of the model is forked at its decoder's input: the
    rows are repeated once a condition, interventions are applied, a readout takes the answer
    position of every layer, and the caller gets the rows that were asked for, untouched. The
    vision tower runs once. With `views` the caller's own block runs once a condition instead.

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        processor: finds the question in plain inputs and resolves options that are text.
        choices: the options of every sample, as text (the first token counts) or token ids; not
            needed where each batch has its own.
        moments: what the noise looks like; of `calibrate`.
        conditions: name -> interventions; by default ``full``, ``vision`` (question noised) and
            ``language`` (image noised).
        draws: noise draws to average over, as full-vocabulary probabilities.
        seed: of the noise.
        layers: which layers to read; by default all.
        readout: from a state to an answer; by default `LogitLens`.
        states: pooled states to keep along with the answers.
        estimators: each is updated inline with every forward pass.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Raises:
        ValueError: no moments for the noise, or another model's; options that share their first
            token; a layer that is not there.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> batches = pid_lens.demo.batches("language", n=32)
        >>> moments = pid_lens.calibrate(model, batches)
        >>> lens = Lens(model, processor, choices=("A", "B"), moments=moments)
        >>> with lens, torch.no_grad():
        ...     for batch in batches:
        ...         logits = model(**batch.inputs).logits
        >>> lens
        Lens(LlavaForConditionalGeneration, 6 layers, conditions full vision language, 32 samples)
        >>> bool(lens.spectrum().unique_language[-1] > .8)
        True
    """

    def __init__(
        self,
        model: Any = None,
        processor: Any = None,
        *,
        choices: Sequence[str | int] | None = None,
        moments: Moments | None = None,
        conditions: Mapping[str, Iterable[Intervention]] | None = None,
        draws: int = 1,
        seed: int = 0,
        layers: Iterable[int] | None = None,
        readout: Readout | None = None,
        states: Iterable[Pooled] = (),
        estimators: Iterable[Estimator] = (),
        anatomy: Anatomy | None = None,
    ) -> None:
        """See the class."""
        self.anatomy = anatomy or dissect(model)
        self.conditions = {
            name: tuple(i.complete(moments=moments, seed=seed, draws=draws) for i in hidden)
            for name, hidden in (conditions or CONDITIONS).items()
        }
        self.variations = variations(self.conditions)
        self.estimators = tuple(estimators)
        readout, model_hash = readout or LogitLens(), self.anatomy.fingerprint()
        used = self._moments_of(model_hash)
        self._instrument = Instrument(
            anatomy=self.anatomy,
            processor=processor,
            readout=readout,
            layers=_chosen_layers(layers, len(self.anatomy.layers)),
            options=None if choices is None else option_table(choices, 1, processor),
            states=tuple(states),
            conditions=tuple(self.conditions),
            settings={
                "model": model_hash,
                "readout": repr(readout),
                "draws": draws,
                "conditions": {name: list(map(repr, c)) for name, c in self.conditions.items()},
                "moments": sorted({moments.fingerprint for moments in used}),
            },
        )
        self._parts: list[Reads] = []
        self._open: AbstractContextManager | None = None

    def _moments_of(self, model: str) -> list[Moments]:
        """The moments behind the interventions, each of this model or refused."""
        hidden = [i for interventions in self.conditions.values() for i in interventions]
        used = [found for i in hidden if (found := getattr(i, "moments", None)) is not None]
        for moments in used:
            moments.check(model, self.anatomy.site)
        return used

    # ---------------------------------------------------------------- opening

    def __enter__(self) -> Self:
        self._start(self.variations, Batch(inputs={}), self._add)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    @contextmanager
    def __call__(
        self,
        batch: Batch | None = None,
        *,
        ids: Sequence[Any] | None = None,
        spans: Mapping[str, Bool[Tensor, "n tokens"]] | None = None,
        options: Sequence[Any] | Tensor | None = None,
        labels: Sequence[int] | Tensor | None = None,
    ) -> Iterator[Self]:
        """The lens for one batch that you describe: ``with lens(batch): model(**batch.inputs)``.

        Whatever is not given is found from the inputs.
        """
        given = _described(batch, ids=ids, spans=spans, options=options, labels=labels)
        self._start(self.variations, given, self._add)
        try:
            yield self
        finally:
            self._stop()

    def views(
        self,
        batch: Batch | None = None,
        *,
        ids: Sequence[Any] | None = None,
        spans: Mapping[str, Bool[Tensor, "n tokens"]] | None = None,
        options: Sequence[Any] | Tensor | None = None,
        labels: Sequence[int] | Tensor | None = None,
    ) -> Iterator[View]:
        """Replay: one view a condition and draw; your block runs once in each.

        ``for view in lens.views():`` ``with view: model(**inputs)``. The batch keeps its size;
        the reads are taken over when the loop is done.

        Raises:
            ValueError: a view in which no forward pass ran, or passes over other samples than
                in the first.
        """
        given = _described(batch, ids=ids, spans=spans, options=options, labels=labels)
        views: list[View] = []
        for variation in self.variations:
            if variation.condition in self.conditions:
                views.append(View(self, variation, given))
                yield views[-1]
        self._add(_joined(views))

    # ---------------------------------------------------------------- results

    @property
    def rows(self) -> tuple[str, ...]:
        """Condition of each block of n rows inside the decoder during a fork."""
        return tuple(variation.condition for variation in self.variations)

    @property
    def reads(self) -> Reads:
        """Everything read so far, on the CPU.

        Raises:
            ValueError: nothing was read, or the model's logits were NaN.
        """
        if not self._parts:
            raise ValueError(
                "no sample was read yet: run the model inside the lens, `with lens: "
                "model(**inputs)`; it must be open before the forward pass begins, and a loop "
                "over lens.views() must run to its end"
            )
        self._parts = [Reads.concat([part.cpu() for part in self._parts])]
        _refuse_nan(self._parts[0])
        return self._parts[0]

    def spectrum(self, estimator: Estimator | None = None) -> Spectrum:
        """The information spectrum of everything read so far, by `BROJA` unless said otherwise.

        Raises:
            ValueError: nothing was read, or not under the conditions that the estimator needs.
        """
        if isinstance(estimator, type | str):
            raise TypeError(f"estimator must be an instance such as BROJA(); got {estimator!r}")
        return deepcopy(estimator or BROJA()).update(self.reads).result()

    def reset(self) -> Self:
        """Forgets everything read so far."""
        self._parts = []
        return self

    def __repr__(self) -> str:
        n = len({i for part in self._parts for i in part.ids})
        return (
            f"Lens({type(self.anatomy.model).__name__}, {len(self._instrument.layers)} layers, "
            f"conditions {' '.join(self.conditions)}, {n} samples)"
        )

    # ---------------------------------------------------------------- inside

    def _start(
        self, which: tuple[Variation, ...], given: Batch, sink: Callable[[Reads], None]
    ) -> None:
        if self._open is not None:
            raise RuntimeError("this lens is open already: close it first, or use another Lens")
        opened = self._instrument.attached(which, given, sink)
        opened.__enter__()
        self._open = opened

    def _stop(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.__exit__(None, None, None)

    def _add(self, reads: Reads) -> None:
        self._parts.append(reads)
        for estimator in self.estimators:
            estimator.update(reads)


@dataclass
class View:
    """One condition and draw of a replay: a context in which your own block runs as it is."""

    lens: Lens
    variation: Variation
    _given: Batch
    _seen: list[Reads] = field(default_factory=list)

    @property
    def condition(self) -> str:
        """Name of the condition."""
        return self.variation.condition

    def __enter__(self) -> Self:
        self.lens._start((self.variation,), self._given, self._seen.append)
        return self

    def __exit__(self, *error: object) -> None:
        self.lens._stop()

    def __repr__(self) -> str:
        return f"View({self.condition}, draw {self.variation.draw})"


def spectrum(
    model: Any,
    batches: Iterable[Batch] | Batch,
    *,
    processor: Any = None,
    choices: Sequence[str | int] | None = None,
    moments: Moments | None = None,
    draws: int = 1,
    seed: int = 0,
    estimator: Estimator | None = None,
) -> Spectrum:
    """The information spectrum of a model on some batches, in one call.

    Args:
        model: a vision-language model.
        batches: `Batch` records; run through twice if there are no ``moments``.
        processor: needed where a batch does not say its spans.
        choices: the options, where a batch does not say them.
        moments: what the noise looks like; by default calibrated on the batches themselves.
        draws: noise draws to average over.
        seed: of the noise.
        estimator: `BROJA` unless said otherwise.

    Returns:
        A `Spectrum`, one entry a layer.

    Raises:
        ValueError: as `calibrate` and `Lens` do.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> found = spectrum(model, pid_lens.demo.batches("synergy", n=64), processor=processor)
        >>> found.synergy.argmax().item() >= 2
        True
    """
    from tqdm import tqdm

    batches = as_batches(batches)
    if moments is None:
        moments = calibrate(model, batches, processor=processor)
    lens = Lens(model, processor, choices=choices, moments=moments, draws=draws, seed=seed)
    with torch.no_grad():
        for batch in tqdm(batches, "reading", delay=2, leave=False):
            with lens(batch):
                lens.anatomy.model(**batch.to(lens.anatomy.device).inputs)
    return lens.spectrum(estimator)


def _chosen_layers(layers: Iterable[int] | None, count: int) -> tuple[int, ...]:
    chosen = sorted(
        {i + count if i < 0 else i for i in (range(count) if layers is None else layers)}
    )
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise ValueError(f"layers must lie in 0..{count - 1}; got {list(layers or [])}")
    return tuple(chosen)


def _described(batch: Batch | None, **given: Any) -> Batch:
    """What is known of a batch before its inputs come."""
    known = {name: value for name, value in given.items() if value is not None}
    return replace(batch or Batch(inputs={}), inputs={}, **known)


def _joined(views: list[View]) -> Reads:
    """Views as one record: draws averaged, conditions side by side."""
    draws: dict[str, list[Reads]] = {}
    for view in views:
        if not view._seen:
            raise ValueError(
                f"no forward pass ran in the view of {view.condition!r}: run your block in every "
                "view, `for view in lens.views(): with view: model(**inputs)`"
            )
        draws.setdefault(view.condition, []).append(Reads.concat(view._seen))
    return Reads.join(**{name: _averaged(reads) for name, reads in draws.items()})


def _averaged(draws: list[Reads]) -> Reads:
    """Several draws of one condition over the same samples as one."""
    whole = Reads.join(**{str(draw): reads for draw, reads in enumerate(draws)})
    mean = mean_probability(whole.log_probs)
    return replace(whole, log_probs=mean[:, None], conditions=draws[0].conditions)


def _refuse_nan(reads: Reads) -> None:
    bad = reads.log_probs.isnan()
    if bool(bad.any()):
        layer, condition, row, _ = bad.nonzero()[0].tolist()
        raise ValueError(
            f"the model's logits are NaN in {int(bad.any(-1).any(0).any(0).sum())} of {reads.n} "
            f"samples, first at layer {reads.layers[layer]}, condition "
            f"{reads.conditions[condition]!r}, sample {reads.ids[row]!r}: half precision that "
            "overflows, or a fully masked row?"
        )
