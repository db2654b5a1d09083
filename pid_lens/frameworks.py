"""Frameworks: which adapter knows a thing, what it takes a model apart into, what it wraps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from pid_lens.anatomy import Anatomy
    from pid_lens.watching import Watch

ADAPTERS = {
    "transformers": "pid_lens.adapters.transformers",
    "nnsight": "pid_lens.adapters.nnsight_internals",
    "transformer_lens": "pid_lens.adapters.transformer_lens_internals",
}
"""Framework, as the first part of a class's module -> the adapter that knows it."""

TRANSFORMERS = "transformers"
"""The framework whose modules all others wrap."""

WRAPPINGS = ("_original_component",)
"""Parts of parameters' names that are a framework's, not the model's."""


def adapter_of(thing: Any) -> ModuleType | None:
    """The adapter of the framework that a thing's class comes from, None if nobody knows it.

    Example:
        >>> adapter_of(3) is None
        True
    """
    for cls in type(thing).__mro__:
        path = ADAPTERS.get(cls.__module__.partition(".")[0])
        if path is not None:
            return import_module(path)
    return None


def dissect(model: Any) -> Anatomy:
    """Finds the parts of a model, whichever framework it comes from.

    Args:
        model: a vision-language model of transformers, or one that nnsight (`NNsight`,
            `TransformersModel`) or TransformerLens (`TransformerBridge`) wraps.

    Returns:
        Its `Anatomy`, of the plain modules.

    Raises:
        TypeError: no adapter knows the model's class.
        ImportError: a framework of a version that was not tried.
        ValueError: an adapter knows it but misses a part, or the family cannot be measured
            without a leak.

    Example:
        >>> import pid_lens
        >>> model, _ = pid_lens.demo.load()
        >>> dissect(model).site
        'model.language_model.inputs_embeds'
    """
    adapter = adapter_of(model)
    if adapter is None:
        raise TypeError(
            f"no adapter knows {type(model).__module__}.{type(model).__name__} (known frameworks: "
            f"{', '.join(ADAPTERS)}). Hand over its parts: anatomy=pid_lens.Anatomy(model=..., "
            "decoder=..., layers=..., norm=..., unembed=..., image_token=...). If it wraps a "
            "model of transformers (torch.compile, DataParallel, PEFT), hand over the wrapped "
            "model"
        )
    find: Callable[[Any], Anatomy] = adapter.dissect
    return find(model)


def dissect_plain(model: Any) -> Anatomy:
    """The same for the plain model that a framework wraps."""
    find: Callable[[Any], Anatomy] = import_module(ADAPTERS[TRANSFORMERS]).dissect
    return find(model)


def unwatched(module: nn.Module) -> Callable[..., Any]:
    """A module's forward without anybody's hooks, and without what frameworks put around it.

    Who calls a module a second time in a pass must not be taken for the model: a read of
    somebody's would be served what was computed for us.

    Example:
        >>> import torch
        >>> unwatched(torch.nn.Identity())(torch.ones(1))
        tensor([1.])
    """
    for thing in (module, module.__dict__.get("forward")):
        adapter = adapter_of(thing)
        if adapter is not None and hasattr(adapter, "unwatched"):
            find: Callable[[Any], Callable[..., Any]] = adapter.unwatched
            return find(thing)
    return module.forward


@contextmanager
def watched(decoder: nn.Module, watch: Watch) -> Iterator[None]:
    """Has a framework that runs around a decoder show its users what a watch shows them."""
    adapter = adapter_of(decoder.__dict__.get("forward"))
    if adapter is None or not hasattr(adapter, "watched"):
        yield
        return
    with adapter.watched(decoder, watch):
        yield


def by_hand(module: nn.Module) -> bool:
    """Whether a call of a module is a framework's user's own, beside the pass that runs."""
    adapter = adapter_of(module.__dict__.get("forward"))
    found = getattr(adapter, "by_hand", None)
    return found is not None and bool(found(module))


def name_of(module: nn.Module, path: str) -> str:
    """What a module is called, by its framework or by its path in the plain model."""
    find = getattr(adapter_of(module), "name_of", None)
    return (None if find is None else find(module)) or plain_name(path) or "the decoder"


def processor_of(model: Any, given: Any = None) -> Any:
    """The processor that was given, or the one that a wrapped model brings along; None if none."""
    return getattr(model, "processor", None) if given is None else given


def plain_name(parameter: str) -> str:
    """A parameter's name as the plain model has it.

    Example:
        >>> plain_name("model.layers.0._original_component.mlp.weight")
        'model.layers.0.mlp.weight'
    """
    return ".".join(part for part in parameter.split(".") if part not in WRAPPINGS)
