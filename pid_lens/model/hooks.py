"""Forward hooks as a context manager: all are removed at its end, after an error too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Before = Callable[[nn.Module, tuple, dict], "tuple[tuple, dict] | None"]
After = Callable[[nn.Module, tuple, dict, Any], Any]


@contextmanager
def hooked(
    before: Sequence[tuple[nn.Module, Before]] = (),
    after: Sequence[tuple[nn.Module, After]] = (),
    always: Sequence[tuple[nn.Module, After]] = (),
    unless: Callable[[nn.Module], bool] = lambda module: False,
) -> Iterator[None]:
    """Register hooks before and after the modules' forward, for the length of a block.

    Hooks of ``always`` run after a module that raised, too; its output is None then. No hook runs
    in calls of a module for which ``unless`` is true.

    Example:
        >>> import torch
        >>> double = torch.nn.Identity()
        >>> with hooked(after=[(double, lambda module, args, kwargs, out: 2 * out)]):
        ...     print(double(torch.ones(1)))
        tensor([2.])
        >>> double(torch.ones(1))
        tensor([1.])
    """

    def guard(hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(module: nn.Module, *call: Any) -> Any:
            return None if unless(module) else hook(module, *call)

        return run

    with ExitStack() as stack:
        for module, first in before:
            hook = module.register_forward_pre_hook(guard(first), with_kwargs=True)
            stack.callback(hook.remove)
        for module, last in after:
            stack.callback(module.register_forward_hook(guard(last), with_kwargs=True).remove)
        for module, last in always:
            hook = module.register_forward_hook(guard(last), with_kwargs=True, always_call=True)
            stack.callback(hook.remove)
        yield


@contextmanager
def without_method(module: nn.Module, method: str, reason: str) -> Iterator[None]:
    """Make a method of a module raise a ValueError, for the length of a block.

    Raises:
        ValueError: ``reason``, in the block, where the method is called.

    Example:
        >>> from torch import nn
        >>> layer = nn.Identity()
        >>> with without_method(layer, "eval", "not during a forward pass"):
        ...     layer.eval()
        Traceback (most recent call last):
        ValueError: not during a forward pass
        >>> layer.eval()
        Identity()
    """
    if not callable(getattr(module, method, None)):
        yield
        return

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError(reason)

    before = module.__dict__.get(method)
    module.__dict__[method] = refuse
    try:
        yield
    finally:
        del module.__dict__[method]
        if before is not None:
            module.__dict__[method] = before
