"""TransformerLens: functions for the hook points of a bridge.

`hook_points` makes those that edit, `reading_hooks` those that read; `given_batch` is the batch
that they are for. `attention` is how attention is masked in a bridge, `liveness` whether an edit
at a hook point does anything, `internals` all that is private of TransformerLens.
"""

from pid_lens.adapters.transformer_lens.hook_points import bridged, is_live, knockout, noise
from pid_lens.adapters.transformer_lens.reading_hooks import ReadingHooks, read_cache, readout

__all__ = ["ReadingHooks", "bridged", "is_live", "knockout", "noise", "read_cache", "readout"]
