"""Guard user hooks during a fork: give them their own batch rows alone, and refuse their edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from pid_lens.forward.user_hook_guard import UserHookGuard
from pid_lens.model import adapter_of, name_of

OURS = __name__.partition(".")[0]


@contextmanager
def guard_user_hooks(
    decoder: nn.Module, n: int, rows: int, tokens: int, *, edits: bool = False
) -> Iterator[UserHookGuard]:
    """Guard the user's hooks on a decoder's modules, as soon as the pass is ``forked``.

    Args:
        decoder: the decoder.
        n: number of the user's own rows.
        rows: number of all rows, one block of n for each variation.
        tokens: number of tokens in each row.
        edits: whether edits are meant for all rows.

    Raises:
        ForkEditError: edits are meant for all rows, and several invokes of an nnsight trace run,
            each on some of them.
    """
    guard = UserHookGuard(n, rows, tokens, edits, forked=False)
    with ExitStack() as stack:
        for path, module in decoder.named_modules():
            _guard_pre_hooks(guard, path, module, stack)
            if module is not decoder:
                _guard_post_hooks(guard, path, module, stack)
        stack.enter_context(guard_framework(decoder, guard))
        yield guard


@contextmanager
def guard_framework(decoder: nn.Module, guard: UserHookGuard) -> Iterator[None]:
    """Guard the reads and edits of a framework's traces on a decoder, if one is around it."""
    adapter = adapter_of(decoder.__dict__.get("forward"))
    if adapter is None or not hasattr(adapter, "guard_user_hooks"):
        yield
        return
    with adapter.guard_user_hooks(decoder, guard):
        yield


def is_own_hook(hook: Any) -> bool:
    """Return whether a hook is one of pid_lens's own.

    Example:
        >>> import torch
        >>> from pid_lens.forward import Stream
        >>> is_own_hook(Stream.take), is_own_hook(torch.relu)
        (True, False)
    """
    return str(getattr(hook, "__module__", "")).partition(".")[0] == OURS


# ---------------------------------------------------------------- hooks of torch
#
# torch has no public way to list a module's hooks or to put one around another, so these functions
# edit its own dicts. What they rely on, in torch/nn/modules/module.py (`Module._call_impl`) and
# torch/utils/hooks.py (`RemovableHandle`) of 2.13:
#
# * `_forward_pre_hooks` and `_forward_hooks` are ordered dicts of id -> hook. Each call of the
#   module reads them anew, and calls the hooks in their order: another function under the same id
#   runs in the hook's turn, from the next call on.
# * How a hook is called is kept separately, under its id. One that was registered `with_kwargs` is
#   in `_forward_pre_hooks_with_kwargs` or `_forward_hooks_with_kwargs` and is given the named
#   arguments, too; `_forward_hooks_always_called` works likewise. These dicts stay as they are.
# * A handle removes the hook that has its id at that time, and no id is given twice. So a hook may
#   be removed while it is guarded, and must not come back when the guard is taken off.
# * A pre-hook returns arguments, a single one as it is or a tuple; one `with_kwargs` returns a
#   pair (args, kwargs). A hook that runs after the module returns the output. None leaves all as
#   it is.


def _guard_pre_hooks(guard: UserHookGuard, path: str, module: nn.Module, stack: ExitStack) -> None:
    """Guard a module's pre-hooks, until the exit stack unwinds."""
    named = module._forward_pre_hooks_with_kwargs
    for key, hook in _user_hooks(module._forward_pre_hooks):
        call = _call_pre_hook_with_kwargs if key in named else _call_pre_hook
        _replace(module._forward_pre_hooks, key, partial(call, guard, path, hook), stack)


def _guard_post_hooks(
    guard: UserHookGuard, path: str, module: nn.Module, stack: ExitStack
) -> None:
    """Guard the hooks that run after a module, until the exit stack unwinds."""
    named = module._forward_hooks_with_kwargs
    for key, hook in _user_hooks(module._forward_hooks):
        call = _call_post_hook_with_kwargs if key in named else _call_post_hook
        _replace(module._forward_hooks, key, partial(call, guard, path, hook), stack)


def _user_hooks(hooks: dict[int, Callable]) -> list[tuple[int, Callable]]:
    """List the hooks that are not ours, with their ids."""
    return [(key, hook) for key, hook in hooks.items() if not is_own_hook(hook)]


def _replace(hooks: dict[int, Callable], key: int, guarded: Callable, stack: ExitStack) -> None:
    """Put a function in a hook's place; later the hook back, unless it was removed meanwhile."""
    hook, hooks[key] = hooks[key], guarded

    def put_back() -> None:
        if key in hooks:
            hooks[key] = hook

    stack.callback(put_back)


def _call_pre_hook(
    guard: UserHookGuard, path: str, hook: Callable, module: nn.Module, args: tuple
) -> Any:
    """Call a pre-hook with the user's rows of the positional arguments."""
    if not guard.forked:
        return hook(module, args)

    def look(shown: tuple) -> tuple | None:
        found = hook(module, shown)
        return found if found is None or isinstance(found, tuple) else (found,)

    return guard.call(look, guard.show(args), _what_enters(path, module))


def _call_pre_hook_with_kwargs(
    guard: UserHookGuard, path: str, hook: Callable, module: nn.Module, args: tuple, kwargs: dict
) -> Any:
    """Call a pre-hook with the user's rows of the positional and named arguments."""
    if not guard.forked:
        return hook(module, args, kwargs)

    def look(shown: tuple[tuple, dict]) -> Any:
        shown_args, shown_kwargs = shown
        return hook(module, shown_args, shown_kwargs)

    return guard.call(look, guard.show((args, kwargs)), _what_enters(path, module))


def _call_post_hook(
    guard: UserHookGuard, path: str, hook: Callable, module: nn.Module, args: tuple, output: Any
) -> Any:
    """Call a hook with the user's rows of the positional arguments and the output."""
    if not guard.forked:
        return hook(module, args, output)

    def look(shown: tuple[tuple, Any]) -> tuple[tuple, Any] | None:
        shown_args, shown_output = shown
        found = hook(module, shown_args, shown_output)
        return None if found is None else (shown_args, found)

    found = guard.call(look, guard.show((args, output)), _what_leaves(path, module))
    return None if found is None else found[-1]


def _call_post_hook_with_kwargs(
    guard: UserHookGuard,
    path: str,
    hook: Callable,
    module: nn.Module,
    args: tuple,
    kwargs: dict,
    output: Any,
) -> Any:
    """Call a hook with the user's rows of the positional and named arguments and the output."""
    if not guard.forked:
        return hook(module, args, kwargs, output)

    def look(shown: tuple[tuple, dict, Any]) -> tuple[tuple, dict, Any] | None:
        shown_args, shown_kwargs, shown_output = shown
        found = hook(module, shown_args, shown_kwargs, shown_output)
        return None if found is None else (shown_args, shown_kwargs, found)

    found = guard.call(look, guard.show((args, kwargs, output)), _what_leaves(path, module))
    return None if found is None else found[-1]


def _what_enters(path: str, module: nn.Module) -> str:
    return f"what goes into {name_of(module, path)}"


def _what_leaves(path: str, module: nn.Module) -> str:
    return f"what comes out of {name_of(module, path)}"
