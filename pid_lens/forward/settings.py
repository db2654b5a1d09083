"""Provenance of reads: the settings of a forward pass that they depend on."""

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
    """Record what the reads of a forward pass depend on.

    Args:
        anatomy: of the model that runs.
        readout: what is applied to its residual stream.
        conditions: what each condition ablates; None where the user's own code ablates, of
            which the pass knows nothing.

    Raises:
        TypeError: the repr of the readout does not say its settings.
        ValueError: interventions of one condition with different numbers of draws.

    Example:
        >>> import pid_lens
        >>> from pid_lens.interventions import Conditions
        >>> anatomy = pid_lens.dissect(pid_lens.demo.load()[0])
        >>> conditions = Conditions.of({"full": [], "blind": [pid_lens.Zero("image")]})
        >>> settings = settings_of_pass(anatomy, pid_lens.LogitLens(), conditions)
        >>> settings.readout, settings.conditions
        ('LogitLens()', {'full': [], 'blind': ["Zero(span='image')"]})
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
