"""Attention knockout, noise ablation and readouts inside the block of an nnsight trace.

They are called where interventions are written, first thing in the block of a trace, an invoke,
an edit, or a step of ``tracer.iter``; in any order among themselves, with any reads and writes
of the block after them. In an invoke they touch that invoke's rows alone. As all writes in
nnsight do, they hold for one forward pass: the only one of a ``trace``, the prompt's of a
``generate``, a step's in ``for step in tracer.iter[...]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pid_lens.adapters.nnsight.block_pass import enter_scope, fill_stream, require_not_begun
from pid_lens.adapters.nnsight.block_rows import BlockRows, resolve_block
from pid_lens.adapters.nnsight.internals import Run, save

from pid_lens.forward import (
    InterventionScope,
    Stream,
    WholeBatch,
    complete_interventions,
    require_options,
)
from pid_lens.inputs import Batch, describe_batch, option_table
from pid_lens.interventions import Knockout, Noise, Variation, as_list, scope
from pid_lens.model import dissect, processor_of, resolve_indices
from pid_lens.readouts import LogitLens

if TYPE_CHECKING:
    from pid_lens.interventions import Intervention, Moments
    from pid_lens.readouts import Pooled, Readout

__all__ = ["intervene", "knockout", "noise", "readout"]


def knockout(
    model: Any,
    source: str,
    target: str,
    *,
    layers: Iterable[int] | int | None = None,
    heads: Iterable[int] | int | None = None,
    **said: Any,
) -> None:
    """Knock out attention between two spans, in the forward pass that the block is at.

    Args:
        model: the nnsight model that is traced.
        source: the span of the masked key positions.
        target: the span of the query positions that must not attend to them.
        layers: numbers of layers; all by default.
        heads: numbers of query heads; all by default.
        said: as of `intervene`.

    Raises:
        TypeError: as `intervene` and `pid_lens.Knockout`.
        ValueError: as `intervene`; a layer or head that is not there.
        RuntimeError: as `intervene`.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> hf, processor = pid_lens.demo.load()
        >>> model, batch = NNsight(hf), next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     knockout(model, "image", "question", batch=batch)
        ...     logits = model.output.logits.save()
        >>> torch.equal(logits, hf(**batch.inputs).logits)
        False
    """
    blocked = Knockout(source, target, layers=as_list(layers), heads=as_list(heads))
    intervene(model, blocked, **said)


def noise(
    model: Any, span: str, moments: Moments, *, seed: int = 0, draw: int = 0, **said: Any
) -> None:
    """Ablate a span with calibrated noise, in the forward pass that the block is at.

    Args:
        model: the nnsight model that is traced.
        span: what to ablate, ``"image"`` or ``"question"`` or a span of your own.
        moments: mean and variance of the noise, of `pid_lens.calibrate`.
        seed: of the noise.
        draw: which of its independent draws.
        said: as of `intervene`.

    Raises:
        TypeError: as `intervene`, or no moments.
        ValueError: as `intervene`; moments of another model, or none of this span.
        RuntimeError: as `intervene`.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> model = NNsight(pid_lens.demo.load()[0])
        >>> from pid_lens.adapters.nnsight import readout
        >>> [batch] = pid_lens.demo.batches("vision", n=32)
        >>> moments = pid_lens.calibrate(model, [batch])
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     noise(model, "image", moments, batch=batch)
        ...     blind = readout(model, batch=batch)
        >>> blind.reads.accuracy() < 0.8
        True
    """
    intervene(model, Noise(span), moments=moments, seed=seed, draw=draw, **said)


def intervene(
    model: Any,
    *interventions: Intervention,
    processor: Any = None,
    batch: Batch | None = None,
    moments: Moments | None = None,
    seed: int = 0,
    draw: int = 0,
    **said: Any,
) -> None:
    """Apply any interventions of pid_lens in the forward pass that the block is at.

    The block may go on as if they were not there: they hold from their own places in the model,
    and do not depend on what the block reads next. A block that has read an activation already
    can still mask attention in layers that have not run.

    Args:
        model: the nnsight model that is traced.
        interventions: such as zero ablation of the image, ``pid_lens.Zero("image")``.
        processor: finds the question in prompts of its chat template; the model's own by
            default.
        batch: a `pid_lens.Batch` that describes this block's rows.
        moments: mean and variance of noise, of `pid_lens.calibrate`.
        seed: of the noise.
        draw: which of its independent draws.
        said: ``spans``, ``ids`` of this block's rows, where no batch says them.

    Raises:
        TypeError: no model of nnsight, or no interventions.
        ValueError: called in no block of a trace, or after a layer that they edit has run; a
            span that cannot be found; beams.
        RuntimeError: a lens is open on this model: interventions for its reads belong in the
            lens, ``Lens(..., interventions=[...])``.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> model = NNsight(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     intervene(model, pid_lens.Zero("image"), batch=batch)
        ...     entering = model.model.language_model.layers[0].input.save()
        >>> bool((entering[batch.spans["image"]] == 0).all())
        True
    """
    run, anatomy = Run.current(model, "intervene"), dissect(model)
    completed = complete_interventions(interventions, anatomy, moments=moments, seed=seed)
    if run.rows is not None:
        completed = tuple(scope(one, *run.rows) for one in completed)
    variation = Variation("", draw, completed)
    known = describe_batch(batch, **said) or Batch(inputs={})
    whole = WholeBatch(anatomy, known, processor_of(model, processor), bool(variation.embedding))
    resolve = whole if run.rows is None else BlockRows(run.rows, whole)
    enter_scope(run, InterventionScope(anatomy, variation, resolve, passes=1))


def readout(
    model: Any,
    choices: Sequence[str | int] | None = None,
    *,
    layers: Iterable[int] | int | None = None,
    readout: Readout | None = None,
    states: Sequence[Pooled] = (),
    processor: Any = None,
    batch: Batch | None = None,
    **said: Any,
) -> Stream:
    """Read the answer from the residual stream after every layer, and keep nothing else.

    What the block writes to a layer's output is in what is read. Three such streams, of the
    same samples as they are, with their question and with their image noised, make a spectrum:
    ``pid_lens.decompose(full=..., vision=..., language=...)``.

    Args:
        model: the nnsight model that is traced.
        choices: the options of every sample, as text or token ids.
        layers: numbers of layers; all by default.
        readout: from a hidden state to an answer; by default `pid_lens.LogitLens`.
        states: pooled hidden states to keep along with the answers.
        processor: finds the question, and token ids of options; the model's own by default.
        batch: a `pid_lens.Batch` that describes this block's rows.
        said: ``spans``, ``ids``, ``options``, ``labels`` of this block's rows.

    Returns:
        A `Stream`, saved: its `reads` are there when the trace is over.

    Raises:
        TypeError: no model of nnsight.
        ValueError: called in no block of a trace, behind layers that it is for, or in a later
            step of a generation; no options.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> hf, processor = pid_lens.demo.load()
        >>> model, [batch] = NNsight(hf), pid_lens.demo.batches("vision", n=32)
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     plain = readout(model, processor=processor, batch=batch)
        >>> plain.reads, plain.reads.accuracy()
        (Reads(32 samples, 6 layers, conditions full, 2 options), 1.0)
    """
    run, anatomy = Run.current(model, "readout"), dissect(model)
    processor = processor_of(model, processor)
    stream = Stream(
        anatomy=anatomy,
        layers=resolve_indices(layers, len(anatomy.layers)),
        readout=readout or LogitLens(),
        states=tuple(states),
    )
    entered = run.enter_pass()
    if entered is not None:
        step, _ = entered
        if step > 0:
            raise ValueError(
                "readout reads prompts: call it in the first step, outside a loop over tracer.iter"
            )
        require_not_begun(run, [anatomy.layers[layer] for layer in stream.layers], step)
    options = None if choices is None else option_table(choices, 1, processor)
    given = describe_batch(batch, **said) or Batch(inputs={})
    samples = resolve_block(run, given, processor, anatomy, options)
    stream.begin(samples)
    require_options(samples.options, anatomy)
    fill_stream(run, stream)
    kept: Stream = save(stream)
    return kept
