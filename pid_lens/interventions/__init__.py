"""What is ablated, or masked, in a forward pass; one kind of intervention a file.

In come spans and, for noise and resampling, what was measured on a model (`calibrate`, `collect`).
Out go frozen records that say their settings: an `EmbeddingIntervention` edits the embeddings at
the decoder's input, an `AttentionIntervention` names query and key positions that attention is
masked between. `conditions` puts them together, one `Variation` for each row block of a pass.
Nothing here hooks a model but calibration, which stops where the decoder begins.
"""

from pid_lens.interventions.ablations import Mean, Zero
from pid_lens.interventions.calibration import calibrate, collect
from pid_lens.interventions.conditions import (
    Conditions,
    as_interventions,
    complete_each,
    require_same_model,
)
from pid_lens.interventions.deterministic import Deterministic
from pid_lens.interventions.donors import Donors
from pid_lens.interventions.knockout import Knockout, as_list
from pid_lens.interventions.moments import Moment, Moments
from pid_lens.interventions.noise import Noise
from pid_lens.interventions.protocol import (
    AttentionIntervention,
    EmbeddingIntervention,
    Intervention,
)
from pid_lens.interventions.remove import Remove
from pid_lens.interventions.resample import Resample
from pid_lens.interventions.scoped import place_among, scope
from pid_lens.interventions.variation import Variation

__all__ = [
    "AttentionIntervention",
    "Conditions",
    "Deterministic",
    "Donors",
    "EmbeddingIntervention",
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
    "as_interventions",
    "as_list",
    "calibrate",
    "collect",
    "complete_each",
    "place_among",
    "require_same_model",
    "scope",
]
