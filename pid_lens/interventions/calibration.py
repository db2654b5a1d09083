"""Calibration: moments and copies of embeddings, measured at the decoder's input on data."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs import (
    Batch,
    Samples,
    as_batch,
    as_batches,
    find_spans,
    resolve_samples,
)
from pid_lens.interventions.donors import Donors
from pid_lens.interventions.moments import Moment, Moments, span_at_site
from pid_lens.model import (
    Anatomy,
    Entry,
    dissect,
    embed_arguments,
    entries_of,
    hooked,
    named_arguments,
    processor_of,
    require_uncompiled,
)

if TYPE_CHECKING:
    from torch import Tensor


def collect(
    model: Any = None,
    batches: Iterable[Batch | Mapping[str, Any]] = (),
    *,
    spans: Sequence[str] = ("image", "question"),
    limit: int = 64,
    processor: Any = None,
    anatomy: Anatomy | None = None,
) -> Donors:
    """Record the embeddings of the first samples' spans: the donors of `Resample`.

    The forward pass stops at the decoder's input; the decoder itself does not run.

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        batches: `Batch` records, or mappings of the model's inputs; one or many.
        spans: names of the spans to record.
        limit: samples to record; an image of 576 tokens and width 4096 takes 4.7 MB (float16).
        processor: needed where a batch does not say its spans.
        anatomy: the model's modules, for a model that `dissect` does not know.

    Returns:
        `Donors`, in the model's precision, on the CPU.

    Raises:
        TypeError: spans is one string.
        ValueError: fewer than two samples, or a span that cannot be found.

    Example:
        >>> import pid_lens
        >>> import torch
        >>> model, _ = pid_lens.demo.load()
        >>> batches = pid_lens.demo.batches("synergy", n=16)
        >>> donors = collect(model, batches, spans=["image"])
        >>> donors
        Donors(image 16 samples, ...)
        >>> mean = torch.cat(donors.of("image")).double().mean(0)
        >>> torch.allclose(mean, pid_lens.calibrate(model, batches)["image"].mean)
        True
    """
    from tqdm import tqdm

    if isinstance(spans, str):
        raise TypeError(f"spans must be a list of names; got the one string {spans!r}")
    anatomy = anatomy or dissect(model)
    kept: dict[str, list[Tensor]] = {}
    ids: list[str] = []
    for given in tqdm(as_batches(batches), "collecting", delay=2, leave=False):
        batch = as_batch(given)
        samples = resolve_samples(batch, processor, anatomy.image_token)
        rows = range(min(samples.n, limit - len(ids)))
        for entry in capture_decoder_inputs(anatomy, batch.to(anatomy.device).inputs, samples):
            for name in spans:
                mask = entry.samples.spans[name].to(entry.vectors.device)
                if bool(mask.any()):
                    found = kept.setdefault(span_at_site(name, entry.samples.site), [])
                    found += [entry.vectors[row][mask[row]].cpu() for row in rows]
        ids += [samples.ids[row] for row in rows]
        if len(ids) == limit:
            break
    if len(ids) < 2:
        raise ValueError(f"donors must be at least two samples; got {len(ids)}")
    return Donors(
        model=anatomy.fingerprint(),
        site=anatomy.site,
        ids=tuple(ids),
        spans={name: tuple(rows) for name, rows in kept.items()},
    )


class _Reached(Exception):  # noqa: N818
    """The decoder's input was captured: the rest of the forward pass is not needed."""


