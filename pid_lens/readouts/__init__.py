"""From a layer's state to an answer."""

from pid_lens.readouts.logit_lens import LogitLens
from pid_lens.readouts.pooled import Pooled
from pid_lens.readouts.tuned_lens import Translator, TunedLens

__all__ = ["LogitLens", "Pooled", "Translator", "TunedLens"]
