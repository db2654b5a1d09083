"""Frameworks: which adapter knows a thing, what it takes a model apart into, what it wraps."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    pass

ADAPTERS = {
    "transformers": "pid_lens.adapters.transformers",
    "nnsight": "pid_lens.adapters.nnsight.internals",
    "transformer_lens": "pid_lens.adapters.transformer_lens.internals",
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
