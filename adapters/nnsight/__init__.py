"""nnsight: interventions and readouts inside a trace.

`in_trace` holds the functions to call in a block; `block_rows` are the samples that they are for,
`block_pass` the hooks that they set. `plan` and `remote` are their counterparts for a trace that
runs on another machine; `internals` is all that is private of nnsight.
"""

from pid_lens.adapters.nnsight.in_trace import intervene, knockout, noise, readout

__all__ = ["intervene", "knockout", "noise", "readout"]
