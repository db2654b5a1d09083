"""Attention knockout and noise ablation as TransformerLens hooks: functions for a hook point.

Each is a list of ``(hook point, function)``, for ``bridge.hooks(fwd_hooks=...)`` and for
``bridge.run_with_hooks(ids, fwd_hooks=..., **vision)``; lists add up. A hook point carries no
token ids, so the functions are made for the batch that will run, and serve it alone.

TransformerLens calls the functions at one hook point in the order in which they were added: a
function that was added before an edit reads the activation without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pid_lens.adapters.transformer_lens.attention import KnockoutHooks, knockout_method
from pid_lens.adapters.transformer_lens.given_batch import (
    GivenBatch,
    require_batch,
    resolve_given,
)
from pid_lens.adapters.transformer_lens.internals import build_bridge, dissect_hookable
from pid_lens.adapters.transformer_lens.liveness import (
    ENTRY,
    Hook,
    is_sensitive,
    require_no_leaks,
    some_text,
)

from pid_lens.forward import complete_interventions
from pid_lens.inputs import as_batch
from pid_lens.interventions import Knockout, Noise, Variation, as_list
from pid_lens.per_object import PerObject

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformer_lens.model_bridge import TransformerBridge

    from pid_lens.interventions import Moments

__all__ = ["bridged", "is_live", "knockout", "noise"]

_LIVE: PerObject[dict[str, bool]] = PerObject(dict)
"""Of each bridge: hook points that were tried on text -> whether an edit moves the logits."""


def bridged(model: Any, tokenizer: Any = None) -> TransformerBridge:
    """Build a `TransformerBridge` around a vision-language model that is in memory already.

    Nothing is loaded and nothing is installed: TransformerLens's own ``boot_transformers``
    installs torchvision for such models, which can replace torch itself. Families that require
    torchvision work without it, since only their processors need it.

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
    """Return whether an edit at a hook point moves the logits.

    Some hook points carry a copy of an activation that was used already: at
    ``hook_attn_scores`` of Qwen2.5-VL an edit changes nothing. So the model is run three times,
    twice as it is and once with random numbers at the hook point; the edit is live if it moves
    the logits by more than ten times what the equal passes differ by. The user's own hooks at
    hook points are off meanwhile.

    Args:
        bridge: a `TransformerBridge`.
        name: a hook point's name, such as ``"blocks.0.attn.hook_attn_scores"``.
        batch: what to run; by default four tokens of text, whose result is kept per
            bridge. A hook point in the vision tower needs a batch with an image.

    Raises:
        KeyError: there is no such hook point.
        TypeError: no bridge, or what passes the hook point is not a tensor.
        ValueError: it is never reached in these passes, or it is switched off.

    Example:
        >>> import pid_lens
        >>> from pid_lens.adapters.transformer_lens import bridged
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> is_live(bridge, "blocks.0.attn.hook_attn_scores")
        True
    """
    anatomy = dissect_hookable(bridge)
    if batch is not None:
        return is_sensitive(bridge, name, as_batch(batch).to(anatomy.device).inputs)
    known = _LIVE.of(bridge)
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
    """Return hooks for an attention knockout between two spans, as `pid_lens.Knockout` does.

    Where a bridge computes attention itself, scores are set to minus infinity at
    ``hook_attn_scores``, before the softmax. Where it leaves attention to the model, an edit
    there would do nothing, and the attention module's attention mask is edited instead. Which
    of both works is tried once per bridge, on four tokens of text; a token always attends to
    itself.

    Args:
        bridge: a `TransformerBridge`.
        batch: what will run: a `pid_lens.Batch`, or a mapping of the model's inputs.
        source: the span of the masked key positions.
        target: the span of the query positions that must not attend to them.
        layers: numbers of layers; all by default.
        heads: numbers of query heads; all by default.
        processor: finds the question in inputs that do not say their spans.

    Returns:
        One ``(hook point, function)`` per layer. Run with another shape of batch, the functions
        raise a ValueError.

    Raises:
        TypeError: no bridge, or no batch.
        ValueError: a span, layer or head that is not there; attention that neither method masks.

    Example:
        >>> import pid_lens, torch
        >>> from pid_lens.adapters.transformer_lens import bridged
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> [batch] = pid_lens.demo.batches("vision", n=4)
        >>> hooks = knockout(bridge, batch, "image", "question", layers=[2, 3])
        >>> [name for name, _ in hooks]
        ['blocks.2.attn.hook_attn_scores', 'blocks.3.attn.hook_attn_scores']
        >>> vision = dict(batch.inputs)
        >>> ids = vision.pop("input_ids")
        >>> logits = bridge.run_with_hooks(ids, fwd_hooks=hooks, **vision)
        >>> torch.equal(logits, bridge(ids, **vision))
        False
    """
    anatomy = dissect_hookable(bridge)
    blocked = Knockout(source, target, layers=as_list(layers), heads=as_list(heads))
    hooks = KnockoutHooks(anatomy, blocked, resolve_given(anatomy, batch, processor))
    return [knockout_method(bridge, anatomy, layer)(hooks, layer) for layer in hooks.layers]


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
    """Return a hook for noise ablation of a span's embeddings, as `pid_lens.Noise` does.

    The edit is made at ``blocks.0.hook_in`` (``hook_resid_pre``), where image features are
    merged in; at ``embed.hook_out`` they are not. The noise is that of a `pid_lens.Lens` of the
    same seed.

    Args:
        bridge: a `TransformerBridge`.
        batch: what will run: a `pid_lens.Batch`, or a mapping of the model's inputs.
        span: what to ablate, ``"image"`` or ``"question"`` or a span of your own.
        moments: of `pid_lens.calibrate`, on the bridge or on the model it is around.
        seed: of the noise.
        draw: which of its independent draws.
        processor: finds the question in inputs that do not say their spans.

    Returns:
        One ``(hook point, function)``. Run with another shape of batch, the function raises a
        ValueError.

    Raises:
        TypeError: no bridge, no batch or no moments.
        ValueError: moments of another model; a span that is not there; a family in which image
            or question enter the decoder elsewhere, too (Qwen3-VL), so that they would not be
            ablated.

    Example:
        >>> import pid_lens
        >>> from pid_lens.adapters.transformer_lens import bridged, readout
        >>> bridge = bridged(pid_lens.demo.load()[0])
        >>> [batch] = pid_lens.demo.batches("vision", n=32)
        >>> moments = pid_lens.calibrate(bridge, [batch])
        >>> vision, read = dict(batch.inputs), readout(bridge, batch)
        >>> with bridge.hooks(fwd_hooks=noise(bridge, batch, "image", moments) + read):
        ...     logits = bridge(vision.pop("input_ids"), **vision)
        >>> read.reads.accuracy() < 0.8
        True
    """
    anatomy = dissect_hookable(bridge)
    ablations = complete_interventions([Noise(span)], anatomy, moments=moments, seed=seed)
    samples, variation = resolve_given(anatomy, batch, processor), Variation("", draw, ablations)
    samples.spans[span]  # a span that is not there is refused here, and not in the pass
    require_no_leaks(bridge, anatomy, as_batch(batch))

    def replace(
        embeddings: Float[Tensor, "n tokens width"], hook: Any
    ) -> Float[Tensor, "n tokens width"]:
        require_batch(embeddings.shape[:2], samples, hook.name)
        return variation.edit(embeddings, samples)

    return [(ENTRY, replace)]
