"""What a user's hook is shown of a fork, and what it may do there."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pid_lens.forward.rows import own_rows


class ForkEditError(RuntimeError):
    """A write inside the decoder while every condition has rows of its own there."""


@dataclass
class UserHookGuard:
    """What somebody else's code is shown of a fork, and what it may do there.

    Args:
        n: how many rows are the caller's own.
        rows: how many there are, one block of n for each variation.
        tokens: of each row.
        edits: whether edits are meant for all of them, which are shown then.
    """

    n: int
    rows: int
    tokens: int = 0
    edits: bool = False
    forked: bool = True
    """Whether rows are repeated by now: what is written before is in all conditions."""
    _shown: list[weakref.ref[Tensor]] = field(default_factory=list, repr=False)
    """What was shown before: somebody may keep it, and write to it later."""

    def show(self, value: Any) -> Any:
        """The rows that are shown of whatever comes; no copy."""
        return value if self.edits else own_rows(value, self.n, self.rows, self.tokens)

    def call(self, look: Callable[[Any], Any], shown: Any, what: str) -> Any:
        """Has somebody look at a value that is shown to them.

        Args:
            look: gets it, and returns it or what is to stand in its place; None for as it was.
            shown: of `show`.
            what: what is looked at, for the error.

        Returns:
            What is to go on in its place; None for as it was.

        Raises:
            ForkEditError: it is another one afterwards, where edits are not meant for all rows.
        """
        if self.edits:
            return self._call_editor(look, shown, what)
        seen = [(tensor, _version(tensor)) for tensor in (*_tensors(shown), *self._earlier())]
        found = look(shown)
        self._shown.extend(weakref.ref(_base(tensor)) for tensor in _tensors(shown))
        written = any(not _as_it_was(tensor, version) for tensor, version in seen)
        if written or not (found is None or _same(found, shown)):
            raise ForkEditError(
                f"{what} was written to during a fork, where each condition has rows of its own: "
                "an edit that names rows (h[1, -1] = h[0, -1]) would hit one condition alone. "
                "Either replay, where your block runs once a condition as it is: `for view in "
                "lens.views(): with view: model(...)` (or `with view, model.trace(...)`). Or, "
                "if the edit is meant for every row (steering), Lens(..., fork_edits=True): it "
                "is then given the rows of all conditions. A knockout or noise belongs into the "
                "lens itself, Lens(..., interventions=[...])"
            )
        return None

    def _earlier(self) -> list[Tensor]:
        """What was shown before and is still there."""
        alive = [(ref, ref()) for ref in self._shown]
        self._shown[:] = [ref for ref, tensor in alive if tensor is not None]
        return [one for _, one in alive if one is not None and not one.is_inference()]

    def _call_editor(self, look: Callable[[Any], Any], shown: Any, what: str) -> Any:
        """Lets an edit through; warns where it reaches some conditions and not the others."""
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
        """For each block of rows whether it has changed."""
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
    """What a view is of: whoever writes to the one counts as a writer of the other."""
    return tensor if tensor._base is None else tensor._base


def _version(tensor: Tensor) -> int | Tensor:
    """What changes when a tensor is written to; a copy where inference mode keeps no count."""
    return tensor.clone() if tensor.is_inference() else tensor._version


def _as_it_was(tensor: Tensor, version: int | Tensor) -> bool:
    if isinstance(version, Tensor):
        return _equal(tensor, version)
    return tensor._version == version


def _same(found: Any, shown: Any) -> bool:
    """Whether something handed back is what was shown: the same memory, or the same numbers."""
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
    """Whether numbers are the same; NaN is the same as NaN."""
    both_nan = (one != one) & (other != other)
    return bool(((one == other) | both_nan).all())
