"""Gates have the atoms that their closed forms and the stored references say."""

import numpy as np
import pytest
import torch
from paths import DATA

from pid_lens import truth
from pid_lens.estimators import BROJA, discrete_pid, gaussian_pid
from pid_lens.reads import Reads
from pid_lens.results import ATOMS

NAMED = np.load(DATA / "discrete_named.npz")


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


# ---------------------------------------------------------------- Gaussian systems


def atoms(result):
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


@pytest.mark.parametrize("name", truth.GAUSSIANS)
def test_named_gaussian_systems_are_the_stored_ones(name):
    stored = np.load(DATA / "gaussian.npz")
    system, at = truth.gaussian_system(name), stored["names"].tolist().index(name)
    assert np.allclose(system.covariance, stored[f"cov_{name}"], atol=1e-15)
    assert system.sizes == tuple(stored["dims"][at])
    assert np.allclose(atoms(system.atoms), stored["atoms"][at], atol=1e-12)


@pytest.mark.parametrize("which", [0, 0.5, 0.99, 1, 2, 3, *truth.GAUSSIANS])
def test_gaussian_systems_have_the_atoms_they_say(which):
    system = truth.gaussian_system(which)
    found = gaussian_pid(system.covariance, system.sizes)
    assert torch.allclose(atoms(found), atoms(system.atoms), atol=1e-12)


def test_samples_of_a_gaussian_system():
    system = truth.gaussian_system(2)
    rows = torch.cat(system.sample(20000), 1)
    assert torch.allclose(rows.T.cov(), system.covariance, atol=0.2)
    assert [x.shape[1] for x in system.sample(3)] == list(system.sizes)
    assert not torch.equal(rows[:3], torch.cat(system.sample(3, seed=1), 1))


def test_unknown_gaussian_system_is_named():
    with pytest.raises(ValueError, match=r"loud.*scalar_unequal"):
        truth.gaussian_system("loud")


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("answers", [2, 3, 4])
@pytest.mark.parametrize(("strength", "noise"), [(1, 0.1), (0.5, 0), (1, 0), (1, 0.9), (0, 0.1)])
def test_layers_have_the_atoms_they_say(answers, strength, noise):
    made = truth.layered_reads(4, answers, strength=strength, noise=noise)
    found = discrete_pid(made.joints, tol=1e-7)
    assert torch.allclose(made.joints.sum((1, 2, 3)), torch.ones(7).double())
    assert (atoms(found) - atoms(made.atoms)).abs().max() < 1e-7


def test_every_layer_is_what_it_is_called():
    made = atoms(truth.layered_reads(4).atoms)
    present = dict(zip(truth.LAYERS, (made > 1e-9).int().tolist(), strict=True))
    assert present == {
        "nothing": [0, 0, 0, 0],
        "redundant": [1, 0, 0, 0],
        "vision": [0, 1, 0, 0],
        "language": [1, 0, 1, 0],
        "synergy": [0, 0, 0, 1],
        "equal": [1, 0, 0, 1],
        "mixed": [1, 1, 1, 1],
    }


def test_reads_of_layers_come_near_their_atoms_and_differ_by_seed():
    made = truth.layered_reads(20000, layers=("mixed", "synergy", "mixed"))
    found = BROJA().update(made.reads).result()
    assert (atoms(found) - atoms(made.atoms)).abs().max() < 0.02
    assert not torch.equal(made.reads.log_probs[0], made.reads.log_probs[2])
    assert made.reads.accuracy() == pytest.approx(0.9, abs=0.1)
    small = [truth.layered_reads(50, layers=("mixed",), seed=s).reads for s in (0, 0, 1)]
    assert torch.equal(small[0].log_probs, small[1].log_probs)
    assert not torch.equal(small[0].log_probs, small[2].log_probs)


@pytest.mark.parametrize(
    "wrong", [{"layers": ["loud"]}, {"layers": []}, {"strength": 2}, {"noise": -1}, {"answers": 1}]
)
def test_impossible_layers_are_an_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        truth.layered_reads(10, **wrong)
