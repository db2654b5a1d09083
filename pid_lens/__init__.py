"""Where a vision-language model's answer comes from, layer by layer, during the forward pass.

Example:
    >>> import pid_lens
    >>> model, processor = pid_lens.demo.load()
    >>> pid_lens.spectrum(model, pid_lens.demo.batches("synergy"), processor=processor)
    Spectrum(layer 5: R=... U_vision=... U_language=... S=0.9... of I=0.9... bits; ...)
"""

from pid_lens import demo, truth
from pid_lens.anatomy import Anatomy
from pid_lens.atoms import Atoms
from pid_lens.checking import Checked, check
from pid_lens.compare import compare, effects
from pid_lens.curves import Curve
from pid_lens.donors import Donors, collect
from pid_lens.estimators import (
    BATCH,
    BROJA,
    ConceptBottleneck,
    ContextualContribution,
    FlowPID,
    GaussianPID,
    InfoNCE,
    batch_pid,
    concept_information,
    discrete_pid,
    flow_pid,
    gaussian_pid,
    mutual_information,
    posterior_pid,
    question_groups,
)
from pid_lens.frameworks import dissect
from pid_lens.intervening import intervene
from pid_lens.interventions import Knockout, Mean, Noise, Remove, Resample, Zero
from pid_lens.lens import Lens
from pid_lens.moments import Moments, calibrate
from pid_lens.one_call import decompose, spectrum
from pid_lens.options.scores import OptionScores
from pid_lens.options.scoring import score_options
from pid_lens.prompts.batching import batch
from pid_lens.protocols import Estimator, Intervention, Readout
from pid_lens.readouts import LogitLens, Pooled, TunedLens
from pid_lens.readouts.tuning import tune
from pid_lens.reads import Reads
from pid_lens.regions.boxes import region
from pid_lens.samples import Batch, Samples
from pid_lens.spans import Spans
from pid_lens.spectra import Spectrum
from pid_lens.watching import ForkEditError

__version__ = "0.1.0"

__all__ = [
    "BATCH",
    "BROJA",
    "Anatomy",
    "Atoms",
    "Batch",
    "Checked",
    "ConceptBottleneck",
    "ContextualContribution",
    "Curve",
    "Donors",
    "Estimator",
    "FlowPID",
    "ForkEditError",
    "GaussianPID",
    "InfoNCE",
    "Intervention",
    "Knockout",
    "Lens",
    "LogitLens",
    "Mean",
    "Moments",
    "Noise",
    "OptionScores",
    "Pooled",
    "Readout",
    "Reads",
    "Remove",
    "Resample",
    "Samples",
    "Spans",
    "Spectrum",
    "TunedLens",
    "Zero",
    "batch",
    "batch_pid",
    "calibrate",
    "check",
    "collect",
    "compare",
    "concept_information",
    "decompose",
    "demo",
    "discrete_pid",
    "dissect",
    "effects",
    "flow_pid",
    "gaussian_pid",
    "intervene",
    "mutual_information",
    "posterior_pid",
    "question_groups",
    "region",
    "score_options",
    "spectrum",
    "truth",
    "tune",
]
