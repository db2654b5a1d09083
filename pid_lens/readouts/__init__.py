"""Readouts of a layer's residual stream: logit lens, tuned lens, pooled hidden states.

In comes the residual stream after a layer, [n, width] at the answer position, with an `Anatomy`
(the model's modules); out go log-probabilities of the options, [n, answers]: by the final norm
and the unembedding (`LogitLens`), or by these behind an affine translator (`TunedLens`, trained
by `tune` on batches). `Pooled` keeps a span's hidden states instead, as one vector per sample, for
estimators that work on vectors. A readout of your own needs one method (`Readout`).
"""

from pid_lens.readouts.logit_lens import LogitLens
from pid_lens.readouts.pooled import Pooled
from pid_lens.readouts.protocol import Readout
from pid_lens.readouts.tuned_lens import Translator, TunedLens
from pid_lens.readouts.tuned_lens_training import tune

__all__ = ["LogitLens", "Pooled", "Readout", "Translator", "TunedLens", "tune"]
