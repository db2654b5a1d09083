"""Estimators: from answer distributions to atoms."""

from pid_lens.estimators.broja import BROJA
from pid_lens.estimators.discrete import discrete_pid
from pid_lens.estimators.posterior import posterior_pid

__all__ = ["BROJA", "discrete_pid", "posterior_pid"]
