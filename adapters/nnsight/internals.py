"""nnsight: all that is private to it, in one place."""

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
"""The attribute under which a run's arguments are kept on nnsight's objects, which end with it."""


def dissect(model: Any) -> Anatomy:
    """Find the parts of the plain model behind an nnsight model.

    Example:
        >>> import pid_lens
        >>> from nnsight import NNsight
        >>> model, _ = pid_lens.demo.load()
        >>> found = dissect(NNsight(model))
        >>> found.model is model, len(found.layers)
        (True, 6)
    """
    return dissect_plain(model._module)


def forward_without_hooks(controller: Any) -> Callable[..., Any]:
    """Return a module's forward outside the trace: no read is served, no visit is counted.

    Example:
        >>> import torch
        >>> from nnsight import NNsight, save
        >>> from torch import nn
        >>> layer, x = nn.Linear(2, 2), torch.ones(1, 2)
        >>> model = NNsight(nn.Sequential(layer))
        >>> with torch.no_grad(), model.trace(x):
        ...     again = save(forward_without_hooks(layer.forward)(x))
        ...     output = model[0].output.save()
        >>> torch.equal(again, output)
        True
    """

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
    """Return whether a block calls a module itself, outside the traced forward pass.

    Example:
        >>> import torch
        >>> from nnsight import NNsight
        >>> from torch import nn
        >>> layer, x, calls = nn.Linear(2, 2), torch.ones(1, 2), []
        >>> hook = layer.register_forward_pre_hook(lambda m, args: calls.append(is_user_call(m)))
        >>> model = NNsight(nn.Sequential(layer))
        >>> with model.trace(x):
        ...     again = model[0](x)
        >>> calls
        [True, False]
    """
    controller: Any = module.forward
    running = (route[0]() for route in controller.state.routes)
    return any(one is not None and one.mediators and not one.interleaving for one in running)


@contextmanager
def guard_user_hooks(decoder: nn.Module, guard: UserHookGuard) -> Iterator[None]:
    """Show the blocks of a trace only their own batch rows of a fork, inside a decoder.

    Raises:
        ForkEditError: several invokes run, and edits are meant for all rows: no invoke could
            keep to its own.

    Example:
        >>> import torch
        >>> from nnsight import NNsight
        >>> from torch import nn
        >>> from pid_lens.forward import UserHookGuard
        >>> class Decoder(nn.Sequential):
        ...     def forward(self, x):
        ...         with guard_user_hooks(self, UserHookGuard(n=1, rows=3)):
        ...             return super().forward(x)
        >>> model = NNsight(nn.Sequential(Decoder(nn.Linear(2, 2))))
        >>> with torch.no_grad(), model.trace(torch.ones(3, 2)):
        ...     shown = model[0][0].output.save()
        >>> shown.shape
        torch.Size([1, 2])
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
    """The run of a model that an intervention block takes part in.

    Attributes:
        root: the envoy of the whole model.
        worker: nnsight's mediator, which runs the block.

    Example:
        >>> import torch
        >>> from nnsight import NNsight, save
        >>> from torch import nn
        >>> model = NNsight(nn.Sequential(nn.Linear(2, 2)))
        >>> with model.trace(input=torch.ones(3, 2)):
        ...     run = Run.current(model, "example")
        ...     prompt, rows = save(run.prompt), save(run.rows)
        >>> prompt["input"].shape, rows
        (torch.Size([3, 2]), None)
    """

    root: Any
    worker: Mediator

    @classmethod
    def current(cls, model: Any, what: str) -> Run:
        """Find the run that the calling block is part of.

        Raises:
            TypeError: the model is not an nnsight model.
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
                f"{what} belongs in a trace's own block, `with model.trace(**inputs): "
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
        """Return number and arguments of the forward pass that the block is at, None before any.

        In a loop over ``tracer.iter`` the block waits here until its step comes.

        Raises:
            ValueError: the block is in the middle of a later step, whose arguments are not known.
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
        """Return whether a module has been called in a pass, or is being called."""
        envoy = self.worker.interleaver.envoys.get(id(module))
        if envoy is None:
            return False
        location, at = f"{envoy.path}.input", self.worker.pending
        served = at is not None and at.provider == location
        return served or self.worker.occurrence(location) > step

    def at_end(self, close: Callable[[], None]) -> None:
        """Call a function when the run is over, by its end or by an error."""
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
