"""Ground truth: distributions whose partial information decomposition has a closed form.

In come a name and a size; out go joint tables, covariances, posteriors or `pid_lens.Reads`, with
the atoms (redundancy, unique informations, synergy) that a right estimator finds in them: to test
estimators with and to teach with. No model runs here.
"""

from pid_lens.truth.gates import GATES, atoms_of, gate, posteriors_of
from pid_lens.truth.gaussians import GAUSSIANS, GaussianSystem, gaussian_system
from pid_lens.truth.layers import LAYERS, LayeredReads, layered_reads

__all__ = [
    "GATES",
    "GAUSSIANS",
    "LAYERS",
    "GaussianSystem",
    "LayeredReads",
    "atoms_of",
    "gate",
    "gaussian_system",
    "layered_reads",
    "posteriors_of",
]
