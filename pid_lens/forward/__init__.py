"""One instrumented forward pass, from the model's input to its `Reads`.

In come an `Anatomy`, conditions and a readout; out go `Reads`. A pass is read in the order of its
hooks: `recorder` resolves the samples, `fork` repeats the rows and ablates (`rows`,
`position_ids`), `attention_mask` masks attention (`blocked_pairs`), `layer_answers` takes the
readouts, and the caller gets their own rows back. `stream` is a pass under one condition that a
framework's own functions fill, `replay` a caller's block run once a condition,
`intervention_scope` a pass with interventions and without readouts (`prompt_resolver`).

`user_hooks` shows other hooks their own rows (`user_hook_guard`), `occupancy` keeps a second lens
out, `preconditions` and `image_only_probe` refuse what cannot be read rightly.
"""

from pid_lens.forward.attention_mask import AttentionKnockouts, require_maskable
from pid_lens.forward.blocked_pairs import knockout_layers
from pid_lens.forward.intervention_scope import (
    InterventionScope,
    complete_interventions,
    intervene,
)
from pid_lens.forward.layer_answers import residual_stream
from pid_lens.forward.occupancy import is_read
from pid_lens.forward.preconditions import require_options
from pid_lens.forward.prompt_resolver import WholeBatch
from pid_lens.forward.recorder import Recorder, Verified
from pid_lens.forward.replay import View, join_views
from pid_lens.forward.settings import settings_of_pass
from pid_lens.forward.stream import Stream
from pid_lens.forward.user_hook_guard import ForkEditError, UserHookGuard
from pid_lens.forward.user_hooks import is_own_hook

__all__ = [
    "AttentionKnockouts",
    "ForkEditError",
    "InterventionScope",
    "Recorder",
    "Stream",
    "UserHookGuard",
    "Verified",
    "View",
    "WholeBatch",
    "complete_interventions",
    "intervene",
    "is_own_hook",
    "is_read",
    "join_views",
    "knockout_layers",
    "require_maskable",
    "require_options",
    "residual_stream",
    "settings_of_pass",
]
