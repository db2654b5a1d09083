"""Reads: option log-probabilities of every layer, condition and sample, before any threshold.

In come the logit-lens answers of forward passes; out go `Reads` (ids, conditions, layers, raw
option log-probabilities, pooled hidden states), which save, load, concatenate and join, and from
which every number can be computed again. `pass_settings` records the settings on which they
depend, `preconditions` decides which of them may be put together; `scores` are accuracy,
cross-entropy and calibration error; `buffer` keeps many of them, beyond a limit on disk; `draws`
averages noise draws.
"""

from pid_lens.reads.buffer import MEMORY, ReadsBuffer
from pid_lens.reads.draws import mean_probability, spread_of
from pid_lens.reads.pass_settings import PassSettings
from pid_lens.reads.reads import TAU, Reads

__all__ = [
    "MEMORY",
    "TAU",
    "PassSettings",
    "Reads",
    "ReadsBuffer",
    "mean_probability",
    "spread_of",
]
