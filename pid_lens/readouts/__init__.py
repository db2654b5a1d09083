"""TODO room readouts."""

from pid_lens.readouts.logit_lens import LogitLens
from pid_lens.readouts.pooled import Pooled
from pid_lens.readouts.protocol import Readout
from pid_lens.readouts.tuned_lens import Translator, TunedLens
from pid_lens.readouts.tuned_lens_training import tune

__all__ = ["LogitLens", "Pooled", "Readout", "Translator", "TunedLens", "tune"]
