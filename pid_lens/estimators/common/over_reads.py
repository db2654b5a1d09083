"""OverReads: base class of estimators that buffer their reads and compute at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Self, TypeVar

from jaxtyping import Float
from torch import Tensor

from pid_lens.reads import Reads, ReadsBuffer

_Kind = TypeVar("_Kind")


@dataclass
class OverReads:
    """Buffer of reads, beyond a gigabyte on disk; a sample read again replaces its record.

    A subclass adds its settings as fields, and ``result``.

    Example:
        >>> import torch
        >>> even = torch.full((1, 3, 2, 4), 0.25).log()
        >>> OverReads().update(Reads.from_posteriors(even, ids=["a", "b"])).gather().ids
        ('a', 'b')
    """

    _buffer: ReadsBuffer = field(
        default_factory=ReadsBuffer, init=False, repr=False, compare=False
    )

    def update(self, reads: Reads) -> Self:
        """Add more samples; a sample that was added before is replaced.

        Raises:
            ValueError: these reads cannot be mixed with those before (`Reads.concat` says why).
        """
        self._buffer.add(reads)
        return self

    def merge(self, other: Self) -> Self:
        """Add the samples of another estimator of the same settings.

        Raises:
            ValueError: settings differ.
        """
        if self != other:
            raise ValueError(f"only estimators of equal settings merge, got {self} and {other}")
        for reads in tuple(other._buffer.parts):
            self.update(reads)
        return self

    def gather(self) -> Reads:
        """Concatenate all reads that were added, on the CPU.

        Raises:
            ValueError: no sample was added, or the reads have no layer.
        """
        if not self._buffer.ids():
            name = type(self).__name__
            raise ValueError(f"{name} has no sample: call update(reads) first")
        reads = self._buffer.whole()
        if not reads.layers:
            raise ValueError("the reads have no layers: Lens(..., layers=...) chose none")
        return reads

    def gather_in_order(self) -> Reads:
        """Concatenate all reads, sorted by id.

        For estimators that draw or train: their result does not depend on the order of arrival.

        Raises:
            ValueError: as `gather`.
        """
        reads = self.gather()
        return reads.rows(sorted(range(reads.n), key=reads.ids.__getitem__))


def settings_from(kind: type[_Kind], estimator: object) -> _Kind:
    """Make a dataclass of settings from the attributes of the same names."""
    names = (one.name for one in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: getattr(estimator, name) for name in names})


def posteriors_under(
    estimator: str, reads: Reads, conditions: Sequence[str], tau: float
) -> Float[Tensor, "layers conditions n answers"]:
    """Select the log-posteriors under the conditions that an estimator needs, in its order.

    Args:
        estimator: its name, for the error.
        reads: the reads.
        conditions: names of the conditions needed.
        tau: as in `Reads.posteriors`.

    Raises:
        ValueError: a condition was not read.
    """
    missing = [name for name in conditions if name not in reads.conditions]
    if missing:
        raise ValueError(
            f"{estimator} needs the conditions {', '.join(conditions)}; the reads have "
            f"{', '.join(reads.conditions)} and lack {', '.join(missing)}"
        )
    return reads.posteriors(tau, conditions)


def require_states(estimator: str, reads: Reads, states: Iterable[str]) -> None:
    """Require that the pooled hidden states that an estimator needs were kept.

    Raises:
        ValueError: some were not; the message says how to keep them.
    """
    needed = list(dict.fromkeys(states))
    missing = [name for name in needed if name not in reads.states]
    if missing:
        raise ValueError(
            f"{estimator}: the reads lack the states {', '.join(missing)}; they have "
            f"{', '.join(reads.states) or 'none'}. Keep them: Lens(..., "
            f"states=[{', '.join(map(_readout_of, needed))}])"
        )


def _readout_of(name: str) -> str:
    """Name the readout that keeps a hidden state of this name."""
    span, last, _ = name.partition("_last")
    return f"Pooled({span!r}, token='last')" if last else f"Pooled({name!r})"


def require_finite(reads: Reads, name: str) -> Float[Tensor, "layers n width"]:
    """Return a pooled hidden state by name, after a check that every number is finite.

    Raises:
        ValueError: NaN or infinite numbers; the message names the first.
    """
    states = reads.states[name]
    bad = (~states.isfinite()).any(-1).nonzero()
    if len(bad):
        layer, row = bad[0].tolist()
        raise ValueError(
            f"the state {name!r} is NaN or infinite, first at layer {reads.layers[layer]}, sample "
            f"{reads.ids[row]!r}: half precision that overflows (Pooled(..., dtype='float32'))? "
            "reads.rows(...) picks the finite samples"
        )
    return states
