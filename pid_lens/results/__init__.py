"""Results of the estimators: values of every layer with unit, standard errors and diagnostics.

In come numbers of each layer; out go frozen records that print, plot, save, load and subtract.
`Atoms` are the four atoms of a partial information decomposition (PID); `LayerAtoms` are those of
every layer, with confidence intervals and diagnostics; a `Spectrum` is the PID that an estimator
computed from `pid_lens.Reads`; a `Curve` is one quantity over the layers. `pairing` and
`difference` subtract two results over the same samples, with a paired standard error. No
estimator is here: these records are computed from logits and hidden states elsewhere.
"""

from pid_lens.results.atoms import ATOMS, FIELDS, NATS, Atoms, Unit, require_unit
from pid_lens.results.comparison import compare
from pid_lens.results.curve import NEAR_CAP, Curve, plot_curve
from pid_lens.results.drawing import STYLE, plot_spectra, plot_spectrum
from pid_lens.results.layer_atoms import TOO_MUCH, LayerAtoms
from pid_lens.results.sampled_atoms import Sampled, SampledAtoms
from pid_lens.results.sampling_error import confidence_interval, standard_error
from pid_lens.results.spectrum import Spectrum

__all__ = [
    "ATOMS",
    "FIELDS",
    "NATS",
    "NEAR_CAP",
    "STYLE",
    "TOO_MUCH",
    "Atoms",
    "Curve",
    "LayerAtoms",
    "Sampled",
    "SampledAtoms",
    "Spectrum",
    "Unit",
    "compare",
    "confidence_interval",
    "plot_curve",
    "plot_spectra",
    "plot_spectrum",
    "require_unit",
    "standard_error",
]
