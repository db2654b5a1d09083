"""nnsight: whatever is private of it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pid_lens.adapters.versions import require
from torch import nn

from pid_lens.anatomy import Anatomy
from pid_lens.frameworks import dissect_plain
from pid_lens.watching import Watch

TRIED = "0.8", "0.9"
"""Versions that were tried: from the first on, below the second."""


def dissect(model: Any) -> Anatomy:
    """The parts of the plain model behind an nnsight model.

    Raises:
        ImportError: a version of nnsight that was not tried.
        TypeError: a part of a model, or one without weights.
    """
    require("nnsight", *TRIED)
    return dissect_plain(model._module)


def unwatched(controller: Any) -> Callable[..., Any]:
    """A module's forward with the trace stood down: nothing is served, no visit is counted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        interleaver, *_ = controller.state.active()
        if interleaver is None:
            return controller(*args, **kwargs)
        before, interleaver.interleaving = interleaver.interleaving, False
        try:
            return controller(*args, **kwargs)
        finally:
            interleaver.interleaving = before

    return call


@contextmanager
def watched(decoder: nn.Module, watch: Watch) -> Iterator[None]:
    """Shows the blocks of a trace what a watch shows them, inside a decoder."""
    controller: Any = decoder.forward
    interleaver, path, _ = controller.state.active()
    if interleaver is None:
        yield
        return
    serve = interleaver.handle

    def handle(location: str, value: Any) -> Any:
        inside = location.startswith(f"{path}.")
        if not inside or not (location in interleaver.parked or location in interleaver.observers):
            return serve(location, value)
        watch.call(lambda shown: serve(location, shown), watch.show(value), location)
        return value

    interleaver.handle = handle
    try:
        yield
    finally:
        del interleaver.handle
