"""Estimator: the extension point; anything with its three methods plugs in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from pid_lens.reads import Reads
    from pid_lens.results import Curve, Spectrum


@runtime_checkable
class Estimator(Protocol):
    """Running statistics over Reads: mutable while it is fed, frozen as a result."""

    def update(self, reads: Reads) -> Self:
        """Takes in more reads; a sample that came before is replaced."""

    def merge(self, other: Self) -> Self:
        """Takes in what another estimator of the same settings has seen."""

    def result(self) -> Spectrum | Curve:
        """The spectrum of everything seen, or its curve; ValueError if that is nothing."""
