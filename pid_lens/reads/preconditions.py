"""Preconditions of reads: which may be concatenated or joined, and which can be scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

from pid_lens.reads.pass_settings import PassSettings

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


class Readable(Protocol):
    """The part of `Reads` that these preconditions use."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the samples."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers."""

    @property
    def log_probs(self) -> Tensor:
        """Log-probability of each option, [layers, conditions, n, answers]."""

    @property
    def labels(self) -> Tensor:
        """Index of the right option, [n]; -1 where unknown."""

    @property
    def options(self) -> Tensor:
        """Token id of each option, [n, answers]."""

    @property
    def states(self) -> Mapping[str, Tensor]:
        """Pooled hidden states."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The record of `PassSettings`."""


def require_same_kind(one: Readable, other: Readable) -> None:
    """Require reads that may be concatenated: they differ in their samples alone.

    Raises:
        ValueError: they keep other hidden states, or differ in conditions, layers or settings.
    """
    if set(one.states) != set(other.states):
        raise ValueError(
            f"these reads differ in the states that they keep, so they cannot be mixed: "
            f"{tuple(one.states)} and {tuple(other.states)}"
        )
    for name in ("conditions", "layers", "settings"):
        if getattr(one, name) != getattr(other, name):
            raise ValueError(
                f"these reads differ in their {name}, so they cannot be mixed: "
                f"{getattr(one, name)} and {getattr(other, name)}. Use a Lens (or Reads) for each"
            )


def require_joinable(name: str, reads: Readable, first: Readable) -> None:
    """Require reads that may be joined: of one condition, and all else as in the first.

    Args:
        name: of the condition, for errors.
        reads: of that condition.
        first: of the first condition.

    Raises:
        ValueError: several conditions, other samples or layers, another model or readout.
    """
    missing = set(first.ids) ^ set(reads.ids)
    if len(reads.conditions) != 1 or missing:
        raise ValueError(
            f"{name!r}: expected reads of one condition over the same samples; got "
            f"{len(reads.conditions)} conditions, {len(missing)} samples in one only"
        )
    mine, own = PassSettings.of(reads.settings), PassSettings.of(first.settings)
    for what, one, other in (
        ("model", mine.model, own.model),
        ("readout", mine.readout, own.readout),
    ):
        if one != other:
            raise ValueError(
                f"{name!r}: reads of another {what} than the first's cannot be joined: {one} "
                f"and {other}"
            )
    if reads.layers != first.layers:
        raise ValueError(
            f"{name!r}: reads of layers {reads.layers} cannot be joined with those of layers "
            f"{first.layers}"
        )


def require_same_options(name: str, reads: Readable, first: Readable) -> None:
    """Require the same options in the same order, of samples in the same order.

    Raises:
        ValueError: some sample has other options, or in another order.
    """
    if not torch.equal(reads.options.cpu(), first.options.cpu()):
        raise ValueError(
            f"{name!r}: reads of other options, or in another order, cannot be joined"
        )


def join_names(ids: tuple[str, ...], contents: tuple[str, ...]) -> tuple[str, ...]:
    """Rename samples that were read under the hash of their content and under a name, too.

    Example:
        >>> join_names(("#1", "cat"), ("#1", "#1"))
        ('cat', 'cat')
    """
    names = {c: name for name, c in zip(ids, contents, strict=True) if name != c}
    return tuple(names.get(name, name) for name in ids)


def require_no_nan(reads: Readable) -> None:
    """Require log-probabilities without NaN.

    Raises:
        ValueError: there are NaN; the message locates the first.
    """
    bad = reads.log_probs.isnan()
    if bool(bad.any()):
        layer, condition, row, _ = bad.nonzero()[0].tolist()
        raise ValueError(
            f"the model's logits are NaN in {int(bad.any(-1).any(0).any(0).sum())} of "
            f"{len(reads.ids)} samples, first at layer {reads.layers[layer]}, condition "
            f"{reads.conditions[condition]!r}, sample {reads.ids[row]!r}: half precision that "
            "overflows, or a fully masked row? reads.rows(...) selects the other samples"
        )


def require_labels(reads: Readable) -> Int[Tensor, " n"]:
    """Return the labels, which all samples must have.

    Raises:
        ValueError: some have none.
    """
    if bool((reads.labels < 0).any()):
        raise ValueError(
            f"{int((reads.labels < 0).sum())} of {len(reads.ids)} samples have no label: give "
            "labels= to pid_lens.batch and pass that batch, `with lens(batch): ...`, or "
            "lens(labels=...)"
        )
    return reads.labels
