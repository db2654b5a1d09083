"""TransformerLens: attention knockout, noise ablation and logit lens at hook points.

In come a `TransformerBridge` and the batch that will run; out go lists of ``(hook point,
function)`` for ``bridge.hooks(fwd_hooks=...)`` and ``bridge.run_with_hooks``. `knockout` and
`noise` edit the forward pass (`hook_points`); `readout` reads the residual stream after each
layer, ``blocks.l.hook_out``, and `read_cache` does so from an `ActivationCache`
(`reading_hooks`): both end in `pid_lens.Reads`. `bridged` makes a bridge around a model in
memory; `is_live` tests whether an edit at a hook point changes the logits.

`given_batch` resolves the batch that hooks are made for, `attention` masks scores or attention
masks, `liveness` tests edits, `internals` holds all that is private to TransformerLens.
"""

from pid_lens.adapters.transformer_lens.hook_points import bridged, is_live, knockout, noise
from pid_lens.adapters.transformer_lens.reading_hooks import ReadingHooks, read_cache, readout

__all__ = ["ReadingHooks", "bridged", "is_live", "knockout", "noise", "read_cache", "readout"]
