"""nnsight: attention knockout, noise ablation and logit lens inside a trace.

In come an nnsight model and a `pid_lens.Batch` that describes the traced inputs. Called in the
block of ``model.trace(...)``, `knockout`, `noise` and `intervene` edit that forward pass, and
`readout` returns a `Stream`: the answer read from the residual stream at every layer, as
`pid_lens.Reads` once the trace is over.

`in_trace` holds these functions; `block_rows` finds the batch rows that they are for,
`block_pass` sets their hooks. `plan` and `remote` are their counterparts for a trace that runs on
a remote server; `internals` holds all that is private to nnsight.
"""

from pid_lens.adapters.nnsight.in_trace import intervene, knockout, noise, readout

__all__ = ["intervene", "knockout", "noise", "readout"]
