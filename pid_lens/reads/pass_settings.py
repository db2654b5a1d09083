"""PassSettings: the settings of a forward pass on which its reads depend, as a typed record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

LAST_STEP = "last step"
"""Key of a record for ``scale`` and ``softcap``, as a list: the model's last step to logits."""
SAME_NAME = ("model", "readout", "interventions", "conditions", "drawn", "moments")
"""Fields that a record keeps under their own names."""


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """Settings of a forward pass on which its reads depend; None where one is unknown.

    `Reads.settings` holds its `record`, which is plain enough for JSON and the same in every
    version, so that reads of old files mix with new ones.

    Attributes:
        model: fingerprint of the model (`Anatomy.fingerprint`).
        readout: repr of the readout.
        scale: factor on the model's logits.
        softcap: c of the soft cap on the model's logits; None, too, where there is none.
        interventions: reprs of the interventions of every condition.
        conditions: reprs of the interventions by which each condition ablates.
        drawn: number of noise draws over which each condition is averaged.
        moments: fingerprints of the moments behind the noise.

    Example:
        >>> settings = PassSettings(model="m", drawn={"full": 1, "blind": 8})
        >>> PassSettings.of(settings.record()) == settings, settings.record()["draws"]
        (True, 8)
    """

    model: str | None = None
    readout: str | None = None
    scale: float | None = None
    softcap: float | None = None
    interventions: list[str] | None = None
    conditions: dict[str, list[str]] | None = None
    drawn: dict[str, int] | None = None
    moments: list[str] | None = None

    @property
    def draws(self) -> int | None:
        """Largest number of noise draws of a condition."""
        return None if self.drawn is None else max(self.drawn.values())

    def draws_of(self, condition: str) -> int:
        """Return the number of noise draws over which a condition is averaged.

        Raises:
            ValueError: it is unknown.
        """
        if self.drawn is None or condition not in self.drawn:
            raise ValueError(f"these reads do not say how often {condition!r} was drawn")
        return self.drawn[condition]

    def record(self) -> dict[str, Any]:
        """Return the settings that are known, as plain values for JSON."""
        said = {name: getattr(self, name) for name in (*SAME_NAME, "draws")}
        known = {name: value for name, value in said.items() if value is not None}
        return known if self.scale is None else {**known, LAST_STEP: [self.scale, self.softcap]}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Parse the settings that a record holds; its other entries are left out."""
        scale, softcap = record.get(LAST_STEP, (None, None))
        known = {name: record[name] for name in SAME_NAME if name in record}
        return cls(**known, scale=scale, softcap=softcap)
