"""Estimators: information in nats or bits from a model's posteriors and hidden states.

In come `pid_lens.Reads` (the classes: update, merge, result) or plain arrays (the functions); out
go a `Spectrum` (partial information decomposition at every layer), a `Curve` (one quantity at
every layer), or atoms. No model runs here. One folder a family:

    broja      exact decomposition of the answers' posteriors, certified by convex duality
    gaussian   decomposition of hidden states under a Gaussian model
    flow       the same after a normalizing flow has made the hidden states Gaussian
    batch      decomposition by neural networks, trained batch by batch
    infonce    mutual information of hidden states, by contrastive critics (InfoNCE bound)
    concepts   mutual information of concepts and a hidden state, by concept bottlenecks

Every family has a class over reads (`estimator.py`) and a function over arrays (`from_*.py`);
`common/` is shared. An estimator of your own needs three methods (`Estimator`).
"""

from pid_lens.estimators.batch.atoms import BatchAtoms
from pid_lens.estimators.batch.estimator import BATCH
from pid_lens.estimators.batch.from_samples import batch_pid
from pid_lens.estimators.broja.cross_fit import cross_fitted
from pid_lens.estimators.broja.estimator import BROJA
from pid_lens.estimators.broja.from_joint import discrete_pid
from pid_lens.estimators.broja.from_posteriors import posterior_pid
from pid_lens.estimators.broja.resampling import bootstrap, exchanged
from pid_lens.estimators.concepts.estimator import ConceptBottleneck
from pid_lens.estimators.concepts.from_samples import ConceptInformation, concept_information
from pid_lens.estimators.concepts.questions import question_groups
from pid_lens.estimators.concepts.recipe import BottleneckRecipe
from pid_lens.estimators.flow.atoms import FlowAtoms
from pid_lens.estimators.flow.estimator import FlowPID
from pid_lens.estimators.flow.from_samples import flow_pid
from pid_lens.estimators.gaussian.estimator import GaussianPID
from pid_lens.estimators.gaussian.from_covariance import gaussian_pid
from pid_lens.estimators.gaussian.from_samples import GaussianBracket, gaussian_pid_samples
from pid_lens.estimators.infonce.contextual import ContextualContribution
from pid_lens.estimators.infonce.estimator import InfoNCE
from pid_lens.estimators.infonce.from_samples import MutualInformation, mutual_information
from pid_lens.estimators.protocol import Estimator

__all__ = [
    "BATCH",
    "BROJA",
    "BatchAtoms",
    "BottleneckRecipe",
    "ConceptBottleneck",
    "ConceptInformation",
    "ContextualContribution",
    "Estimator",
    "FlowAtoms",
    "FlowPID",
    "GaussianBracket",
    "GaussianPID",
    "InfoNCE",
    "MutualInformation",
    "batch_pid",
    "bootstrap",
    "concept_information",
    "cross_fitted",
    "discrete_pid",
    "exchanged",
    "flow_pid",
    "gaussian_pid",
    "gaussian_pid_samples",
    "mutual_information",
    "posterior_pid",
    "question_groups",
]
