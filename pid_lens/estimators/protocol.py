"""Estimator: the protocol (update, merge, result) for statistics accumulated over reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from pid_lens.reads import Reads
    from pid_lens.results import Curve, Spectrum


@runtime_checkable
class Estimator(Protocol):
    """Streaming statistic over `Reads`: update adds samples, result computes the estimate.

    Any class with these three methods is one, and `Lens.spectrum` and `decompose` take it. The
    estimator is mutable; the result is frozen.

    Example:
        >>> import torch
        >>> from pid_lens import Curve, Reads
        >>> class AnswerEntropy:
        ...     reads = ()
        ...     def update(self, reads):
        ...         self.reads = (*self.reads, reads)
        ...         return self
        ...     def merge(self, other):
        ...         self.reads += other.reads
        ...         return self
        ...     def result(self):
        ...         reads = Reads.concat(self.reads)
        ...         p = reads.posteriors(conditions=["full"])[:, 0].exp()
        ...         h = -(p * p.log2()).sum(-1)
        ...         return Curve(name="entropy", pointwise=h, layers=reads.layers, ids=reads.ids,
        ...                      estimator="AnswerEntropy")
        >>> even = Reads.from_posteriors(torch.full((1, 3, 5, 4), 0.25).log())
        >>> AnswerEntropy().update(even).result().value.round(decimals=6)
        tensor([2.], dtype=torch.float64)
    """

    def update(self, reads: Reads) -> Self:
        """Add more reads; a sample that was added before is replaced."""

    def merge(self, other: Self) -> Self:
        """Add the samples of another estimator of the same settings."""

    def result(self) -> Spectrum | Curve:
        """Compute the spectrum, or the curve, of all samples; ValueError if there are none."""
