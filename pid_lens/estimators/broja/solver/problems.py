"""Indexing of batches: select, write and merge problems of a dataclass of batched tensors."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Batch = TypeVar("_Batch", bound="DataclassInstance")


def take(batch: _Batch, at: Int64[Tensor, " some"]) -> _Batch:
    """Select the problems at these indices."""
    return type(batch)(*(x.index_select(0, at) for x in _tensors(batch)))


def put(batch: _Batch, at: Int64[Tensor, " some"], values: _Batch) -> None:
    """Write problems to these indices, in place."""
    for x, value in zip(_tensors(batch), _tensors(values), strict=True):
        x.index_copy_(0, at, value)


def choose(which: Bool[Tensor, " batch"], yes: _Batch, no: _Batch) -> _Batch:
    """Take each problem from ``yes`` where ``which`` is True, else from ``no``."""
    pairs = zip(_tensors(yes), _tensors(no), strict=True)
    return type(yes)(*(torch.where(which.view(-1, *[1] * (x.ndim - 1)), x, y) for x, y in pairs))


def _tensors(batch: _Batch) -> list[Tensor]:
    return [getattr(batch, f.name) for f in fields(batch)]
