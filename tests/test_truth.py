"""Gates have the atoms that their closed forms and the stored references say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pid_lens import truth
from pid_lens.estimators import BROJA, discrete_pid
from pid_lens.reads import Reads
from pid_lens.spectra import ATOMS

NAMED = np.load(Path(__file__).parent / "data" / "discrete_named.npz")


@pytest.mark.parametrize("name", truth.GATES)
def test_gate_is_the_stored_table(name):
    assert np.allclose(truth.gate(name), NAMED[f"joint_{name}"], atol=1e-15)


@pytest.mark.parametrize("name", truth.GATES)
def test_closed_forms_agree_with_the_stored_atoms(name):
    stored = NAMED["atoms"][NAMED["names"].tolist().index(name)]
    atoms = truth.atoms_of(name)
    assert [float(getattr(atoms, k)) for k in ATOMS] == pytest.approx(stored, abs=1e-12)


@pytest.mark.parametrize("name", truth.GATES)
@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_reads_of_a_gate_have_its_atoms(name, repair):
    log_p = truth.posteriors_of(truth.gate(name), 800)
    spectrum = BROJA(repair=repair).update(Reads.from_posteriors(log_p)).result()
    for atom in ATOMS:
        true = getattr(truth.atoms_of(name), atom)
        assert float(getattr(spectrum, atom)[0]) == pytest.approx(float(true), abs=1e-6)


def test_independent_draws_come_near_and_differ_by_seed():
    joint = truth.gate("BSC_PAIR")
    one, other = (truth.posteriors_of(joint, 4000, seed=s) for s in (0, 1))
    assert not torch.equal(one, other)
    spectrum = BROJA().update(Reads.from_posteriors(one)).result()
    assert float(spectrum.synergy) == pytest.approx(float(discrete_pid(joint).synergy), abs=0.02)


@pytest.mark.parametrize("ask", [truth.gate, truth.atoms_of])
def test_unknown_gate_is_named(ask):
    with pytest.raises(ValueError, match="NAND"):
        ask("NAND")
