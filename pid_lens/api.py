"""Partial information decomposition of a model in one call: calibrate noise, read, decompose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, overload

import torch

from pid_lens.estimators import BROJA
from pid_lens.forward import Stream
from pid_lens.inputs import Batch, as_batch, as_batches
from pid_lens.interventions import Moments, calibrate
from pid_lens.lens import Lens
from pid_lens.reads import Reads

if TYPE_CHECKING:
    from pid_lens.estimators import Estimator
    from pid_lens.interventions import Intervention
    from pid_lens.model import Anatomy
    from pid_lens.results import Spectrum


@overload
def decompose(*, estimator: None = None, **conditions: Reads | Stream) -> Spectrum: ...


@overload
def decompose(*, estimator: Estimator, **conditions: Reads | Stream) -> Any: ...


def decompose(*, estimator: Estimator | None = None, **conditions: Reads | Stream) -> Any:
    """Decompose reads that were taken one condition at a time, by `BROJA` or another estimator.

    Args:
        estimator: by default `BROJA`; it is copied, and does not change.
        conditions: `Reads` of one condition each, over the same samples, or the `Stream`s that
            `pid_lens.adapters.nnsight.readout` and `pid_lens.adapters.transformer_lens.readout`
            fill: ``full=plain, vision=question_noised, language=image_noised``.

    Returns:
        A `Spectrum`, or a `Curve` of an estimator of a single quantity.

    Raises:
        TypeError: a condition is neither `Reads` nor a `Stream`.
        ValueError: samples, layers or models of the reads differ.

    Example:
        >>> import torch
        >>> from pid_lens import Reads
        >>> sure = torch.tensor([[.99, .01], [.01, .99]]).log().expand(1, 1, 2, 2)
        >>> known = Reads.from_posteriors(sure, conditions=["full"])
        >>> blind = Reads.from_posteriors(torch.full((1, 1, 2, 2), .5).log(), conditions=["full"])
        >>> decompose(full=known, vision=known, language=blind)
        Spectrum(layer 0: R=0.000... U_vision=0.919... of I=0.919 bits; n=2, ...)
    """
    joined = Reads.join(**{name: _reads_of(name, one) for name, one in conditions.items()})
    return deepcopy(estimator or BROJA()).update(joined).result()


def _reads_of(name: str, given: Any) -> Reads:
    reads = given.reads if isinstance(given, Stream) else given
    if not isinstance(reads, Reads):
        raise TypeError(
            f"{name!r} must be Reads, or a Stream that a readout has filled; got {given!r}"
        )
    return reads


def spectrum(
    model: Any,
    batches: Iterable[Batch | Mapping[str, Any]] | Batch,
    *,
    processor: Any = None,
    choices: Sequence[str | int] | None = None,
    moments: Moments | None = None,
    interventions: Sequence[Intervention] = (),
    draws: int = 1,
    seed: int = 0,
    estimator: Estimator | None = None,
    anatomy: Anatomy | None = None,
) -> Spectrum:
    """Compute the information spectrum of a model on batches: calibrate, read, decompose.

    At each layer, the information of image and question about the answer, split into redundancy,
    unique information of each, and synergy. Ablated inputs are replaced by noise (noise ablation).

    Args:
        model: a vision-language model.
        batches: `Batch` records or mappings of inputs, one or many; iterated over twice if
            there are no ``moments``.
        processor: finds the question where a batch does not say its spans; the model's own by
            default.
        choices: the options, where a batch does not say them.
        moments: mean and standard deviation of the embeddings, for noise; by default calibrated
            on the batches themselves.
        interventions: in force in all conditions, such as a `Knockout`.
        draws: noise draws to average over.
        seed: of the noise.
        estimator: by default `BROJA`.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Returns:
        A `Spectrum`, one entry per layer.

    Raises:
        TypeError: as `Lens`.
        ValueError: as `calibrate` and `Lens`.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> found = spectrum(model, pid_lens.demo.batches("synergy", n=64), processor=processor)
        >>> bool(found.synergy[0] < 0.1), bool(found.synergy[-1] > 0.8)
        (True, True)
    """
    from tqdm import tqdm

    batches = as_batches(batches)
    if moments is None:
        moments = calibrate(model, batches, processor=processor, anatomy=anatomy)
    lens = Lens(
        model,
        processor,
        choices=choices,
        moments=moments,
        interventions=interventions,
        draws=draws,
        seed=seed,
        anatomy=anatomy,
    )
    with torch.no_grad():
        for given in tqdm(batches, "reading", delay=2, leave=False):
            batch = as_batch(given)
            with lens(batch):
                lens.anatomy.model(**batch.to(lens.anatomy.device).inputs)
    return lens.spectrum(estimator)
