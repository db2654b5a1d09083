"""Log-probability of whole answer options of several tokens, and of their first token alone.

In come a model, a batch and options of any length; out go `OptionScores`. The forward pass of the
prompt runs once (`continuation`); options continue it on copies of its KV cache where
`cache_sharing` has measured that to be sound, under interventions where the user gives some
(`under_interventions`).
"""

from pid_lens.scoring.option_scores import OptionScores
from pid_lens.scoring.whole_options import score_options

__all__ = ["OptionScores", "score_options"]
