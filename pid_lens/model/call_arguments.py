"""Arguments of a module's forward call: by name, and those that carry image or question."""

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
"""Floating-point arguments of a decoder that carry nothing about image or question themselves."""


def unknown_pathways(arguments: Mapping[str, Any], known: Collection[str] = ()) -> list[str]:
    """List arguments by which image or question could reach a decoder besides its embeddings.

    DeepStack's features, per-layer embeddings, cross-attention states: all that carry
    floating-point numbers and are neither embeddings, mask, positions nor KV cache.

    Example:
        >>> import torch
        >>> unknown_pathways({"inputs_embeds": torch.zeros(1), "deepstack": [torch.zeros(1)]})
        ['deepstack']
    """
    others = {n: v for n, v in arguments.items() if n not in HARMLESS and n not in known}
    return [name for name, value in others.items() if has_floats(value)]


def require_known_pathways(arguments: Mapping[str, Any], known: Collection[str] = ()) -> None:
    """Require that no unknown argument of the decoder could carry what a condition ablates.

    Raises:
        ValueError: floating-point numbers come in an argument that is not known.

    Example:
        >>> import torch
        >>> arguments = {"inputs_embeds": torch.zeros(1, 3, 2), "deepstack": [torch.zeros(2, 2)]}
        >>> require_known_pathways(arguments, known=["deepstack"])
        >>> require_known_pathways(arguments)
        Traceback (most recent call last):
        ValueError: this model's decoder is given deepstack besides its embeddings: ...
    """
    found = unknown_pathways(arguments, known)
    if found:
        raise ValueError(
            f"this model's decoder is given {', '.join(found)} besides its "
            "embeddings: noise at its input would leak, so its conditions cannot be measured"
        )


def has_floats(value: Any) -> bool:
    """Return whether an argument carries floating-point tensors, in nested containers too.

    Example:
        >>> import torch
        >>> has_floats({"features": [torch.zeros(2)]}), has_floats([torch.zeros(2).long()])
        (True, False)
    """
    if isinstance(value, Tensor):
        return value.is_floating_point()
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(has_floats(inner) for inner in value)


def cached_tokens(arguments: Mapping[str, Any]) -> int:
    """Count the tokens that the call's KV cache already holds.

    Example:
        >>> import torch
        >>> from transformers import DynamicCache
        >>> cache = DynamicCache()
        >>> keys = cache.update(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4), layer_idx=0)
        >>> cached_tokens({"past_key_values": cache}), cached_tokens({})
        (5, 0)
    """
    cache = arguments.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def named_arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Bind a call's arguments to their names, whether they came by position or by keyword.

    Example:
        >>> from torch import nn
        >>> named_arguments(nn.Linear(2, 3), (7,), {})
        {'input': 7}
    """
    if not args:
        return dict(kwargs)
    signature = inspect.signature(module.forward)
    bound = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(name, {}))
    return bound
