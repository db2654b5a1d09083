"""From a layer's residual stream to an answer.

In comes the residual stream at the answer position, with an `Anatomy`; out go log-probabilities
of the options (`LogitLens`, `TunedLens`), or a state that is kept as it is (`Pooled`). `tune`
trains a tuned lens on batches. A readout of your own needs one method (`protocol`).
"""

from pid_lens.readouts.logit_lens import LogitLens
from pid_lens.readouts.pooled import Pooled
from pid_lens.readouts.protocol import Readout
from pid_lens.readouts.tuned_lens import Translator, TunedLens
from pid_lens.readouts.tuned_lens_training import tune

__all__ = ["LogitLens", "Pooled", "Readout", "Translator", "TunedLens", "tune"]
