"""Provenance: the settings that a pass's reads depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pid_lens.reads import PassSettings
from pid_lens.records import settings_repr

if TYPE_CHECKING:
    from pid_lens.interventions import Conditions
    from pid_lens.model import Anatomy
    from pid_lens.readouts import Readout


def settings_of_pass(
    anatomy: Anatomy, readout: Readout, conditions: Conditions | None = None
) -> PassSettings:
    """What the reads of a pass depend on.

    Args:
        anatomy: of the model that runs.
        readout: what is made of its residual stream.
        conditions: which it runs under; None where somebody else says so later.

    Raises:
        TypeError: a readout that does not say its settings.
        ValueError: interventions of one condition with different numbers of draws.
    """
    settings = PassSettings(
        model=anatomy.fingerprint(),
        readout=settings_repr(readout),
        scale=anatomy.scale,
        softcap=anatomy.softcap,
    )
    if conditions is None:
        return settings
    return replace(
        settings,
        interventions=list(map(repr, conditions.always)),
        conditions={name: list(map(repr, one)) for name, one in conditions.named.items()},
        drawn=conditions.drawn,
        moments=conditions.moments,
    )
