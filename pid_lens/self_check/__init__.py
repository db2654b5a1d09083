"""Self-check of a model: numerical tests of logit lens, ablations, knockout, batching and hooks.

In come a model and a batch; out goes a report with one line and one measured number per property.
`trial` is the model with counterfactual batches that differ in one modality alone, `properties`
are the tests, `report` is the record of their outcomes.
"""

from pid_lens.self_check.properties import check
from pid_lens.self_check.report import Checked, Property

__all__ = ["Checked", "Property", "check"]