def calibrate(
    model: Any,
    batches: Iterable[Batch | Mapping[str, Any]],
    *,
    processor: Any = None,
    anatomy: Anatomy | None = None,
) -> Moments:
    """Measure the mean and standard deviation of each span's embeddings, per dimension.

    At the decoder's input, where the images are already merged in. The forward pass stops there;
    the decoder itself does not run. Use the data that the noise is to be like: the training split
    of your task.

    Args:
        model: a vision-language model, or pass its ``anatomy``.
        batches: `Batch` records, or mappings of the model's inputs; one or many.
        processor: needed where a batch does not say its spans; the model's own by default.
        anatomy: the model's modules, for a model that `dissect` does not know.

    Returns:
        `Moments` of every span of the batches but ``answer``; float64.

    Raises:
        ValueError: no batch at all, a batch whose spans cannot be found, or a span of
            just one token in all batches.

    Example:
        >>> import pid_lens
        >>> import torch
        >>> model, _ = pid_lens.demo.load()
        >>> [batch] = pid_lens.demo.batches("synergy", split="train", n=64)
        >>> moments = calibrate(model, [batch])
        >>> moments
        Moments(image 1024 tokens, question 448 tokens, model ..., at model....inputs_embeds)
        >>> asked = batch.inputs["input_ids"][batch.spans["question"]]
        >>> mean = model.get_input_embeddings()(asked).double().mean(0)
        >>> torch.allclose(moments["question"].mean, mean)
        True
    """
    from tqdm import tqdm

    anatomy, processor = anatomy or dissect(model), processor_of(model, processor)
    require_uncompiled(anatomy.model)
    model_hash, site, total = anatomy.fingerprint(), anatomy.site, None
    for given in tqdm(as_batches(batches), "calibrating", delay=2, leave=False):
        # One pass over the data: the moments of a batch, merged into the total (Chan's update)
        found = _moments_of_spans(anatomy, as_batch(given), processor)
        measured = Moments(model=model_hash, site=site, spans=found)
        total = measured if total is None else total + measured
    if total is None:
        raise ValueError("no batch came, so there is nothing to calibrate on")
    _require_deviations(total)
    for name in ("image", "question"):
        if name in total and _is_constant(total, name):
            warnings.warn(
                f"every embedding of span {name!r} is the same: is the model's projector "
                "untrained? Its noise will be a constant",
                stacklevel=2,
            )
    return total


def _moments_of_spans(anatomy: Anatomy, batch: Batch, processor: Any) -> dict[str, Moment]:
    """Compute the moment of each span of one batch, at each site where it enters the decoder."""
    samples = Samples.of_spans(find_spans(batch, processor, anatomy.image_token))
    return {
        span_at_site(name, entry.samples.site): Moment.of(
            entry.vectors[mask.to(entry.vectors.device)]
        )
        for entry in capture_decoder_inputs(anatomy, batch.to(anatomy.device).inputs, samples)
        for name, mask in entry.samples.spans.items()
        if name != "answer" and bool(mask.any())
    }


def _require_deviations(moments: Moments) -> None:
    """Require that every span has two tokens or more, so that there is a standard deviation."""
    for name, moment in moments.items():
        if moment.count < 2:
            raise ValueError(
                f"span {name!r} has one token in all: noise needs a standard deviation, so "
                "calibrate on more samples"
            )


def _is_constant(moments: Moments, span: str) -> bool:
    """Return whether all embeddings of a span are equal, at every site."""
    sites = [one for name, one in moments.items() if name.split("@")[0] == span]
    return not any(bool(one.std.any()) for one in sites)


@torch.no_grad()
def capture_decoder_inputs(
    anatomy: Anatomy, inputs: Mapping[str, Any], samples: Samples
) -> list[Entry]:
    """Capture the vectors that enter the decoder for a batch, site by site.

    Where the question enters the image features (Q-Former), its embeddings there come last.
    """
    arguments = _decoder_input(anatomy, inputs)
    aware = anatomy.question_aware
    more = [] if aware is None else [aware.entry(inputs, samples)]
    return [*entries_of(anatomy.entrances, arguments, samples), *more]


def _decoder_input(anatomy: Anatomy, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Capture the decoder's arguments for a batch, by a pre-hook that ends the forward pass."""
    captured: list[dict[str, Any]] = []

    def stop(module: Any, args: tuple, kwargs: dict) -> None:
        captured.append(embed_arguments(module, named_arguments(module, args, kwargs)))
        raise _Reached

    with hooked(before=[(anatomy.decoder, stop)]):
        try:
            anatomy.model(**inputs)
        except _Reached:
            return captured[0]
    raise ValueError(
        f"the model's forward never reached its decoder at {anatomy.site}: is the anatomy right?"
    )
