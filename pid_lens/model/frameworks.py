"""Frameworks: the adapter of a model's framework, and calls of modules without its hooks."""

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

    Every adapter has `dissect`. The rest is for frameworks that run their users' code (hooks,
    traces) around modules; an adapter of any other framework leaves it out.
    """

    def dissect(self, model: Any) -> Any:
        """Find the `pid_lens.Anatomy` of the plain model that an object of the framework wraps."""

    def forward_without_hooks(self, thing: Any) -> Callable[..., Any]:
        """Return a module's forward without the hooks and traces of the framework's users."""

    def guard_user_hooks(self, decoder: nn.Module, guard: Any) -> AbstractContextManager[None]:
        """Guard user hooks in a fork of this decoder by a `pid_lens.forward.UserHookGuard`."""

    def is_user_call(self, module: nn.Module) -> bool:
        """Return whether a user calls a module, apart from the forward pass that runs."""

    def name_of(self, module: nn.Module) -> str | None:
        """Return the framework's name of a module; None where it is the plain model's path."""


def adapter_of(thing: Any) -> Adapter | None:
    """Look up the adapter of the framework that defines an object's class, or None.

    Example:
        >>> import pid_lens
        >>> model, _ = pid_lens.demo.load()
        >>> adapter_of(model).__name__, adapter_of("a model")
        ('pid_lens.adapters.transformers', None)
    """
    for cls in type(thing).__mro__:
        path = ADAPTERS.get(cls.__module__.partition(".")[0])
        if path is not None:
            return cast(Adapter, import_module(path))
    return None


def forward_without_hooks(module: nn.Module) -> Callable[..., Any]:
    """Return a module's forward without hooks, and without what frameworks put around it.

    A second call of a module in a forward pass must not be taken for the model's own: a user's
    trace or cache would record it.

    Example:
        >>> import torch
        >>> layer, calls = torch.nn.Identity(), []
        >>> handle = layer.register_forward_hook(lambda *call: calls.append("a hook"))
        >>> forward_without_hooks(layer)(torch.ones(1)), calls
        (tensor([1.]), [])
    """
    for thing in (module, module.__dict__.get("forward")):
        adapter = adapter_of(thing)
        if adapter is not None and hasattr(adapter, "forward_without_hooks"):
            return adapter.forward_without_hooks(thing)
    return module.forward


def is_user_call(module: nn.Module) -> bool:
    """Return whether a framework's user calls a module, apart from the forward pass that runs.

    nnsight runs modules at a user's request within a trace; a plain module is never called so.

    Example:
        >>> import torch
        >>> is_user_call(torch.nn.Linear(2, 2))
        False
    """
    adapter = adapter_of(module.__dict__.get("forward"))
    if adapter is None or not hasattr(adapter, "is_user_call"):
        return False
    return adapter.is_user_call(module)


def name_of(module: nn.Module, path: str) -> str:
    """Return a module's name: its framework's, or its path in the plain model.

    Example:
        >>> import torch
        >>> name_of(torch.nn.Linear(2, 2), "layers.0._original_component.mlp")
        'layers.0.mlp'
    """
    adapter = adapter_of(module)
    own = None if adapter is None or not hasattr(adapter, "name_of") else adapter.name_of(module)
    return own or plain_name(path) or "the decoder"


def processor_of(model: Any, given: Any = None) -> Any:
    """Return the given processor, or the one that a wrapped model brings along; None if none.

    Example:
        >>> from types import SimpleNamespace
        >>> wrapped = SimpleNamespace(processor="its own")
        >>> processor_of(wrapped), processor_of(wrapped, "the user's"), processor_of("a model")
        ('its own', "the user's", None)
    """
    return getattr(model, "processor", None) if given is None else given


def plain_name(parameter: str) -> str:
    """Strip a framework's wrappings from a parameter's name.

    Example:
        >>> plain_name("model.layers.0._original_component.mlp.weight")
        'model.layers.0.mlp.weight'
    """
    return ".".join(part for part in parameter.split(".") if part not in WRAPPINGS)
