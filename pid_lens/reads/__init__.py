"""The durable record of what was read, before any threshold.

In come the answers of forward passes; out go `Reads` (ids, conditions, layers, raw option
log-probabilities, pooled states), which save, load, concatenate and join, and from which every
number can be computed again. `pass_settings` says what they depend on, `preconditions` which of
them may be put together; `scores` are accuracy and its kin; `buffer` keeps many of them, beyond a
limit on disk; `draws` puts noise draws together.
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
