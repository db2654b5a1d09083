"""Estimators: from answer distributions to atoms."""

from pid_lens.estimators.batch import BatchAtoms, batch_pid
from pid_lens.estimators.batch_states import BATCH
from pid_lens.estimators.broja import BROJA
from pid_lens.estimators.crossfit import cross_fitted
from pid_lens.estimators.discrete import discrete_pid
from pid_lens.estimators.gaussian import gaussian_pid
from pid_lens.estimators.gaussian_samples import GaussianBracket, gaussian_pid_samples
from pid_lens.estimators.gaussian_states import GaussianPID
from pid_lens.estimators.posterior import posterior_pid
from pid_lens.estimators.resampling import bootstrap, exchanged

__all__ = [
    "BATCH",
    "BROJA",
    "BatchAtoms",
    "GaussianBracket",
    "GaussianPID",
    "batch_pid",
    "bootstrap",
    "cross_fitted",
    "discrete_pid",
    "exchanged",
    "gaussian_pid",
    "gaussian_pid_samples",
    "posterior_pid",
]
