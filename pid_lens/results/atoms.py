"""Partial information decomposition: the four atoms, their mutual informations, their unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

Unit = Literal["bits", "nats"]
NATS = {"bits": math.log(2), "nats": 1.0}
"""Nats in one unit."""
ATOMS = ("redundancy", "unique_vision", "unique_language", "synergy")
FIELDS = ("information", "information_vision", "information_language", "union", "gap")
"""Names of the tensors that `Atoms` consist of."""
LEAST_SHARED = 1e-6
"""Information up to which shares are not defined."""


def require_unit(unit: str) -> None:
    """Raise unless ``unit`` is a unit of information.

    Raises:
        ValueError: it is neither ``"bits"`` nor ``"nats"``.

    Example:
        >>> require_unit("bits")
        >>> require_unit("bytes")
        Traceback (most recent call last):
        ValueError: unit must be one of ('bits', 'nats'); got 'bytes'
    """
    if unit not in NATS:
        raise ValueError(f"unit must be one of {tuple(NATS)}; got {unit!r}")


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Atoms:
    """Atoms of a partial information decomposition of I(X1, X2; Y), any number of them at once.

    Source 1 is vision, source 2 is language, Y is the answer. With ``union`` the least
    information that any joint with the same (X1, Y) and (X2, Y) marginals has about Y::

        redundancy      = I(X1; Y) + I(X2; Y) - union
        unique_vision   = union - I(X2; Y)
        unique_language = union - I(X1; Y)
        synergy         = I(X1, X2; Y) - union

    All fields are float64 tensors of one shape ``[...]``, in ``unit``. The true union lies
    within ``gap / 2`` of the reported one, and so does every atom. Atoms are never clipped: a
    value below 0 is a finite-sample or solver effect that the reader should see.

    Attributes:
        information: I(X1, X2; Y), of image and question together about the answer.
        information_vision: I(X1; Y), of the image alone.
        information_language: I(X2; Y), of the question alone.
        union: the least I(X1, X2; Y) that the two pairwise marginals allow, middle of its
            certified interval.
        gap: width of the certified interval around ``union``; an atom is right to half of it.
            NaN where nothing is certified.
        unit: ``"bits"`` or ``"nats"``.

    Source:
        Quantifying unique information (Bertschinger, Rauh, Olbrich, Jost, Ay, 2014),
        https://doi.org/10.3390/e16042161

    Example:
        >>> import torch
        >>> half = torch.tensor(0.5, dtype=torch.float64)
        >>> atoms = Atoms(information=2 * half, information_vision=0 * half,
        ...               information_language=0 * half, union=0 * half, gap=0 * half)
        >>> atoms.synergy
        tensor(1., dtype=torch.float64)
        >>> atoms
        Atoms(R=0.000 U_vision=0.000 U_language=0.000 S=1.000 bits)
    """

    information: Tensor
    information_vision: Tensor
    information_language: Tensor
    union: Tensor
    gap: Tensor
    unit: Unit = "bits"

    def to(self, unit: Unit) -> Self:
        """Convert to another unit, ``"bits"`` or ``"nats"``, with all that the record holds.

        Raises:
            ValueError: an unknown unit.
        """
        require_unit(unit)
        return self if unit == self.unit else replace(self, unit=unit, **self._in_unit(unit))

    def _in_unit(self, unit: Unit) -> dict[str, Any]:
        """Convert the fields that have a unit; a subclass adds its own."""
        factor = NATS[self.unit] / NATS[unit]
        return {name: factor * getattr(self, name) for name in FIELDS}

    @property
    def redundancy(self) -> Tensor:
        """Information that either source alone carries about the answer, [...]."""
        return self.information_vision + self.information_language - self.union

    @property
    def unique_vision(self) -> Tensor:
        """Information that only vision carries about the answer, [...]."""
        return self.union - self.information_language

    @property
    def unique_language(self) -> Tensor:
        """Information that only language carries about the answer, [...]."""
        return self.union - self.information_vision

    @property
    def synergy(self) -> Tensor:
        """Information that only both sources together carry about the answer, [...]."""
        return self.information - self.union

    @property
    def co_information(self) -> Tensor:
        """I(X1; Y) + I(X2; Y) - I(X1, X2; Y) = redundancy - synergy, [...]."""
        return self.information_vision + self.information_language - self.information

    @property
    def shares(self) -> dict[str, Tensor]:
        """Each atom divided by the information, [...]; NaN where that is 1e-6 or less."""
        whole = self.information.where(self.information > LEAST_SHARED, torch.nan)
        return {name: getattr(self, name) / whole for name in ATOMS}

    def __repr__(self) -> str:
        if self.union.ndim:
            return f"Atoms({list(self.union.shape)} decompositions, {self.unit})"
        return f"Atoms({self._line(())} {self.unit})"

    def _line(self, at: Any) -> str:
        short = ("R", "U_vision", "U_language", "S")
        return " ".join(
            f"{s}={float(getattr(self, name)[at]):.3f}"
            for s, name in zip(short, ATOMS, strict=True)
        )
