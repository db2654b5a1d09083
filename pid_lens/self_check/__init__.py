"""TODO room self_check."""

from pid_lens.self_check.properties import check
from pid_lens.self_check.report import Checked, Property

__all__ = ["Checked", "Property", "check"]
