"""TransformerLens: functions for the hook points of a bridge.

`hook_points` makes them; `attention` is how attention is masked in a bridge, `liveness` whether an
edit at a hook point does anything, `internals` all that is private of TransformerLens.
"""

from pid_lens.adapters.transformer_lens.hook_points import (
    ReadingHooks,
    bridged,
    is_live,
    knockout,
    noise,
    read_cache,
    readout,
)

__all__ = ["ReadingHooks", "bridged", "is_live", "knockout", "noise", "read_cache", "readout"]
