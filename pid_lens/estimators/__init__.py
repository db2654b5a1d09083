"""Estimators: from answers and states to information."""

from pid_lens.estimators.batch import BatchAtoms, batch_pid
from pid_lens.estimators.batch_states import BATCH
from pid_lens.estimators.broja import BROJA
from pid_lens.estimators.concept_states import ConceptBottleneck
from pid_lens.estimators.concepts import ConceptInformation, concept_information
from pid_lens.estimators.contextual import ContextualContribution
from pid_lens.estimators.crossfit import cross_fitted
from pid_lens.estimators.discrete import discrete_pid
from pid_lens.estimators.flow import FlowAtoms, flow_pid
from pid_lens.estimators.flow_states import FlowPID
from pid_lens.estimators.gaussian import gaussian_pid
from pid_lens.estimators.gaussian_samples import GaussianBracket, gaussian_pid_samples
from pid_lens.estimators.gaussian_states import GaussianPID
from pid_lens.estimators.infonce import InfoNCE
from pid_lens.estimators.information import MutualInformation, mutual_information
from pid_lens.estimators.posterior import posterior_pid
from pid_lens.estimators.questions import question_groups
from pid_lens.estimators.resampling import bootstrap, exchanged

__all__ = [
    "BATCH",
    "BROJA",
    "BatchAtoms",
    "ConceptBottleneck",
    "ConceptInformation",
    "ContextualContribution",
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
