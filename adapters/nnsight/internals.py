"""nnsight: whatever is private of it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pid_lens.adapters.versions import require_version
from torch import nn

from pid_lens.forward import ForkEditError, UserHookGuard
from pid_lens.model import Anatomy, dissect_plain, named_arguments

require_version("nnsight", "0.8", "0.9")

from nnsight import save
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import Mediator, OutOfOrderError

__all__ = ["Run", "dissect", "forward_without_hooks", "guard_user_hooks", "is_user_call", "save"]

KEPT = "_pid_lens_kept"
"""Where what is known of a run is kept on nnsight's own objects, which end with it."""


def dissect(model: Any) -> Anatomy:
    """The parts of the plain model behind an nnsight model."""
    return dissect_plain(model._module)


def forward_without_hooks(controller: Any) -> Callable[..., Any]:
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


def is_user_call(module: nn.Module) -> bool:
    """Whether a block calls a module itself: its trace stands down meanwhile."""
    controller: Any = module.forward
    running = (route[0]() for route in controller.state.routes)
    return any(one is not None and one.mediators and not one.interleaving for one in running)


@contextmanager
def guard_user_hooks(decoder: nn.Module, guard: UserHookGuard) -> Iterator[None]:
    """Shows the blocks of a trace what a guard shows them, inside a decoder.

    Raises:
        ForkEditError: several invokes run, and edits are meant for all rows: none of them could
            keep to its own.
    """
    controller: Any = decoder.forward
    interleaver, path, _ = controller.state.active()
    if interleaver is None:
        yield
        return
    if guard.edits and interleaver.batcher.batching:
        raise ForkEditError(
            "several invokes run in one fork whose edits are meant for all rows, and what one of "
            "them edits would reach the others: trace each by itself, or leave fork_edits out"
        )
    serve = interleaver.handle

    def handle(location: str, value: Any) -> Any:
        inside = guard.forked and location.startswith(f"{path}.")
        if not inside or not (location in interleaver.parked or location in interleaver.observers):
            return serve(location, value)
        found = guard.call(lambda shown: serve(location, shown), guard.show(value), location)
        return value if found is None else found

    interleaver.handle = handle
    try:
        yield
    finally:
        del interleaver.handle


@dataclass(frozen=True, eq=False)
class Run:
    """The run of a model that an intervention block takes part in."""

    root: Any
    """The envoy of the whole model."""
    worker: Mediator
    """What runs the block."""

    @classmethod
    def current(cls, model: Any, what: str) -> Run:
        """The run that the calling block is part of.

        Raises:
            TypeError: the model is none of nnsight's.
            ValueError: the caller is in no block of a trace, or in one of another model.
        """
        if not isinstance(model, Envoy):
            raise TypeError(
                f"{what} needs the nnsight model that is traced, NNsight(model) or "
                f"TransformersModel(model, ...); got a {type(model).__name__}. Around plain "
                "calls: pid_lens.intervene and pid_lens.Lens"
            )
        try:
            worker = Mediator.current(what)
        except ValueError:
            raise ValueError(
                f"{what} belongs into a trace's own block, `with model.trace(**inputs): "
                f"{what}(model, ...)`; where there are invokes, into one of them"
            ) from None
        if id(model._module) not in worker.interleaver.envoys:
            raise ValueError(
                f"{what} was given another model than the one that this block traces, where it "
                "would do nothing: hand over the model of `with model.trace(...)`"
            )
        return cls(model.root, worker)

    @property
    def model(self) -> nn.Module:
        """The plain model."""
        module: nn.Module = self.root._module
        return module

    @property
    def prompt(self) -> dict[str, Any]:
        """The arguments of the whole batch's first pass, by name."""
        batcher = self.worker.interleaver.batcher
        if not hasattr(batcher, KEPT):
            args, kwargs = batcher.assemble(None)
            setattr(batcher, KEPT, named_arguments(self.model, args, kwargs))
        found: dict[str, Any] = getattr(batcher, KEPT)
        return found

    @property
    def rows(self) -> tuple[int, int] | None:
        """First and number of the rows of this invoke, None where it has them all."""
        group, batcher = self.worker.batch_group, self.worker.interleaver.batcher
        if group is None or not batcher.batching:
            return None
        first, count = group
        return first, count

    def enter_pass(self) -> tuple[int, dict[str, Any]] | None:
        """The pass that the block is at, as its number and arguments; None if none has begun.

        In a loop over ``tracer.iter`` the block waits here until its step comes.

        Raises:
            ValueError: the block is in the middle of a later step, of which nothing is known.
        """
        worker, whole = self.worker, f"{self.root.path}.input"
        begun, step = worker.occurrence(whole), worker.iteration
        if step is not None and step > 0:
            args, kwargs = Mediator.value(whole)
            entered = step, named_arguments(self.model, args, kwargs)
            setattr(worker, KEPT, entered)
            return entered
        last: tuple[int, dict[str, Any]] | None = getattr(worker, KEPT, None)
        if last is not None and last[0] in (begun, begun - 1):
            return last
        if begun <= 1 and step == 0:
            return (0, self.prompt) if begun else None
        raise ValueError(
            "inside a loop over tracer.iter, call functions of pid_lens before the loop's own "
            "reads of a step: what this step was called with is not known any more"
        )

    def begun(self, module: nn.Module, step: int) -> bool:
        """Whether a module has been called in a pass, or is being called."""
        envoy = self.worker.interleaver.envoys.get(id(module))
        if envoy is None:
            return False
        location, at = f"{envoy.path}.input", self.worker.pending
        served = at is not None and at.provider == location
        return served or self.worker.occurrence(location) > step

    def at_end(self, close: Callable[[], None]) -> None:
        """Has something done when the run is over, however it ends."""
        guard, interleaver = _Guard(close), self.worker.interleaver
        interleaver.mediators.append(guard)
        guard.start(interleaver)
        if interleaver.busy:
            interleaver._reindex_parked()


class _Guard(Mediator):
    """A worker that waits for the end of a run."""

    def __init__(self, close: Callable[[], None]) -> None:
        Mediator.__init__(self, None, {}, {})
        self.close = close

    def _run(self) -> None:
        try:
            Mediator.value("result")
        except OutOfOrderError:
            pass  # the run was stopped
        finally:
            self.close()
