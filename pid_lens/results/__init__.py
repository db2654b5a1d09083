"""What an estimator returns: atoms and curves, with unit, errors, proof and doubts.

In come numbers of each layer; out go frozen records that print, plot, save, load and subtract.
`Atoms` are a decomposition, `LayerAtoms` one a layer with its errors and doubts, a `Spectrum` one
that an estimator made of reads, a `Curve` one quantity. `pairing` and `difference` compare two
results over the same samples. Nothing here computes one from answers or states.
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
