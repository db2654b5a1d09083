"""Report of a model's self-check: `Checked`, with one `Property` per line."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = {True: "ok    ", False: "FAILED", None: "untold"}
"""Printed form of each verdict."""


@dataclass(frozen=True)
class Property:
    """Outcome of the test of one property.

    Attributes:
        name: name of the property, as `check` lists it.
        ok: whether it holds; None where the inputs do not determine it.
        measured: the number behind the verdict; None where none could be measured.
        detail: meaning of the number, or why there is none.

    Example:
        >>> print(Property("fork", False, 0.25, "nats between fork and single passes"))
        FAILED fork: 0.25 nats between fork and single passes
    """

    name: str
    ok: bool | None
    measured: float | None
    detail: str

    def __str__(self) -> str:
        number = "" if self.measured is None else f" {self.measured:.2g}"
        return f"{VERDICTS[self.ok]} {self.name}:{number} {self.detail}"


@dataclass(frozen=True)
class Checked:
    """Report of `check`, printed with one line per property.

    Attributes:
        model: class name of the model.
        properties: outcome of each test.

    Example:
        >>> from pid_lens.self_check import Property
        >>> print(Checked("Tiny", (Property("lens", True, 1e-7, "nats off the logits"),)))
        Tiny: 1 of 1 properties hold
          ok     lens: 1e-07 nats off the logits
    """

    model: str
    properties: tuple[Property, ...]

    @property
    def ok(self) -> bool:
        """Whether no property failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the properties that failed."""
        return tuple(one.name for one in self.properties if one.ok is False)

    def __str__(self) -> str:
        held = sum(one.ok is True for one in self.properties)
        head = f"{self.model}: {held} of {len(self.properties)} properties hold"
        return "\n  ".join([head, *map(str, self.properties)])
