"""What is hidden from the model, one intervention a file."""

from pid_lens.interventions.knockout import Knockout
from pid_lens.interventions.noise import Noise

__all__ = ["Knockout", "Noise"]
