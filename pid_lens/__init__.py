"""Where a vision-language model's answer comes from, layer by layer, during the forward pass.

A `Lens` hooks a model, repeats its batch rows with the image or the question ablated, and applies
a readout, by default the logit lens, to the residual stream after each layer. An estimator
decomposes the information about the answer into redundancy, unique information of vision and of
language, and synergy.

Example:
    >>> import pid_lens
    >>> model, processor = pid_lens.demo.load()
    >>> pid_lens.spectrum(model, pid_lens.demo.batches("synergy"), processor=processor)
    Spectrum(layer 5: R=... U_vision=... U_language=... S=0.9... of I=0.9... bits; ...)
"""

from importlib import import_module
from typing import Any

import pid_lens.adapters as adapters
from pid_lens import demo, estimators, truth
from pid_lens.api import decompose, spectrum
from pid_lens.deprecated import find_old_modules, find_old_name
from pid_lens.estimators import (
    BATCH,
    BROJA,
    ConceptBottleneck,
    ContextualContribution,
    FlowPID,
    GaussianPID,
    InfoNCE,
)
from pid_lens.forward import intervene
from pid_lens.inputs import Batch, Spans, batch, region
from pid_lens.interventions import (
    Donors,
    Knockout,
    Mean,
    Moments,
    Noise,
    Remove,
    Resample,
    Zero,
    calibrate,
    collect,
)
from pid_lens.lens import Lens
from pid_lens.model import Anatomy, dissect
from pid_lens.readouts import LogitLens, Pooled, TunedLens, tune
from pid_lens.reads import Reads
from pid_lens.results import Curve, Spectrum, compare
from pid_lens.self_check import check

__version__ = "0.2.0"

__all__ = [
    "BATCH",
    "BROJA",
    "Anatomy",
    "Batch",
    "ConceptBottleneck",
    "ContextualContribution",
    "Curve",
    "Donors",
    "FlowPID",
    "GaussianPID",
    "InfoNCE",
    "Knockout",
    "Lens",
    "LogitLens",
    "Mean",
    "Moments",
    "Noise",
    "Pooled",
    "Reads",
    "Remove",
    "Resample",
    "Spans",
    "Spectrum",
    "TunedLens",
    "Zero",
    "adapters",
    "batch",
    "calibrate",
    "check",
    "collect",
    "compare",
    "decompose",
    "demo",
    "dissect",
    "estimators",
    "intervene",
    "region",
    "spectrum",
    "testing",
    "truth",
    "tune",
]

find_old_modules()


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "testing":  # for authors of estimators: not every import needs it
        return import_module("pid_lens.testing")
    return find_old_name(name)
