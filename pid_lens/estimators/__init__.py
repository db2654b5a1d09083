"""Estimators: from answers and states to information."""

from pid_lens.estimators.batch.atoms import BatchAtoms
from pid_lens.estimators.batch.samples import batch_pid
from pid_lens.estimators.batch.states import BATCH
from pid_lens.estimators.concepts.concepts import ConceptInformation, concept_information
from pid_lens.estimators.concepts.questions import question_groups
from pid_lens.estimators.concepts.recipe import BottleneckRecipe
from pid_lens.estimators.concepts.states import ConceptBottleneck
from pid_lens.estimators.exact.broja import BROJA
from pid_lens.estimators.exact.crossfit import cross_fitted
from pid_lens.estimators.exact.discrete import discrete_pid
from pid_lens.estimators.exact.posterior import posterior_pid
from pid_lens.estimators.exact.resampling import bootstrap, exchanged
from pid_lens.estimators.flow.atoms import FlowAtoms
from pid_lens.estimators.flow.samples import flow_pid
from pid_lens.estimators.flow.states import FlowPID
from pid_lens.estimators.gaussian.closed_form import gaussian_pid
from pid_lens.estimators.gaussian.samples import GaussianBracket, gaussian_pid_samples
from pid_lens.estimators.gaussian.states import GaussianPID
from pid_lens.estimators.infonce.contextual import ContextualContribution
from pid_lens.estimators.infonce.infonce import InfoNCE
from pid_lens.estimators.infonce.information import MutualInformation, mutual_information

__all__ = [
    "BATCH",
    "BROJA",
    "BatchAtoms",
    "BottleneckRecipe",
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
