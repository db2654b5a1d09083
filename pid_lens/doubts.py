"""Doubts: at which layers a spectrum is not to be relied on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pid_lens.atoms import NATS

if TYPE_CHECKING:
    from torch import Tensor

    from pid_lens.spectra import Spectrum

TOO_MUCH = 0.05
"""So many bits may one modality tell beyond both, or an interval be wide, without doubt."""
LOW_ESS = 0.5
"""Below this share of effective samples a layer is called doubtful."""
UNANSWERED = 0.5
"""Above this share of samples without an answer a layer is called doubtful."""


def doubts(spectrum: Spectrum) -> Tensor:
    """Where a spectrum contradicts itself or its repair decides."""
    alone = torch.maximum(spectrum.information_vision, spectrum.information_language)
    too_much = TOO_MUCH * NATS["bits"] / NATS[spectrum.unit]
    contradiction = alone > spectrum.information + too_much
    unsure = ~spectrum.feasible | (spectrum.ess < LOW_ESS) | (spectrum.gap > too_much)
    return unsure | contradiction | (unanswered(spectrum) > UNANSWERED)


def unanswered(spectrum: Spectrum) -> Tensor:
    """Share of samples without an answer in the full condition, [layers]."""
    if "full" not in spectrum.conditions:
        return torch.zeros_like(spectrum.information)
    return spectrum.fallback[:, spectrum.conditions.index("full")]
