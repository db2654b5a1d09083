"""Logit lens in TransformerLens: the answer at every layer, by hooks or from a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pid_lens.adapters.transformer_lens.attention import Progress
from pid_lens.adapters.transformer_lens.given_batch import (
    GivenBatch,
    require_batch,
    resolve_with_options,
)
from pid_lens.adapters.transformer_lens.internals import dissect_hookable
from pid_lens.adapters.transformer_lens.liveness import Hook

from pid_lens.forward import Stream
from pid_lens.inputs import Samples
from pid_lens.model import resolve_indices
from pid_lens.readouts import LogitLens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformer_lens.model_bridge import TransformerBridge

    from pid_lens.readouts import Pooled, Readout
    from pid_lens.reads import Reads


@dataclass(eq=False, kw_only=True, repr=False)
class ReadingHooks(Stream, list[Hook]):
    """Hooks that read the residual stream after each layer, and the `Stream` that they fill.

    ``noise(...) + read`` is a plain list with the same functions: keep ``read`` for its reads.

    Attributes:
        expected: samples of the batch that will run.
        progress: the layer that the pass is at.

    Raises:
        TypeError: the repr of the readout does not show its settings.
        ValueError: ``states`` has an image-only state, which a single pass cannot prove to be so.

    Example:
        >>> import pid_lens
        >>> from pid_lens.adapters.transformer_lens import bridged, readout
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> [batch] = pid_lens.demo.batches("vision", n=4)
        >>> read, vision = readout(bridge, batch, layers=[5]), dict(batch.inputs)
        >>> read, [name for name, _ in read]
        (ReadingHooks(4 samples, 0 of 1 layers read), ['blocks.5.hook_out'])
        >>> logits = bridge.run_with_hooks(vision.pop("input_ids"), fwd_hooks=read, **vision)
        >>> read
        ReadingHooks(4 samples, 1 of 1 layers read)
    """

    expected: Samples
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.extend((f"blocks.{layer}.hook_out", self._read_layer(layer)) for layer in self.layers)

    def _read_layer(self, layer: int) -> Callable[..., None]:
        def read(states: Float[Tensor, "n tokens width"], hook: Any) -> None:
            require_batch(states.shape[:2], self.expected, hook.name)
            if self.progress.begins(layer):
                self.begin(self.expected)
            self.take(layer, states)

        return read

    def __repr__(self) -> str:
        read = sum(layer in self.answers for layer in self.layers)
        return f"ReadingHooks({self.expected.n} samples, {read} of {len(self.layers)} layers read)"


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
    """Return hooks that read the answer from the residual stream after every layer.

    Of the residual stream after each layer, ``blocks.l.hook_out`` (``hook_resid_post``), the
    answer position alone is kept. Edits that are added before these functions are in what they
    read; later ones at the same hook point are not. Three passes, of the same samples as they
    are, with their question and with their image noised, make a spectrum:
    ``pid_lens.decompose(full=..., vision=..., language=...)``.

    Args:
        bridge: a `TransformerBridge`.
        batch: what will run: a `pid_lens.Batch`, or a mapping of the model's inputs.
        choices: the options of every sample, as text or token ids, where the batch has none.
        layers: numbers of layers; all by default.
        readout: from a hidden state to an answer; by default `pid_lens.LogitLens`.
        states: pooled hidden states to keep along with the answers.
        processor: finds the question, and token ids of options that are text.

    Returns:
        A list of ``(hook point, function)``, whose ``reads`` are those of the last pass that is
        over.

    Raises:
        TypeError: no bridge, no batch, or a readout that does not say its settings.
        ValueError: no options; a layer that is not there; an image-only hidden state, which one
            pass cannot prove to be that.

    Example:
        >>> import pid_lens
        >>> from pid_lens.adapters.transformer_lens import bridged
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> [batch] = pid_lens.demo.batches("vision", n=32)
        >>> vision, read = dict(batch.inputs), readout(bridge, batch)
        >>> logits = bridge.run_with_hooks(vision.pop("input_ids"), fwd_hooks=read, **vision)
        >>> read.reads, read.reads.accuracy()
        (Reads(32 samples, 6 layers, conditions full, 2 options), 1.0)
    """
    anatomy = dissect_hookable(bridge)
    samples = resolve_with_options(anatomy, batch, processor, choices)
    return ReadingHooks(
        expected=samples,
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
    """Read the answer at every layer from an activation cache that was filled before.

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
        >>> from pid_lens.adapters.transformer_lens import bridged
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> [batch] = pid_lens.demo.batches("vision", n=32)
        >>> vision = dict(batch.inputs)
        >>> logits, cache = bridge.run_with_cache(vision.pop("input_ids"), **vision)
        >>> reads = read_cache(bridge, cache, batch)
        >>> reads, reads.accuracy()
        (Reads(32 samples, 6 layers, conditions full, 2 options), 1.0)
    """
    anatomy = dissect_hookable(bridge)
    samples = resolve_with_options(anatomy, batch, processor, choices)
    stream = Stream(
        anatomy=anatomy,
        layers=resolve_indices(layers, len(anatomy.layers)),
        readout=readout or LogitLens(),
        states=tuple(states),
    )
    stream.begin(samples)
    for layer, found in _from_cache(cache, stream.layers).items():
        require_batch(found.shape[:2], samples, f"the cache of layer {layer}")
        stream.take(layer, found.to(anatomy.device))
    return stream.reads


def _from_cache(cache: Any, layers: Sequence[int]) -> dict[int, Float[Tensor, "n tokens width"]]:
    """Look up the residual stream after each layer in a cache, with its batch axis.

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
