"""A model's own proof that its results may be trusted, property by property.

In come a model and a batch; out goes a report with a line and a measured number a property.
`trial` is the model with batches that differ in one modality alone, `properties` are what is
proved, `report` is what was found.
"""

from pid_lens.self_check.properties import check
from pid_lens.self_check.report import Checked, Property

__all__ = ["Checked", "Property", "check"]
