"""TODO room results."""

from pid_lens.results.atoms import ATOMS, FIELDS, NATS, Atoms, Unit, refuse_unit
from pid_lens.results.comparison import compare
from pid_lens.results.curve import NEAR_CAP, Curve, plot_curve
from pid_lens.results.drawing import STYLE, plot_spectra, plot_spectrum
from pid_lens.results.layer_atoms import TOO_MUCH, LayerAtoms
from pid_lens.results.sampled import Sampled, SampledAtoms
from pid_lens.results.sampling_error import interval, standard_error
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
    "interval",
    "plot_curve",
    "plot_spectra",
    "plot_spectrum",
    "refuse_unit",
    "standard_error",
]
