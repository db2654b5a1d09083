"""One hooked forward pass: ablate, knock out attention, read the residual stream at each layer.

In come an `Anatomy` (the model's modules), conditions (name -> interventions) and a readout, such
as the logit lens. Out go `Reads`: log-probabilities of the options, [layers, conditions, n,
options]. `LogitLens` (final norm, unembedding, log-softmax) normalises them over the whole
vocabulary before it takes those of the options; only `Reads.posteriors` normalises over the
options. All conditions share one forward pass and one run of the vision tower (a question-aware
Q-Former runs it again for each draw of a condition that ablates the question). The hooks of a
`Recorder` fire in this order:

1. Before the model, the samples are resolved: token positions of image, question and answer.
2. Before the decoder, the n batch rows are repeated, one row block per variation (a condition and
   a draw of its noise), and the embeddings of each block are ablated: `fork` (batch expansion),
   `rows`, `position_ids`.
3. Before each attention module of a layer with a knockout, its attention mask is edited, so that
   the query positions do not attend to the key positions: `attention_mask`, `blocked_pairs`.
4. After each layer, the readout is applied to its output (resid_post; layers count from 0) at the
   answer position: `layer_answers`.
5. After the decoder, only the first row block is kept, which has the interventions common to all
   conditions (``always``) and no other: the caller gets logits of its n rows.

Memory: V variations take V * n rows through the decoder at once, 1 + 2 * draws times n under the
default conditions; they are not split. Each readout makes V * n rows of vocabulary logits. No KV
cache is made unless the caller asks for one. Out of memory, use smaller batches or fewer draws,
or `Lens.views`, whose passes have n rows each.

Reads carry no gradients (``no_grad``); the caller's logits do. A model in training mode brings a
warning, as dropout differs between row blocks. Layers may lie on several devices
(``device_map``). Final norm and unembedding run in the model's precision, the log-softmax in
float32.

`stream` reads a pass under one condition, filled from an nnsight trace or a TransformerLens hook.
`replay` joins passes of a user's block that ran once per condition and draw, without a fork.
`intervention_scope` applies interventions and reads nothing (`intervene`); `prompt_resolver`
finds the samples of its prompts, beams and generated tokens included.

During a fork, a user's hooks inside the decoder are given the user's n rows, and their writes are
refused: `user_hooks`, `user_hook_guard`. `occupancy` refuses a second lens on one model.
`preconditions` and `image_only_probe` raise errors where reads would be wrong; `settings` records
what reads depend on.
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
