"""TODO room reads."""

from pid_lens.reads.buffer import MEMORY, Pile
from pid_lens.reads.draws import mean_probability, spread_of
from pid_lens.reads.reads import TAU, Reads

__all__ = ["MEMORY", "TAU", "Pile", "Reads", "mean_probability", "spread_of"]
