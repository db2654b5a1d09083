"""TODO room scoring."""

from pid_lens.scoring.option_scores import OptionScores
from pid_lens.scoring.whole_options import score_options

__all__ = ["OptionScores", "score_options"]
