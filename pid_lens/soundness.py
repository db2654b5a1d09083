"""Soundness: what a forward pass must fulfil so that its reads can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pid_lens.forking import cached_tokens, carries_numbers

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from pid_lens.anatomy import Anatomy
    from pid_lens.samples import Samples

LENS, INTERVENTIONS = "lens", "interventions"
WHOLE_PROMPTS = (
    "a Lens reads prompts whole, so `generate` and chats that go on cannot run inside it: call "
    "model(**inputs) on the whole prompt inside the lens, and generate outside"
)


_open: WeakKeyDictionary[nn.Module, list[str]] = WeakKeyDictionary()


@contextmanager
def occupied(anatomy: Anatomy, by: str) -> Iterator[None]:
    """A model that a lens, or interventions, work on for the length of a block.

    Raises:
        RuntimeError: a lens does already, or interventions where a lens is to.
        ValueError: the model is compiled, or its weights are not loaded.
    """
    refuse_compiled(anatomy.model)
    refuse_unloaded(anatomy.model)
    others = _open.setdefault(anatomy.decoder, [])
    if LENS in others:
        raise RuntimeError(
            "a lens is open already on this model: close it first. One lens can read several "
            "conditions at once, Lens(..., conditions={...}), under interventions that are in "
            "force in all of them, Lens(..., interventions=[...])"
        )
    if by == LENS and others:
        raise RuntimeError(
            "interventions are in force on this model, which reads would not tell of: hand them "
            "to the lens, Lens(..., interventions=[...])"
        )
    others.append(by)
    try:
        yield
    finally:
        others.remove(by)


def is_read(anatomy: Anatomy) -> bool:
    """Whether a lens is open on a model."""
    return LENS in _open.get(anatomy.decoder, [])


def refuse_compiled(model: nn.Module) -> None:
    """Compiled code does not see hooks that come later: what they hide would not be hidden.

    Raises:
        ValueError: the model, or a part of it, is compiled.
    """
    for name, module in model.named_modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
            raise ValueError(
                f"{name or 'the model'} is compiled (torch.compile), and compiled code does not "
                "see hooks: hand over the model as it was before it was compiled"
            )


def refuse_unloaded(model: nn.Module) -> None:
    """Weights that are nowhere yet will come with modules that nobody has hooked.

    Raises:
        ValueError: a weight is on the meta device, and accelerate does not keep it elsewhere.
    """
    if any("_hf_hook" in module.__dict__ for module in model.modules()):
        return
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise ValueError(
                f"{name} is on the meta device: the model's weights are not loaded yet. Load them "
                "first (nnsight: TransformersModel(..., dispatch=True)), and make the lens then"
            )


def refuse_checkpointing(model: nn.Module) -> None:
    """Layers that run again in the backward pass would run without what is closed.

    Raises:
        ValueError: gradient checkpointing is on.
    """
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if again and model.training:
        raise ValueError(
            "with gradient checkpointing layers run again in the backward pass, when the knockout "
            "is over: turn gradient checkpointing off, or call model.eval()"
        )


def refuse_options(options: Int[Tensor, "n answers"], anatomy: Anatomy) -> None:
    """Options must be there, and tokens of the model."""
    if not options.numel():
        raise ValueError("no options: choices=('A', 'B'), or options in the batch")
    weight: Any = anatomy.unembed.weight
    if int(options.max()) >= len(weight):
        raise ValueError(
            f"option {int(options.max())} is no token id: this model has {len(weight)} tokens"
        )


def refuse_blindness(arguments: Mapping[str, Any], image_token: int | None) -> None:
    """A prompt with places for an image needs an image, or the model runs on text alone.

    Raises:
        ValueError: no pixels came.
    """
    ids: Tensor = arguments["input_ids"]
    if image_token is None or not bool((ids == image_token).any()):
        return
    given = arguments.values()
    if not any(carries_numbers(value) for value in given):
        raise ValueError(
            "these prompts hold places for an image, and none came with them, so the model would "
            "run on text alone: hand over the pixels, model(**inputs), bridge(ids, **vision)"
        )


def refuse_caches(arguments: Mapping[str, Any]) -> None:
    """A cache that is filled, or cannot grow to several conditions, cannot be used."""
    cache = arguments.get("past_key_values")
    if cached_tokens(arguments):
        held = cached_tokens(arguments)
        raise ValueError(f"a KV cache that holds {held} tokens came in, but {WHOLE_PROMPTS}")
    if cache is not None and "DynamicCache" not in {c.__name__ for c in type(cache).__mro__}:
        raise ValueError(
            f"a {type(cache).__name__} cannot grow to the rows of several conditions: hand over "
            "none inside a lens, or a DynamicCache"
        )


def confirm_last_layer(
    read: Float[Tensor, "n answers"],
    logits: Float[Tensor, "n tokens vocabulary"],
    samples: Samples,
) -> None:
    """The last layer's reads must be the model's own answer, or the anatomy is wrong.

    Raises:
        ValueError: they differ by more than precision explains.
    """
    if logits.ndim != 3:
        return
    at = samples.spans.positions("answer").to(logits.device)
    tokens = samples.spans.shape[1]
    if logits.shape[1] == 1 and bool((at == tokens - 1).all()):
        at = torch.zeros_like(at)
    elif logits.shape[1] != tokens:
        return
    own = logits[torch.arange(len(at), device=at.device), at].float().log_softmax(-1)
    options = samples.options.to(own.device)
    own = own.gather(-1, options.clamp(min=0)).masked_fill(options < 0, -math.inf)
    error = (own - read.to(own.device)).nan_to_num(nan=0.0).abs().max().item()
    if error > (1e-2 if logits.dtype == torch.float32 else 0.5):
        raise ValueError(
            f"the last layer read through the final norm and the unembedding is {error:.2g} nats "
            "off the model's own answer: something else comes after its last layer (a soft cap, a "
            "scale). Hand over the model's parts: dataclasses.replace("
            "pid_lens.dissect(model), softcap=..., scale=...) as anatomy=. If it is an edit of "
            "your own behind the last layer: Lens(..., check=False)"
        )
