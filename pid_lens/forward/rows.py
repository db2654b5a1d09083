"""Batch rows: repeat them at a decoder's input, keep the caller's own at its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import repeat
from torch import Tensor

BY_BATCH = frozenset({"cache_position"})
"""Arguments without a row per sample, although their length may equal n."""
BESIDE = frozenset({"cross_attention_states"})
"""Arguments with several rows per sample (image tiles), those of one sample together."""


def repeat_rows(arguments: Mapping[str, Any], n: int, times: int) -> dict[str, Any]:
    """Repeat the batch of n samples in a decoder's arguments: one row block after the other.

    Position ids of several axes (M-RoPE) are [axes, n, tokens]; all other arguments with a row per
    sample have the rows first. What all rows share, or None, stays as it is.

    Example:
        >>> import torch
        >>> some = {"inputs_embeds": torch.zeros(2, 5, 4), "position_ids": torch.zeros(3, 2, 5)}
        >>> {name: list(t.shape) for name, t in repeat_rows(some, n=2, times=3).items()}
        {'inputs_embeds': [6, 5, 4], 'position_ids': [3, 6, 5]}
    """
    return {
        name: value if name in BY_BATCH else _repeat(name, value, n, times)
        for name, value in arguments.items()
    }


def _repeat(name: str, value: Any, n: int, times: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _repeat(key, inner, n, times) for key, inner in value.items()}
    if type(value) is tuple:
        return tuple(_repeat(name, inner, n, times) for inner in value)
    if not isinstance(value, Tensor):
        return value
    if name == "position_ids" and value.ndim == 3 and value.shape[1] == n:
        return repeat(value, "axes n tokens -> axes (times n) tokens", times=times)
    if value.ndim >= 2 and value.shape[0] == n:
        return repeat(value, "n ... -> (times n) ...", times=times)
    return value


def own_rows(value: Any, n: int, rows: int, tokens: int = 0, name: str = "") -> Any:
    """Slice the first n of ``rows`` rows from every tensor that has as many: no copies.

    Rows may lie flat, ``rows * tokens`` vectors; position ids of several axes have rows second.
    Mappings, lists and tuples are traversed; other values come back as they are.

    Example:
        >>> import torch
        >>> list(own_rows((torch.zeros(6, 5), torch.zeros(1, 5)), n=2, rows=6)[0].shape)
        [2, 5]
        >>> list(own_rows(torch.zeros(60, 5), n=2, rows=6, tokens=10).shape)
        [20, 5]
    """
    if isinstance(value, Tensor):
        return _own_rows(value, n, rows, tokens, name)
    if isinstance(value, Mapping):
        shown = {key: own_rows(one, n, rows, tokens, str(key)) for key, one in value.items()}
        return shown if type(value) is dict else type(value)(**shown)
    if isinstance(value, list | tuple):
        shown_items = [own_rows(one, n, rows, tokens, name) for one in value]
        return type(value)(*shown_items) if hasattr(value, "_fields") else type(value)(shown_items)
    return value


def _own_rows(value: Tensor, n: int, rows: int, tokens: int, name: str) -> Tensor:
    if value.ndim == 3 and not value.is_floating_point() and value.shape[1] == rows:
        return value[:, :n]
    if name in BESIDE:
        return value[: len(value) * n // rows]
    if value.ndim >= 2 and value.shape[0] == rows:
        return value[:n]
    return value[: n * tokens] if value.ndim == 2 and len(value) == rows * tokens else value


def keep_rows(output: Any, n: int, rows: int) -> Any:
    """Keep the first n of ``rows`` rows in every tensor and KV cache of a decoder's output."""
    if isinstance(output, Tensor):
        return output[:n] if output.ndim and output.shape[0] == rows else output
    if hasattr(output, "batch_select_indices"):
        output.batch_select_indices(torch.arange(n))
        return output
    if isinstance(output, dict):
        for key, value in output.items():
            output[key] = keep_rows(value, n, rows)
        return output
    if isinstance(output, tuple | list):
        return type(output)(keep_rows(value, n, rows) for value in output)
    return output
