"""Arguments of a module's call: by name, and what image or question could come in by."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

HARMLESS = frozenset(
    {
        *("inputs_embeds", "attention_mask", "position_ids"),
        *("cross_attention_mask", "full_text_row_masked_out_mask"),
    }
)
"""Floating arguments of a decoder that tell nothing of image or question but by embeddings."""


def unknown_pathways(arguments: Mapping[str, Any], known: Collection[str] = ()) -> list[str]:
    """Arguments by which image or question could reach a decoder besides its embeddings.

    DeepStack's features, per-layer embeddings, cross-attention states: whatever carries
    floating-point numbers and is neither embedding, mask, position nor cache.

    Example:
        >>> import torch
        >>> unknown_pathways({"inputs_embeds": torch.zeros(1), "deepstack": [torch.zeros(1)]})
        ['deepstack']
    """
    others = {n: v for n, v in arguments.items() if n not in HARMLESS and n not in known}
    return [name for name, value in others.items() if has_floats(value)]


def require_known_pathways(arguments: Mapping[str, Any], known: Collection[str] = ()) -> None:
    """A ValueError where what is hidden could reach the decoder in an argument not known."""
    found = unknown_pathways(arguments, known)
    if found:
        raise ValueError(
            f"this model's decoder is given {', '.join(found)} besides its "
            "embeddings: noise at its input would leak, so its conditions cannot be measured"
        )


def has_floats(value: Any) -> bool:
    """Whether floating-point numbers come with an argument."""
    if isinstance(value, Tensor):
        return value.is_floating_point()
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(has_floats(inner) for inner in value)


def cached_tokens(arguments: Mapping[str, Any]) -> int:
    """How many tokens the handed-over KV cache already holds."""
    cache = arguments.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def named_arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's arguments by name, whether they came by position or by keyword."""
    if not args:
        return dict(kwargs)
    signature = inspect.signature(module.forward)
    bound = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(name, {}))
    return bound
