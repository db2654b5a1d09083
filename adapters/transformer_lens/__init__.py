"""TODO."""

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
