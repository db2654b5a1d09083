"""What is hidden from the model, one intervention a file."""

from pid_lens.interventions.ablations import Mean, Zero
from pid_lens.interventions.knockout import Knockout
from pid_lens.interventions.noise import Noise
from pid_lens.interventions.remove import Remove
from pid_lens.interventions.resample import Resample

__all__ = ["Knockout", "Mean", "Noise", "Remove", "Resample", "Zero"]
