"""TODO."""

from pid_lens.adapters.nnsight.in_trace import intervene, knockout, noise, readout

__all__ = ["intervene", "knockout", "noise", "readout"]
