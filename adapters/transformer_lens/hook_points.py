"""TransformerLens's own idiom: knockouts, noise and readouts as functions for hook points.

Each is a list of ``(name, function)``, for ``bridge.hooks(fwd_hooks=...)`` and for
``bridge.run_with_hooks(ids, fwd_hooks=..., **vision)``; lists add up. Functions at hook points
see no token ids, so they are told which batch will run, and belong to it alone.

TransformerLens calls the functions at one hook point in the order in which they were added: what
is read before an edit is what was there before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pid_lens.adapters.transformer_lens.attention import (
    KnockoutHooks,
    Progress,
    knockout_method,
    require_batch,
)
from pid_lens.adapters.transformer_lens.internals import build_bridge, dissect_hookable
from pid_lens.adapters.transformer_lens.liveness import (
    Hook,
    is_sensitive,
    require_no_leaks,
    some_text,
)
from torch import Tensor

from pid_lens.forward import Stream, complete_interventions, require_options
from pid_lens.inputs import Batch, Samples, as_batch, option_table, resolve_samples
from pid_lens.interventions import Knockout, Noise, Variation, as_list
from pid_lens.model import resolve_indices
from pid_lens.readouts import LogitLens

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformer_lens.model_bridge import TransformerBridge

    from pid_lens.interventions import Moments
    from pid_lens.model import Anatomy
    from pid_lens.readouts import Pooled, Readout
    from pid_lens.reads import Reads

__all__ = ["ReadingHooks", "bridged", "is_live", "knockout", "noise", "read_cache", "readout"]

GivenBatch = Batch | Mapping[str, Any]

_LIVE: WeakKeyDictionary[TransformerBridge, dict[str, bool]] = WeakKeyDictionary()
"""Of each bridge: hook points that were tried out on text -> whether an edit does anything."""


def bridged(model: Any, tokenizer: Any = None) -> TransformerBridge:
    """A `TransformerBridge` around an image-text model that is in memory already.

    Nothing is loaded and nothing is installed: TransformerLens's own ``boot_transformers``
    installs torchvision for such models, which can replace torch itself. Families that ask for
    torchvision get along without it, since their processors alone need it.

    The model is changed in place: its modules are replaced by TransformerLens's, and most
    families are switched to eager attention. ``bridge.original_model`` is the model.

    Args:
        model: a model of transformers, such as `LlavaForConditionalGeneration`.
        tokenizer: for texts in place of token ids: a tokenizer, or a processor that has one. A
            copy of it is used; a processor is the bridge's own from then on.

    Returns:
        The bridge, on the model's device and in its precision.

    Raises:
        ImportError: a version of TransformerLens that was not tried.
        TypeError: no model of transformers.
        ValueError: a family that TransformerLens does not know, or a model with a bridge.

    Example:
        >>> import pid_lens
        >>> model, _ = pid_lens.demo.load()
        >>> bridge = bridged(model)
        >>> bridge.original_model is model, type(bridge).__name__
        (True, 'TransformerBridge')
    """
    return build_bridge(model, tokenizer)


def is_live(bridge: TransformerBridge, name: str, batch: GivenBatch | None = None) -> bool:
    """Whether an edit at a hook point does anything.

    Some hook points show what has been used already: at ``hook_attn_scores`` of Qwen2.5-VL an
    edit changes nothing. So the model is run three times, twice as it is and once with random
    numbers at the hook point; the edit is live if it moves the logits by more than ten times
    what the equal passes differ by. Functions at other hook points stand down meanwhile.

    Args:
        bridge: a `TransformerBridge`.
        name: a hook point's name, such as ``"blocks.0.attn.hook_attn_scores"``.
        batch: what to run; by default four tokens of text, whose finding is kept for the
            bridge. A hook point in the vision tower needs a batch with an image.

    Raises:
        KeyError: there is no such hook point.
        TypeError: no bridge, or what passes the hook point is no tensor.
        ValueError: it is never reached in these passes, or it is switched off.

    Example:
        >>> import pid_lens
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> is_live(bridge, "blocks.0.attn.hook_attn_scores")
        True
    """
    anatomy, known = dissect_hookable(bridge), _LIVE.setdefault(bridge, {})
    if batch is not None:
        return is_sensitive(bridge, name, as_batch(batch).to(anatomy.device).inputs)
    if name not in known:
        known[name] = is_sensitive(bridge, name, some_text(anatomy))
    return known[name]


def knockout(
    bridge: TransformerBridge,
    batch: GivenBatch,
    source: str,
    target: str,
    *,
    layers: Iterable[int] | int | None = None,
    heads: Iterable[int] | int | None = None,
    processor: Any = None,
) -> list[Hook]:
    """Functions that close attention from one span to another, as `pid_lens.Knockout` does.

    Where a bridge computes attention itself, scores are set to minus infinity at
    ``hook_attn_scores``, before the softmax. Where it leaves attention to the model, an edit
    there would do nothing, and the attention module's mask is closed instead. Which of both is
    tried out once a bridge, on four tokens of text; a token always sees itself.

    Args:
        bridge: a `TransformerBridge`.
        batch: what will run: a `pid_lens.Batch`, or a mapping of the model's inputs.
        source: the span that is not to be seen.
        target: the span that is not to see it.
        layers: numbers of layers; all by default.
        heads: numbers of query heads; all by default.
        processor: finds the question in inputs that do not say their spans.

    Returns:
        One function a layer. Run with another shape of batch they raise a ValueError.

    Raises:
        TypeError: no bridge, or no batch.
        ValueError: a span, layer or head that is not there; attention that neither way closes.

    Example:
        >>> import pid_lens
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> hooks = knockout(bridge, batch, "image", "question", layers=[2, 3])
        >>> [name for name, _ in hooks]
        ['blocks.2.attn.hook_attn_scores', 'blocks.3.attn.hook_attn_scores']
        >>> vision = dict(batch.inputs)
        >>> closed = bridge.run_with_hooks(vision.pop("input_ids"), fwd_hooks=hooks, **vision)
    """
    anatomy = dissect_hookable(bridge)
    closed = Knockout(source, target, layers=as_list(layers), heads=as_list(heads))
    closing = KnockoutHooks(anatomy, closed, _told(anatomy, batch, processor))
    return [knockout_method(bridge, anatomy, layer)(closing, layer) for layer in closing.layers]


def noise(
    bridge: TransformerBridge,
    batch: GivenBatch,
    span: str,
    moments: Moments,
    *,
    seed: int = 0,
    draw: int = 0,
    processor: Any = None,
) -> list[Hook]:
    """Functions that put calibrated noise in place of a span, as `pid_lens.Noise` does.

    The edit is made at ``blocks.0.hook_in`` (``hook_resid_pre``), where images are merged in; at
    ``embed.hook_out`` they are not. The numbers are those of a `pid_lens.Lens` of the same seed.

    Args:
        bridge: a `TransformerBridge`.
        batch: what will run: a `pid_lens.Batch`, or a mapping of the model's inputs.
        span: what to hide, ``"image"`` or ``"question"`` or a span of your own.
        moments: of `pid_lens.calibrate`, on the bridge or on the model it is around.
        seed: of the noise.
        draw: which of its independent draws.
        processor: finds the question in inputs that do not say their spans.

    Returns:
        One function. Run with another shape of batch it raises a ValueError.

    Raises:
        TypeError: no bridge, no batch or no moments.
        ValueError: moments of another model; a span that is not there; a family in which image
            or question come in elsewhere too (Qwen3-VL), so that they would not be hidden.

    Example:
        >>> import pid_lens
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> moments = pid_lens.calibrate(bridge, [batch])
        >>> vision, read = dict(batch.inputs), readout(bridge, batch)
        >>> with bridge.hooks(fwd_hooks=noise(bridge, batch, "image", moments) + read):
        ...     logits = bridge(vision.pop("input_ids"), **vision)
        >>> read.reads
        Reads(4 samples, 6 layers, conditions full, 2 options)
    """
    anatomy = dissect_hookable(bridge)
    hidden = complete_interventions([Noise(span)], anatomy, moments=moments, seed=seed)
    samples, variation = _told(anatomy, batch, processor), Variation("", draw, hidden)
    samples.spans[span]  # a span that is not there is refused here, and not in the pass
    require_no_leaks(bridge, anatomy, as_batch(batch))

    def replace(
        embeddings: Float[Tensor, "n tokens width"], hook: Any
    ) -> Float[Tensor, "n tokens width"]:
        require_batch(embeddings.shape[:2], samples, hook.name)
        return variation.edit(embeddings, samples)

    return [("blocks.0.hook_in", replace)]


def readout(
    bridge: TransformerBridge,
    batch: GivenBatch,
    choices: Sequence[str | int] | None = None,
    *,
    layers: Iterable[int] | int | None = None,
    readout: Readout | None = None,
    states: Sequence[Pooled] = (),
    processor: Any = None,
) -> ReadingHooks:
    """Functions that read the answer at every layer while the model runs.

    Of each layer's output, ``blocks.l.hook_out`` (``hook_resid_post``), the answer position
    alone is kept. Edits that are added before these functions are in what they read; later ones
    at the same hook point are not. Three passes, of the same samples as they are, with their
    question and with their image noised, make a spectrum:
    ``pid_lens.decompose(full=..., vision=..., language=...)``.

    Args:
        bridge: a `TransformerBridge`.
        batch: what will run: a `pid_lens.Batch`, or a mapping of the model's inputs.
        choices: the options of every sample, as text or token ids, where the batch has none.
        layers: numbers of layers; all by default.
        readout: from a state to an answer; by default `pid_lens.LogitLens`.
        states: pooled states to keep along with the answers.
        processor: finds the question, and token ids of options that are text.

    Returns:
        A list of functions, whose ``reads`` are there when a pass is over: those of the last.

    Raises:
        TypeError: no bridge, no batch, or a readout that does not say its settings.
        ValueError: no options, a layer that is not there, a state that one pass cannot prove.

    Example:
        >>> import pid_lens
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> vision, read = dict(batch.inputs), readout(bridge, batch)
        >>> logits = bridge.run_with_hooks(vision.pop("input_ids"), fwd_hooks=read, **vision)
        >>> read.reads
        Reads(4 samples, 6 layers, conditions full, 2 options)
    """
    anatomy = dissect_hookable(bridge)
    told = _asked(anatomy, batch, processor, choices)
    return ReadingHooks(
        told=told,
        anatomy=anatomy,
        layers=resolve_indices(layers, len(anatomy.layers)),
        readout=readout or LogitLens(),
        states=tuple(states),
    )


def read_cache(
    bridge: TransformerBridge,
    cache: Any,
    batch: GivenBatch,
    choices: Sequence[str | int] | None = None,
    *,
    layers: Iterable[int] | int | None = None,
    readout: Readout | None = None,
    states: Sequence[Pooled] = (),
    processor: Any = None,
) -> Reads:
    """Reads the answer at every layer from a cache that was filled before.

    Args:
        bridge: the `TransformerBridge` that filled it.
        cache: an `ActivationCache`, or the dictionary of it, with ``blocks.l.hook_resid_post``
            of each layer; on any device, with its batch axis or without.
        batch: what ran.
        choices: as of `readout`.
        layers: as of `readout`.
        readout: as of `readout`.
        states: as of `readout`.
        processor: as of `readout`.

    Returns:
        The `pid_lens.Reads` of one condition, ``full``.

    Raises:
        TypeError: as `readout`, or no cache.
        ValueError: as `readout`; layers that are not in the cache, or of another shape.

    Example:
        >>> import pid_lens
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> vision = dict(batch.inputs)
        >>> logits, cache = bridge.run_with_cache(vision.pop("input_ids"), **vision)
        >>> read_cache(bridge, cache, batch)
        Reads(4 samples, 6 layers, conditions full, 2 options)
    """
    anatomy = dissect_hookable(bridge)
    samples = _asked(anatomy, batch, processor, choices)
    stream = Stream(
        anatomy=anatomy,
        layers=resolve_indices(layers, len(anatomy.layers)),
        readout=readout or LogitLens(),
        states=tuple(states),
    )
    stream.begin(samples)
    for layer, found in _cached(cache, stream.layers).items():
        require_batch(found.shape[:2], samples, f"the cache of layer {layer}")
        stream.take(layer, found.to(anatomy.device))
    return stream.reads


# ---------------------------------------------------------------- readouts


@dataclass(eq=False, kw_only=True, repr=False)
class ReadingHooks(Stream, list[Hook]):
    """Functions for hook points, and the `Stream` that they fill.

    ``noise(...) + read`` is a plain list with the same functions: keep ``read`` for its reads.
    """

    told: Samples
    """Those of the batch that will run."""
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.extend((f"blocks.{layer}.hook_out", self._reading(layer)) for layer in self.layers)

    def _reading(self, layer: int) -> Callable[..., None]:
        def read(states: Float[Tensor, "n tokens width"], hook: Any) -> None:
            require_batch(states.shape[:2], self.told, hook.name)
            if self.progress.begins(layer):
                self.begin(self.told)
            self.take(layer, states)

        return read

    def __repr__(self) -> str:
        read = sum(layer in self.answers for layer in self.layers)
        return f"ReadingHooks({self.told.n} samples, {read} of {len(self.layers)} layers read)"


def _cached(cache: Any, layers: Sequence[int]) -> dict[int, Float[Tensor, "n tokens width"]]:
    """Each layer's output in a cache, with its batch axis.

    Raises:
        TypeError: no cache.
        ValueError: a layer is missing.
    """
    held = getattr(cache, "cache_dict", cache)
    if not isinstance(held, Mapping):
        raise TypeError(
            f"expected an ActivationCache, or a dictionary of it; got a {type(cache).__name__} "
            "(logits, cache = bridge.run_with_cache(...))"
        )
    names = {
        layer: [f"blocks.{layer}.{point}" for point in ("hook_out", "hook_resid_post")]
        for layer in layers
    }
    missing = [layer for layer in layers if not any(name in held for name in names[layer])]
    if missing:
        raise ValueError(
            f"layers {missing} are not in this cache: bridge.run_with_cache(..., names_filter="
            f"[f'blocks.{{layer}}.hook_resid_post' for layer in {missing}]), or layers= of those "
            "that are"
        )
    found = {layer: next(held[name] for name in names[layer] if name in held) for layer in layers}
    return {layer: one[None] if one.ndim == 2 else one for layer, one in found.items()}


# ---------------------------------------------------------------- batches


def _told(
    anatomy: Anatomy,
    batch: GivenBatch,
    processor: Any,
    choices: Sequence[str | int] | None = None,
) -> Samples:
    """The samples of the batch that will run."""
    options = None if choices is None else option_table(choices, 1, processor)
    return resolve_samples(as_batch(batch), processor, anatomy.image_token, options)


def _asked(
    anatomy: Anatomy, batch: GivenBatch, processor: Any, choices: Sequence[str | int] | None
) -> Samples:
    """The same, and they have options."""
    samples = _told(anatomy, batch, processor, choices)
    require_options(samples.options, anatomy)
    return samples
