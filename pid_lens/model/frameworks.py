"""Frameworks: which adapter knows a thing, what it takes a model apart into, what it wraps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, cast

from torch import nn

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


class Adapter(Protocol):
    """What a framework's module in `pid_lens.adapters` defines, as plain functions.

    Every adapter has `dissect`. The others are for frameworks that run something of their users'
    around modules; one that does not leaves them out.
    """

    def dissect(self, model: Any) -> Any:
        """The `pid_lens.Anatomy` of the plain model that a thing of the framework wraps."""

    def forward_without_hooks(self, thing: Any) -> Callable[..., Any]:
        """A module's forward of which the framework's users notice nothing."""

    def guard_user_hooks(self, decoder: nn.Module, guard: Any) -> AbstractContextManager[None]:
        """Has users see a fork of this decoder by a `pid_lens.forward.UserHookGuard` alone."""

    def is_user_call(self, module: nn.Module) -> bool:
        """Whether a module is called by a user, beside the pass that runs."""

    def name_of(self, module: nn.Module) -> str | None:
        """What the framework calls a module; None where it is the path in the plain model."""


def adapter_of(thing: Any) -> Adapter | None:
    """The adapter of the framework that a thing's class comes from, None if nobody knows it.

    Example:
        >>> adapter_of(3) is None
        True
    """
    for cls in type(thing).__mro__:
        path = ADAPTERS.get(cls.__module__.partition(".")[0])
        if path is not None:
            return cast(Adapter, import_module(path))
    return None


def forward_without_hooks(module: nn.Module) -> Callable[..., Any]:
    """A module's forward without anybody's hooks, and without what frameworks put around it.

    Who calls a module a second time in a pass must not be taken for the model: a read of
    somebody's would be served what was computed for us.

    Example:
        >>> import torch
        >>> forward_without_hooks(torch.nn.Identity())(torch.ones(1))
        tensor([1.])
    """
    for thing in (module, module.__dict__.get("forward")):
        adapter = adapter_of(thing)
        if adapter is not None and hasattr(adapter, "forward_without_hooks"):
            return adapter.forward_without_hooks(thing)
    return module.forward


def is_user_call(module: nn.Module) -> bool:
    """Whether a call of a module is a framework's user's own, beside the pass that runs."""
    adapter = adapter_of(module.__dict__.get("forward"))
    if adapter is None or not hasattr(adapter, "is_user_call"):
        return False
    return adapter.is_user_call(module)


def name_of(module: nn.Module, path: str) -> str:
    """What a module is called, by its framework or by its path in the plain model."""
    adapter = adapter_of(module)
    own = None if adapter is None or not hasattr(adapter, "name_of") else adapter.name_of(module)
    return own or plain_name(path) or "the decoder"


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
