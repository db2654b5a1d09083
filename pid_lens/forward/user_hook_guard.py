"""Guard of user hooks during a fork: which batch rows they get, which writes are refused."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pid_lens.forward.rows import own_rows


class ForkEditError(RuntimeError):
    """A user's hook wrote to an activation during a fork, where each condition has its own rows.

    Example:
        >>> import torch
        >>> from pid_lens.forward import UserHookGuard
        >>> guard, activation = UserHookGuard(n=1, rows=3), torch.ones(3, 4)
        >>> guard.call(lambda shown: shown.mul_(2), guard.show(activation), "layers.1")
        Traceback (most recent call last):
            ...
        pid_lens.forward.user_hook_guard.ForkEditError: layers.1 was written to during a fork, ...
    """


@dataclass
class UserHookGuard:
    """Guard that gives a user's hooks the user's own batch rows in a fork, and refuses writes.

    Attributes:
        n: number of the user's own rows.
        rows: number of all rows, one block of n for each variation.
        tokens: number of tokens in each row.
        edits: whether edits are meant for all rows; hooks are given all of them then.
        forked: whether rows are repeated by now; an edit before that is in all conditions.

    Example:
        >>> import torch
        >>> guard, activation = UserHookGuard(n=2, rows=6), torch.arange(6.0)[:, None]
        >>> guard.show(activation).flatten().tolist()
        [0.0, 1.0]
        >>> seen = []
        >>> guard.call(lambda shown: seen.append(shown.sum()), guard.show(activation), "layers.1")
        >>> seen
        [tensor(1.)]
    """

    n: int
    rows: int
    tokens: int = 0
    edits: bool = False
    forked: bool = True
    # Tensors shown so far: a hook may keep one, and write to it later
    _shown: list[weakref.ref[Tensor]] = field(default_factory=list, repr=False)

    def show(self, value: Any) -> Any:
        """Slice the user's own rows from the tensors in a value, without a copy."""
        return value if self.edits else own_rows(value, self.n, self.rows, self.tokens)

    def call(self, look: Callable[[Any], Any], shown: Any, what: str) -> Any:
        """Call a user's hook with the value shown to it; refuse writes unless edits are meant.

        Args:
            look: the hook: takes the value, and returns it or a replacement; None for unchanged.
            shown: the value, as `show` returned it.
            what: name of the value, for the error.

        Returns:
            The replacement with which the forward pass goes on; None for unchanged.

        Raises:
            ForkEditError: the hook changed or replaced the value, and edits are not meant for
                all rows.
        """
        if self.edits:
            return self._call_editor(look, shown, what)
        # A tensor's version counter grows with each write in place, through any view of it
        seen = [(tensor, _version(tensor)) for tensor in (*_tensors(shown), *self._earlier())]
        found = look(shown)
        self._shown.extend(weakref.ref(_base(tensor)) for tensor in _tensors(shown))
        written = any(not _as_it_was(tensor, version) for tensor, version in seen)
        if written or not (found is None or _same(found, shown)):
            raise ForkEditError(
                f"{what} was written to during a fork, where each condition has rows of its own: "
                "an edit that names rows (h[1, -1] = h[0, -1]) would hit one condition alone. "
                "Either replay, where your block runs once per condition as it is: `for view in "
                "lens.views(): with view: model(...)` (or `with view, model.trace(...)`). Or, "
                "if the edit is meant for every row (steering), Lens(..., fork_edits=True): it "
                "is then given the rows of all conditions. A knockout or noise belongs in the "
                "lens itself, Lens(..., interventions=[...])"
            )
        return None

    def _earlier(self) -> list[Tensor]:
        """List the tensors that were shown before and are still alive."""
        alive = [(ref, ref()) for ref in self._shown]
        self._shown[:] = [ref for ref, tensor in alive if tensor is not None]
        return [one for _, one in alive if one is not None and not one.is_inference()]

    def _call_editor(self, look: Callable[[Any], Any], shown: Any, what: str) -> Any:
        """Let an edit through; warn where it reaches some row blocks and not the others."""
        before = [tensor.clone() for tensor in _tensors(shown)]
        found = look(shown)
        after = list(_tensors(shown if found is None else found))
        for one, other in zip(before, after, strict=False):
            touched = self._touched(one, other)
            if 0 < sum(touched) < len(touched):
                where = [block for block, hit in enumerate(touched) if hit]
                warnings.warn(
                    f"an edit of {what} changed the rows of block {where} of {len(touched)} and "
                    "left the other conditions as they were: an edit that names rows hits one "
                    "condition alone. Replay it, `for view in lens.views()`; `lens.rows` says "
                    "which condition a block is",
                    stacklevel=2,
                )
        return found

    def _touched(self, before: Tensor, after: Tensor) -> list[bool]:
        """Return, for each row block, whether it has changed."""
        if before.shape != after.shape or not before.ndim or len(before) != self.rows:
            return []
        pairs = zip(before.split(self.n), after.split(self.n), strict=True)
        return [not _equal(one, other) for one, other in pairs]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _base(tensor: Tensor) -> Tensor:
    """Return the tensor that a torch view is of: a write to one is a write to both."""
    return tensor if tensor._base is None else tensor._base


def _version(tensor: Tensor) -> int | Tensor:
    """Return the version counter of a tensor; a copy in inference mode, which keeps no count."""
    return tensor.clone() if tensor.is_inference() else tensor._version


def _as_it_was(tensor: Tensor, version: int | Tensor) -> bool:
    if isinstance(version, Tensor):
        return _equal(tensor, version)
    return tensor._version == version


def _same(found: Any, shown: Any) -> bool:
    """Return whether a returned value is the one shown: the same memory, or the same numbers."""
    if found is shown:
        return True
    if isinstance(shown, Tensor):
        return isinstance(found, Tensor) and _same_numbers(found, shown)
    if isinstance(shown, Mapping):
        return (
            isinstance(found, Mapping)
            and list(found) == list(shown)
            and all(_same(found[key], shown[key]) for key in shown)
        )
    if isinstance(shown, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(shown)
            and all(map(_same, found, shown))
        )
    return False


def _same_numbers(found: Tensor, shown: Tensor) -> bool:
    if found.shape != shown.shape or found.dtype != shown.dtype:
        return False
    where = tuple((t.data_ptr(), t.stride(), t.device) for t in (found, shown))
    return where[0] == where[1] or _equal(found, shown)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether all numbers are equal; NaN equals NaN."""
    both_nan = (one != one) & (other != other)
    return bool(((one == other) | both_nan).all())
