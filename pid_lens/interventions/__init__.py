"""TODO room interventions."""

from pid_lens.interventions.ablations import Mean, Zero
from pid_lens.interventions.calibration import calibrate, collect
from pid_lens.interventions.conditions import (
    CONDITIONS,
    Variation,
    checked,
    draws_of,
    listed,
    measured_by,
    refuse_strangers,
    variations,
)
from pid_lens.interventions.deterministic import Fixed
from pid_lens.interventions.donors import Donors
from pid_lens.interventions.knockout import Knockout, several
from pid_lens.interventions.moments import Moment, Moments
from pid_lens.interventions.noise import Noise
from pid_lens.interventions.protocol import (
    AttentionIntervention,
    EmbeddingIntervention,
    Intervention,
)
from pid_lens.interventions.remove import Remove
from pid_lens.interventions.resample import Resample
from pid_lens.interventions.scoped import among_others, scoped

__all__ = [
    "CONDITIONS",
    "AttentionIntervention",
    "Donors",
    "EmbeddingIntervention",
    "Fixed",
    "Intervention",
    "Knockout",
    "Mean",
    "Moment",
    "Moments",
    "Noise",
    "Remove",
    "Resample",
    "Variation",
    "Zero",
    "among_others",
    "calibrate",
    "checked",
    "collect",
    "draws_of",
    "listed",
    "measured_by",
    "refuse_strangers",
    "scoped",
    "several",
    "variations",
]
