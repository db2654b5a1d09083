"""Block passes: hooks for the one forward pass that the block of a trace is at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pid_lens.forward import InterventionScope, Stream, is_read, residual_stream
from pid_lens.model import hooked, is_user_call

if TYPE_CHECKING:
    from pid_lens.adapters.nnsight.internals import Run
    from torch import nn

    from pid_lens.model import After


def enter_scope(run: Run, scope: InterventionScope) -> None:
    """Apply interventions in the forward pass that a block is at, until the run is over.

    Raises:
        ValueError: the block has read an activation that they edit; a step of a beam search.
        RuntimeError: a lens is open on this model.
    """
    entered = run.enter_pass()
    stack = ExitStack()
    run.at_end(stack.close)
    stack.enter_context(scope.in_force(unless=is_user_call))
    if entered is not None:
        _resume(run, scope, *entered)


def _resume(run: Run, scope: InterventionScope, step: int, arguments: dict[str, Any]) -> None:
    """Apply interventions in a forward pass that has begun."""
    require_not_begun(run, scope.attentions, step)
    rows, prompts = len(arguments["input_ids"]), len(run.prompt["input_ids"])
    if rows != prompts:
        raise ValueError(
            f"{rows} rows came for {prompts} prompts: the rows of a beam search cannot be matched "
            "to prompts. Use pid_lens.intervene around the whole generation"
        )
    decoding = run.begun(scope.anatomy.decoder, step)
    scope.resume(run.prompt, arguments, decoding=decoding)


def fill_stream(run: Run, stream: Stream) -> None:
    """Fill a stream from the residual stream after each layer, until the run is over.

    Raises:
        ValueError: in the forward pass, a layer returns other rows than those of the prompts.
    """
    n, rows = len(run.prompt["input_ids"]), run.rows
    mine = slice(None) if rows is None else slice(rows[0], rows[0] + rows[1])

    def taking(layer: int) -> After:
        def take(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            states = residual_stream(output)
            if len(states) != n and not is_read(stream.anatomy):
                raise ValueError(
                    f"{len(states)} rows came for {n} prompts: of beams, or several answers to a "
                    "prompt, nothing is read. Read the prompts in a trace of their own"
                )
            if layer not in stream.answers:
                stream.take(layer, states[:n][mine])

        return take

    stack = ExitStack()
    run.at_end(stack.close)
    stack.enter_context(
        hooked(
            after=[(stream.anatomy.layers[layer], taking(layer)) for layer in stream.layers],
            unless=is_user_call,
        )
    )


def require_not_begun(run: Run, modules: Sequence[nn.Module], step: int) -> None:
    """Require that no module to be hooked has run, or runs, in this pass.

    Raises:
        ValueError: one has, so that a hook would come too late.
    """
    late = [module for module in modules if run.begun(module, step)]
    if late:
        names = {id(module): name for name, module in run.model.named_modules()}
        raise ValueError(
            f"{names.get(id(late[0]), type(late[0]).__name__)} has run already: call this before "
            "the block reads anything of it, best at the top, or choose later layers"
        )
