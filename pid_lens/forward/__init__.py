"""TODO room forward."""

from pid_lens.forward.attention_mask import (
    OBEDIENT,
    Blockade,
    knockout_heads,
    knockout_layers,
    refuse_disobedient,
    refuse_heads,
)
from pid_lens.forward.fork import varied
from pid_lens.forward.image_only_probe import (
    PROBE,
    is_image_only,
    refuse_seeing_image,
    refuse_text_before_image,
)
from pid_lens.forward.intervention_scope import Intervening, completely, intervene
from pid_lens.forward.layer_answers import answers_at, layer_states, stacked
from pid_lens.forward.occupancy import INTERVENTIONS, LENS, is_read, occupied
from pid_lens.forward.position_ids import closed_up
from pid_lens.forward.preconditions import (
    WHOLE_PROMPTS,
    confirm_last_layer,
    refuse_blindness,
    refuse_caches,
    refuse_options,
)
from pid_lens.forward.recorder import Instrument
from pid_lens.forward.replay import View, joined
from pid_lens.forward.rows import BESIDE, BY_BATCH, keep_rows, own_rows, repeat_rows
from pid_lens.forward.stream import ONE, Stream
from pid_lens.forward.user_hooks import ForkEditError, Watch, ours, watched, watching

__all__ = [
    "BESIDE",
    "BY_BATCH",
    "INTERVENTIONS",
    "LENS",
    "OBEDIENT",
    "ONE",
    "PROBE",
    "WHOLE_PROMPTS",
    "Blockade",
    "ForkEditError",
    "Instrument",
    "Intervening",
    "Stream",
    "View",
    "Watch",
    "answers_at",
    "closed_up",
    "completely",
    "confirm_last_layer",
    "intervene",
    "is_image_only",
    "is_read",
    "joined",
    "keep_rows",
    "knockout_heads",
    "knockout_layers",
    "layer_states",
    "occupied",
    "ours",
    "own_rows",
    "refuse_blindness",
    "refuse_caches",
    "refuse_disobedient",
    "refuse_heads",
    "refuse_options",
    "refuse_seeing_image",
    "refuse_text_before_image",
    "repeat_rows",
    "stacked",
    "varied",
    "watched",
    "watching",
]
