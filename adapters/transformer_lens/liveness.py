"""Liveness: whether an edit at a hook point changes the logits, tested by running the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pid_lens.adapters.transformer_lens.internals import HookPoint, TransformerBridge
from torch import Tensor, nn

from pid_lens.forward import is_own_hook
from pid_lens.inputs import Batch
from pid_lens.model import (
    Anatomy,
    embed_arguments,
    hooked,
    named_arguments,
    require_known_pathways,
)
from pid_lens.per_object import PerObject

if TYPE_CHECKING:
    from jaxtyping import Float

Hook = tuple[str, Callable[..., Any]]
"""A hook point's name, and the function called there, ``fn(tensor, hook=hook_point)``."""

BY_CHANCE = 10
"""Times by which a change of the logits must exceed the difference of two equal passes."""
TOKENS = 4
"""How many tokens of text hook points are tried on."""
ENTRY = "blocks.0.hook_in"
"""The hook point at the first layer's input: embeddings, with image features merged in."""


def some_text(anatomy: Anatomy) -> dict[str, Tensor]:
    """Take four tokens from the middle of the vocabulary, where no special ones are."""
    weight: Any = anatomy.unembed.weight
    middle = torch.arange(len(weight) // 2, len(weight) // 2 + TOKENS + 1)
    text = middle[middle != (-1 if anatomy.image_token is None else anatomy.image_token)][:TOKENS]
    return {"input_ids": text[None].to(anatomy.device)}


def is_sensitive(bridge: TransformerBridge, name: str, inputs: Mapping[str, Any]) -> bool:
    """Return whether random numbers at a hook point move the logits.

    Raises:
        KeyError: there is no such hook point.
        TypeError: the value at it is not a tensor.
        ValueError: it is not reached, or switched off.
    """
    passed = []

    def stir(value: Any, hook: Any) -> Tensor:
        passed.append(value)
        if not isinstance(value, Tensor):
            raise TypeError(f"a {type(value).__name__} passes {name}, and no tensor to edit")
        if not value.is_floating_point():
            return value.flip(-1)
        return torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)

    found = moves_logits(bridge, [(name, stir)], inputs)
    if not passed:
        raise ValueError(
            f"{name} was never reached by {tuple(inputs['input_ids'].shape)} tokens with "
            f"{', '.join(key for key in inputs if key != 'input_ids') or 'nothing else'}, so "
            "nothing shows what an edit there does: hand over a batch that reaches it (with an "
            "image, for the vision tower), is_live(bridge, name, batch)"
        )
    return found


@torch.no_grad()
def moves_logits(
    bridge: TransformerBridge, hooks: Sequence[Hook], inputs: Mapping[str, Any]
) -> bool:
    """Return whether hooks move a model's logits by more than two equal passes differ."""
    model = bridge.original_model
    with without_user_hooks(model), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A (forward )?hook (on|edited) ", UserWarning)
        plain, again = (model(**inputs).logits for _ in range(2))
        with bridge.hooks(fwd_hooks=list(hooks)):
            edited = model(**inputs).logits
    return _apart(edited, plain) > BY_CHANCE * _apart(again, plain)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one.float().nan_to_num() - other.float().nan_to_num()).abs().max())


@contextmanager
def without_user_hooks(model: nn.Module) -> Iterator[None]:
    """Disable the functions at a model's hook points, a lens' hooks, and dropout."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                for key, hook in list(hooks.items()):
                    if isinstance(module, HookPoint) or is_own_hook(hook):
                        hooks[key] = _nothing
                        stack.callback(hooks.__setitem__, key, hook)
        model.eval()
        yield


def _nothing(*call: Any, **named: Any) -> None:
    """Do nothing, in place of a hook."""


# ---------------------------------------------------------------- what noise would not ablate


class _Reached(Exception):  # noqa: N818
    """End of a pass whose first layer's input is known: the rest is not needed."""


_SEALED: PerObject[set[str]] = PerObject(set)
"""Of each bridge: hook points found to carry all information about image and question."""


def require_no_leaks(bridge: TransformerBridge, anatomy: Anatomy, batch: Batch) -> None:
    """Require that image and question enter the decoder by the first layer's input alone.

    Raises:
        ValueError: they enter elsewhere, too, or the embeddings change before the first layer.
    """
    if anatomy.entrances or anatomy.question_aware is not None:
        raise ValueError(
            f"{type(anatomy.model).__name__} is given image or question besides its embeddings "
            f"({', '.join(anatomy.known_ways) or 'a Q-Former'}), which noise at {ENTRY} would "
            "not ablate. pid_lens.Lens(bridge, moments=moments) ablates all of it"
        )
    sealed = _SEALED.of(bridge)
    if ENTRY in sealed:
        return
    arguments, states = _entering(anatomy, batch.to(anatomy.device).inputs)
    require_known_pathways(arguments)
    if not torch.equal(arguments["inputs_embeds"].to(states.device), states):
        raise ValueError(
            f"{type(anatomy.decoder).__name__} changes its embeddings before its first layer, and "
            "moments are those of the embeddings: use pid_lens.Lens(bridge, moments=moments)"
        )
    sealed.add(ENTRY)


@torch.no_grad()
def _entering(
    anatomy: Anatomy, inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], Float[Tensor, "n tokens width"]]:
    """Capture the arguments of the decoder and the first layer's input; nothing after it runs."""
    given: list[dict[str, Any]] = []

    def capture(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given.append(embed_arguments(module, named_arguments(module, args, kwargs)))

    def stop(module: nn.Module, args: tuple, kwargs: dict) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    with (
        without_user_hooks(anatomy.model),
        hooked(before=[(anatomy.decoder, capture), (anatomy.layers[0], stop)]),
    ):
        try:
            anatomy.model(**inputs)
        except _Reached as reached:
            return given[0], reached.args[0]
    raise ValueError("the model's forward never reached its first layer: is the anatomy right?")
