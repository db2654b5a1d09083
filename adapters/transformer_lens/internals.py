"""TransformerLens: all that is private to it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from pid_lens.adapters.versions import require_version
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGE_TEXT_MODELS,
)

from pid_lens.model import Anatomy, dissect_plain, require_uncompiled
from pid_lens.model import forward_without_hooks as plainly

require_version("transformer-lens", "4.3", "4.4")

from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

__all__ = [
    "HookPoint",
    "TransformerBridge",
    "build_bridge",
    "dissect",
    "dissect_hookable",
    "forward_without_hooks",
    "name_of",
]

FOR_IMAGES_FROM_DISK = "torchvision"
"""The library that families require although only their processors need it."""


def dissect(bridge: Any) -> Anatomy:
    """Find the parts of the plain model behind a bridge.

    Raises:
        TypeError: it is not a bridge, and so has no plain model.

    Example:
        >>> import pid_lens
        >>> from pid_lens.adapters.transformer_lens.internals import build_bridge
        >>> model, _ = pid_lens.demo.load()
        >>> found = dissect(build_bridge(model))
        >>> found.model is model, len(found.layers)
        (True, 6)
    """
    if not isinstance(bridge, TransformerBridge):
        raise TypeError(
            f"expected a TransformerBridge of TransformerLens; got a {type(bridge).__name__}. "
            "pid_lens.adapters.transformer_lens.bridged(model) makes one of a model in memory; "
            "around calls of the plain model: pid_lens.Lens and pid_lens.intervene"
        )
    return dissect_plain(bridge.original_model)


def forward_without_hooks(component: Any) -> Callable[..., Any]:
    """Return the forward of the plain module that a bridge's component wraps: no hooks run.

    Example:
        >>> import pid_lens, torch
        >>> from pid_lens.adapters.transformer_lens.internals import build_bridge
        >>> mlp, calls = build_bridge(pid_lens.demo.load()[0]).blocks[0].mlp, []
        >>> handle = mlp.hook_out.add_hook(lambda output, hook: calls.append(hook.name))
        >>> output = forward_without_hooks(mlp)(torch.zeros(1, 2, 64))
        >>> output.shape, calls
        (torch.Size([1, 2, 64]), [])
    """
    return plainly(component.original_component)


def name_of(module: nn.Module) -> str | None:
    """Return what TransformerLens calls a hook point; None for other modules.

    Example:
        >>> import pid_lens
        >>> from pid_lens.adapters.transformer_lens.internals import build_bridge
        >>> layer = build_bridge(pid_lens.demo.load()[0]).blocks[2]
        >>> name_of(layer.hook_out), name_of(layer)
        ('blocks.2.hook_out', None)
    """
    return module.name if isinstance(module, HookPoint) else None


def dissect_hookable(bridge: Any) -> Anatomy:
    """Find the parts of a bridge whose hook points are named by the decoder's layer numbers.

    Raises:
        TypeError: it is not a bridge.
        ValueError: it is compiled, or its blocks are other modules than the decoder's layers.

    Example:
        >>> import pid_lens
        >>> from pid_lens.adapters.transformer_lens.internals import build_bridge
        >>> bridge = build_bridge(pid_lens.demo.load()[0])
        >>> dissect_hookable(bridge).layers[3] is bridge.blocks[3]
        True
    """
    anatomy = dissect(bridge)
    require_uncompiled(anatomy.model)
    blocks = list(getattr(bridge, "blocks", ()))
    if list(map(id, blocks)) != list(map(id, anatomy.layers)):
        raise ValueError(
            f"the blocks of this bridge are not the {len(anatomy.layers)} layers of its decoder, "
            "so that hook points cannot be named by layers: use pid_lens.Lens and "
            "pid_lens.intervene"
        )
    return anatomy


# ---------------------------------------------------------------- a bridge around a model


def build_bridge(model: Any, tokenizer: Any = None) -> TransformerBridge:
    """Build a bridge around a model in memory; nothing is loaded, and nothing installed.

    Raises:
        TypeError: no model of transformers.
        ValueError: a bridge has been built around it, or TransformerLens does not know it.

    Example:
        >>> import pid_lens
        >>> model, _ = pid_lens.demo.load()
        >>> bridge = build_bridge(model)
        >>> bridge.original_model is model, len(bridge.blocks)
        (True, 6)
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(
            f"expected a model of transformers; got a {type(model).__name__}: are model and "
            "tokenizer swapped?"
        )
    if any(isinstance(part, GeneralizedComponent | TransformerBridge) for part in model.modules()):
        raise ValueError("this model has a bridge already, which has changed it: use that one")
    architecture = _architecture(model)
    with _without_torchvision(ArchitectureAdapterFactory._adapters[architecture]):
        bridge = build_bridge_from_module(
            model, architecture, hf_config=model.config, tokenizer=_kept(tokenizer)
        )
    bridge.processor = tokenizer if hasattr(tokenizer, "tokenizer") else None
    return bridge


def _architecture(model: nn.Module) -> str:
    """Return the name of the class by which TransformerLens knows a model."""
    known = ArchitectureAdapterFactory._adapters
    found = [cls.__name__ for cls in type(model).__mro__ if cls.__name__ in known]
    if not found:
        families = sorted(set(IMAGE_TEXT_MODELS.values()) & set(known))
        named = ", ".join(name.removesuffix("ForConditionalGeneration") for name in families)
        raise ValueError(
            f"TransformerLens has no bridge for {type(model).__name__}. Its families with images "
            f"are {named}. pid_lens.Lens and pid_lens.intervene work on the plain model"
        )
    return found[0]


@contextmanager
def _without_torchvision(adapter: Any) -> Iterator[None]:
    """Take torchvision, which only its processor needs, from what an adapter requires."""
    own = vars(adapter).get("required_libraries")
    needed = [name for name in adapter.required_libraries if name != FOR_IMAGES_FROM_DISK]
    adapter.required_libraries = needed
    try:
        yield
    finally:
        if own is None:
            del adapter.required_libraries
        else:
            adapter.required_libraries = own


def _kept(tokenizer: Any) -> Any:
    """Copy a tokenizer, marked as adding BOS, so that TransformerLens does not load it anew.

    Raises:
        TypeError: it is neither a tokenizer nor a processor that has one.
    """
    found = getattr(tokenizer, "tokenizer", tokenizer)
    if found is None:
        return None
    if not isinstance(found, PreTrainedTokenizerBase):
        raise TypeError(
            "tokenizer must be a tokenizer of transformers, or a processor that has one, since "
            f"nothing is loaded here; got {tokenizer!r}"
        )
    copy = deepcopy(found)
    known = {"name_or_path": copy.name_or_path, **copy.init_kwargs}
    copy.init_kwargs = {**known, "add_bos_token": True}
    return copy
