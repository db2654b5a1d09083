"""nnsight's own idiom: knockouts, noise and readouts inside somebody's trace.

They are called where interventions are written, first thing in the block of a trace, an invoke,
an edit, or a step of ``tracer.iter``; in whatever order among each other, and whatever the block
reads and writes afterwards. In an invoke they touch that invoke's rows alone. As all writes in
nnsight do, they hold for one pass of the model: the only one of a ``trace``, the prompt's of a
``generate``, a step's in ``for step in tracer.iter[...]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pid_lens.adapters.nnsight.internals import Run, save

from pid_lens.forward import (
    InterventionScope,
    Stream,
    complete_interventions,
    is_read,
    require_options,
    residual_stream,
)
from pid_lens.inputs import (
    Batch,
    Samples,
    attended_tokens,
    content_ids,
    describe_batch,
    option_table,
    resolve_samples,
)
from pid_lens.interventions import Knockout, Noise, Variation, as_list, place_among, scope
from pid_lens.model import (
    cached_tokens,
    dissect,
    hooked,
    is_user_call,
    processor_of,
    resolve_indices,
)
from pid_lens.readouts import LogitLens

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pid_lens.interventions import Intervention, Moments
    from pid_lens.model import Anatomy
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
    """Closes attention from one span to another, for the pass that the block is at.

    Args:
        model: the nnsight model that is traced.
        source: the span that is not to be seen.
        target: the span that is not to see it.
        layers: numbers of layers; all by default.
        heads: numbers of query heads; all by default.
        said: as of `intervene`.

    Raises:
        ValueError: as `intervene` and `pid_lens.Knockout`.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> hf, processor = pid_lens.demo.load()
        >>> model, batch = NNsight(hf), next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     knockout(model, "image", "question", batch=batch)
        ...     closed = model.output.logits.save()
        >>> torch.equal(closed, hf(**batch.inputs).logits)
        False
    """
    closed = Knockout(source, target, layers=as_list(layers), heads=as_list(heads))
    intervene(model, closed, **said)


def noise(
    model: Any, span: str, moments: Moments, *, seed: int = 0, draw: int = 0, **said: Any
) -> None:
    """Puts calibrated noise in place of a span, for the pass that the block is at.

    Args:
        model: the nnsight model that is traced.
        span: what to hide, ``"image"`` or ``"question"`` or a span of your own.
        moments: of `pid_lens.calibrate`.
        seed: of the noise.
        draw: which of its independent draws.
        said: as of `intervene`.

    Raises:
        ValueError: as `intervene`; moments of another model, or none of this span.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> model = NNsight(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> moments = pid_lens.calibrate(model, [batch])
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     noise(model, "image", moments, batch=batch)
        ...     blind = readout(model, batch=batch)
        >>> blind.reads
        Reads(4 samples, 6 layers, conditions full, 2 options)
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
    """Any interventions of pid_lens, in force for the pass that the block is at.

    The block may go on as if they were not there: they hold from their own places in the model,
    whatever the block reads next. A block that has read something already can still close
    attention in layers that have not run.

    Args:
        model: the nnsight model that is traced.
        interventions: such as ``pid_lens.Zero("image")``.
        processor: finds the question in prompts of its chat template; the model's own by
            default.
        batch: a `pid_lens.Batch` that describes this block's rows.
        moments: what noise looks like, of `pid_lens.calibrate`.
        seed: of the noise.
        draw: which of its independent draws.
        said: ``spans``, ``ids`` of this block's rows, where no batch says them.

    Raises:
        TypeError: no model of nnsight, or no interventions.
        ValueError: called in no block of a trace, or behind layers that they are for; a span
            that cannot be found; beams.
        RuntimeError: a lens is open on this model: what is to hold in its reads belongs into the
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
    now = _InTrace(
        anatomy,
        Variation("", draw, completed),
        describe_batch(batch, **said) or Batch(inputs={}),
        processor_of(model, processor),
        rows=run.rows,
    )
    entered = run.enter_pass()
    stack = ExitStack()
    run.at_end(stack.close)
    stack.enter_context(now.in_force(unless=is_user_call))
    if entered is not None:
        _join_in(run, now, *entered)


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
    """Reads the answer at every layer while the model runs, and keeps nothing else.

    What the block writes to a layer's output is in what is read. Three such streams, of the
    same samples as they are, with their question and with their image noised, make a spectrum:
    ``pid_lens.decompose(full=..., vision=..., language=...)``.

    Args:
        model: the nnsight model that is traced.
        choices: the options of every sample, as text or token ids.
        layers: numbers of layers; all by default.
        readout: from a state to an answer; by default `pid_lens.LogitLens`.
        states: pooled states to keep along with the answers.
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
        >>> model, batch = NNsight(hf), next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> with torch.no_grad(), model.trace(**batch.inputs):
        ...     plain = readout(model, choices=("A", "B"), processor=processor)
        >>> plain.reads
        Reads(4 samples, 6 layers, conditions full, 2 options)
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
        _require_not_begun(run, [anatomy.layers[layer] for layer in stream.layers], step)
    options = None if choices is None else option_table(choices, 1, processor)
    given = describe_batch(batch, **said) or Batch(inputs={})
    stream.begin(_own(run, given, processor, anatomy, options))
    require_options(_samples(stream).options, anatomy)
    _stream(run, stream)
    kept: Stream = save(stream)
    return kept


# ------------------------------------------------------------------ interventions


@dataclass
class _InTrace(InterventionScope):
    """Interventions on a worker's rows, for one pass."""

    rows: tuple[int, int] | None = None
    begun: bool = False
    over: bool = False

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before the model: the pass, or the one after it."""
        if self.begun:
            self.over = True
        else:
            self.begun = True
            super().see(module, args, kwargs)

    def edit(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before the decoder, in that pass."""
        return super().edit(module, args, kwargs) if self.begun and not self.over else None

    def resume(self, prompt: dict[str, Any], arguments: dict[str, Any]) -> None:
        """A pass that has begun already: of a prompt, or behind one."""
        ids = arguments["input_ids"]
        if len(ids) != len(prompt["input_ids"]):
            raise ValueError(
                f"{len(ids)} rows came for {len(prompt['input_ids'])} prompts: a step of a beam "
                "search cannot be told apart. Use pid_lens.intervene around the whole generation"
            )
        self.samples = self._recognised(prompt["input_ids"], prompt)
        self.prompt, self.begun = prompt["input_ids"], True
        self.length = cached_tokens(arguments) + ids.shape[1]
        self.inputs, self.inside = arguments, True

    def _recognised(self, ids: Tensor, arguments: dict[str, Any]) -> Samples:
        if self.rows is None:
            return super()._recognised(ids, arguments)
        first, count = self.rows
        if self.said.ids is None and self.variation.embedding:
            self.said = replace(self.said, ids=names_of(arguments, self.rows, self.anatomy))
        own = super()._recognised(ids[first : first + count], narrow_rows(arguments, self.rows))
        return place_among(own, first, len(ids), image=images_in(ids, self.anatomy))


def _join_in(run: Run, now: _InTrace, step: int, arguments: dict[str, Any]) -> None:
    """Has interventions hold in a pass that is under way."""
    anatomy, blockade = now.anatomy, now.blockade
    touched = [module for module, _ in (*blockade.before, *blockade.after)]
    _require_not_begun(run, touched, step)
    now.resume(run.prompt, arguments)
    if not run.begun(anatomy.decoder, step):
        return
    if now.variation.edits_arguments:
        raise ValueError(
            "the decoder runs already, so its input cannot be edited any more: call this before "
            "the block reads anything of the decoder"
        )
    assert now.samples is not None
    blockade.begin(now.samples, [now.variation], cached_tokens(arguments))


def _require_not_begun(run: Run, modules: Sequence[nn.Module], step: int) -> None:
    late = [module for module in modules if run.begun(module, step)]
    if late:
        names = {id(module): name for name, module in run.model.named_modules()}
        raise ValueError(
            f"{names.get(id(late[0]), type(late[0]).__name__)} has run already: call this before "
            "the block reads anything of it, best at the top, or choose later layers"
        )


# ------------------------------------------------------------------ readouts


def _stream(run: Run, stream: Stream) -> None:
    """Fills a stream from the layers' outputs, until the run is over."""
    n, rows = len(run.prompt["input_ids"]), run.rows
    mine = slice(None) if rows is None else slice(rows[0], rows[0] + rows[1])

    def taking(layer: int) -> Any:
        def take(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            states = residual_stream(output)
            if len(states) != n and not is_read(stream.anatomy):
                raise ValueError(
                    f"{len(states)} rows came for {n} prompts: of beams, or several answers to a "
                    "prompt, nothing is read. Read the prompts in a trace of their own"
                )
            if layer not in stream.answers:
                stream.take(layer, states[:n][mine])

        return take

    stack = ExitStack()
    run.at_end(stack.close)
    stack.enter_context(
        hooked(
            after=[(stream.anatomy.layers[layer], taking(layer)) for layer in stream.layers],
            unless=is_user_call,
        )
    )


def _own(
    run: Run, given: Batch, processor: Any, anatomy: Anatomy, options: Tensor | None
) -> Samples:
    """The samples of a block's rows."""
    inputs = run.prompt if run.rows is None else narrow_rows(run.prompt, run.rows)
    expected = given.inputs.get("input_ids")
    if expected is not None and not torch.equal(expected.cpu(), inputs["input_ids"].cpu()):
        raise ValueError(
            "these are not the inputs of the batch that was described: hand over the batch that "
            "is traced, readout(model, batch=batch)"
        )
    if run.rows is not None and given.ids is None:
        given = replace(given, ids=names_of(run.prompt, run.rows, anatomy))
    return resolve_samples(replace(given, inputs=inputs), processor, anatomy.image_token, options)


def _samples(stream: Stream) -> Samples:
    assert stream.samples is not None
    return stream.samples


def images_in(ids: Tensor, anatomy: Anatomy) -> Tensor | None:
    """Which tokens hold an image's place; None where it cannot be told."""
    found = None if anatomy.image_token is None else ids == anatomy.image_token
    return found if found is not None and bool(found.any(-1).all()) else None


def names_of(
    arguments: dict[str, Any], rows: tuple[int, int], anatomy: Anatomy
) -> tuple[str, ...]:
    """Names of some rows by their content.

    The whole batch alone shows it: pixels may lie in one tensor without a row a prompt.
    """
    first, count = rows
    images = images_in(arguments["input_ids"], anatomy)
    return content_ids(arguments, attended_tokens(arguments), images)[first : first + count]


def narrow_rows(arguments: dict[str, Any], rows: tuple[int, int]) -> dict[str, Any]:
    """The arguments of some rows of a batch."""
    n, (first, count) = len(arguments["input_ids"]), rows
    return {
        name: value[first : first + count]
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == n
        else value
        for name, value in arguments.items()
    }
