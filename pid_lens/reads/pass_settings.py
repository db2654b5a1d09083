"""PassSettings: what the reads of a forward pass depend on, as a typed record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

LAST_STEP = "last step"
"""Where a record keeps ``scale`` and ``softcap``, as a list: the model's own last step."""
SAME_NAME = ("model", "readout", "interventions", "conditions", "drawn", "moments")
"""What a record keeps under the name that it has here."""


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """What reads of one pass depend on; None where the pass does not say.

    `Reads.settings` holds its `record`, which is plain enough for JSON and the same in every
    version, so that reads of old files mix with new ones.

    Example:
        >>> settings = PassSettings(model="m", drawn={"full": 1, "blind": 8})
        >>> PassSettings.of(settings.record()) == settings, settings.record()["draws"]
        (True, 8)
    """

    model: str | None = None
    """Fingerprint of the model (`Anatomy.fingerprint`)."""
    readout: str | None = None
    """The readout's repr."""
    scale: float | None = None
    """Factor on the model's logits."""
    softcap: float | None = None
    """c of the soft cap on the model's logits; None, too, where there is none."""
    interventions: list[str] | None = None
    """Reprs of what is in force in every condition."""
    conditions: dict[str, list[str]] | None = None
    """Reprs of what each condition ablates."""
    drawn: dict[str, int] | None = None
    """How many noise draws each condition is a mean of."""
    moments: list[str] | None = None
    """Fingerprints of the moments behind the noise."""

    @property
    def draws(self) -> int | None:
        """The most noise draws of any condition."""
        return None if self.drawn is None else max(self.drawn.values())

    def draws_of(self, condition: str) -> int:
        """How many noise draws a condition is a mean of.

        Raises:
            ValueError: the pass does not say.
        """
        if self.drawn is None or condition not in self.drawn:
            raise ValueError(f"these reads do not say how often {condition!r} was drawn")
        return self.drawn[condition]

    def record(self) -> dict[str, Any]:
        """Whatever the pass says, as JSON can."""
        said = {name: getattr(self, name) for name in (*SAME_NAME, "draws")}
        known = {name: value for name, value in said.items() if value is not None}
        return known if self.scale is None else {**known, LAST_STEP: [self.scale, self.softcap]}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The settings that a record holds; what else stands there is left out."""
        scale, softcap = record.get(LAST_STEP, (None, None))
        known = {name: record[name] for name in SAME_NAME if name in record}
        return cls(**known, scale=scale, softcap=softcap)
