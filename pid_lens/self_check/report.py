"""Checked: what a model's self-check found, property by property."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = {True: "ok    ", False: "FAILED", None: "untold"}
"""How each verdict is printed."""


@dataclass(frozen=True)
class Property:
    """One property, and what was measured of it."""

    name: str
    ok: bool | None
    """Whether it holds; None where the inputs do not say how to find out."""
    measured: float | None
    """The number behind the verdict; None where none could be measured."""
    detail: str
    """What was measured, or why it could not be."""

    def __str__(self) -> str:
        number = "" if self.measured is None else f" {self.measured:.2g}"
        return f"{VERDICTS[self.ok]} {self.name}:{number} {self.detail}"


@dataclass(frozen=True)
class Checked:
    """What `check` found, one line a property.

    Example:
        >>> print(Checked("Tiny", (Property("lens", True, 1e-7, "nats off the logits"),)))
        Tiny: 1 of 1 properties hold
          ok     lens: 1e-07 nats off the logits
    """

    model: str
    properties: tuple[Property, ...]

    @property
    def ok(self) -> bool:
        """Whether no property fails."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the properties that do not hold."""
        return tuple(one.name for one in self.properties if one.ok is False)

    def __str__(self) -> str:
        held = sum(one.ok is True for one in self.properties)
        head = f"{self.model}: {held} of {len(self.properties)} properties hold"
        return "\n  ".join([head, *map(str, self.properties)])
