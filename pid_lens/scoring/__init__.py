"""How probable whole options are, of several tokens, beside the rule of the first token.

In come a model, a batch and options of any length; out go `OptionScores`. The prompt runs once
(`continuation`), options follow on copies of its keys and values where `cache_sharing` has found
that to be sound, under interventions where asked (`under_interventions`).
"""

from pid_lens.scoring.option_scores import OptionScores
from pid_lens.scoring.whole_options import score_options

__all__ = ["OptionScores", "score_options"]
