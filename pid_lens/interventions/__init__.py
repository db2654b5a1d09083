"""Interventions on a forward pass: ablations and attention knockouts, one kind per file.

In come names of spans (named sets of token positions) and, for some kinds, what was measured on
the model. Out go frozen records whose repr is their settings, for a Lens or `pid_lens.intervene`:

- `Zero` and `Mean`: zero ablation and mean ablation of a span's embeddings;
- `Noise`: noise ablation, Gaussian with the span's own mean and standard deviation (`calibrate`
  measures these `Moments`);
- `Resample`: resample ablation, that is activation patching of the embeddings with those of
  another sample (`collect` records these `Donors`);
- `Remove`: tokens masked as keys for all other tokens, and skipped in the position ids;
- `Knockout`: attention knockout between query positions and key positions.

`Zero`, `Mean`, `Noise` and `Resample` edit the embeddings at the decoder's input, where images
are merged in (`EmbeddingIntervention`); `Knockout` and `Remove` name query and key positions for
the attention mask (`AttentionIntervention`). `Conditions` holds the interventions of every
condition, and gives one `Variation` for each block of batch rows in a forward pass. The hooks
that apply them are in `pid_lens.forward`; here `calibrate` and `collect` alone hook a model, and
stop its forward pass where the decoder begins.

Spans: ``image`` are the positions of the image placeholder's id, and no begin, end or newline
marker with an id of its own; ``question`` is the user's text in the chat template, listed options
included; ``answer`` is the last attended token, at which the answer is read. What no span covers
(template, system turn) is the same in all conditions: text there that differs between samples is
not ablated by an ablation of the question.
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
