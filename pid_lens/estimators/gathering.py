"""Gathering: what every estimator does that keeps its reads and computes at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from pid_lens.pile import Pile
from pid_lens.reads import Reads


@dataclass
class Gathering:
    """Keeps reads as they come, beyond a gigabyte on disk; one that came before is replaced."""

    _pile: Pile = field(default_factory=Pile, init=False, repr=False, compare=False)

    def update(self, reads: Reads) -> Self:
        """Takes in more samples; one that came before is replaced.

        Raises:
            ValueError: these reads cannot be mixed with those before (`Reads.concat` says why).
        """
        self._pile.add(reads)
        return self

    def merge(self, other: Self) -> Self:
        """Takes in what another estimator of the same settings has seen.

        Raises:
            ValueError: settings differ.
        """
        if self != other:
            raise ValueError(f"only estimators of equal settings merge, got {self} and {other}")
        for reads in tuple(other._pile.parts):
            self.update(reads)
        return self

    def gathered(self) -> Reads:
        """Everything seen as one, on the CPU.

        Raises:
            ValueError: that is nothing.
        """
        if not self._pile.ids():
            name = type(self).__name__
            raise ValueError(f"{name} has seen no sample: call update(reads) first")
        return self._pile.whole()
