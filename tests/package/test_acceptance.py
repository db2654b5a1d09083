"""What pid_lens promises of a real, trained model: held-out digits, last layer."""

import pytest
import torch

import pid_lens
from pid_lens.results import ATOMS

OWN = {
    "vision": "unique_vision",
    "language": "unique_language",
    "redundant": "redundancy",
    "synergy": "synergy",
}


@pytest.fixture(scope="module", params=OWN)
def measured(request, digits_model):
    """Exactly what a user writes: plain calls, spans and ids found from the inputs."""
    task = request.param
    model, processor = digits_model
    moments = pid_lens.calibrate(
        model, pid_lens.demo.batches(task, split="train"), processor=processor
    )
    lens = pid_lens.Lens(model, processor, choices=("A", "B"), moments=moments)
    with lens, torch.no_grad():
        for batch in pid_lens.demo.batches(task, split="test", batch_size=64):
            model(**batch.inputs)
    described = pid_lens.Lens(model, processor, moments=moments)
    with torch.no_grad():
        for batch in pid_lens.demo.batches(task, split="test", batch_size=64):
            with described(batch):
                model(**batch.inputs)
    return task, lens.spectrum(), described.reads, described.spectrum()


def test_the_tasks_own_atom_stands_out(measured):
    task, plain, _, said = measured
    for spectrum in (plain, said):
        assert spectrum.n >= 400
        for name in ATOMS:
            value = float(getattr(spectrum, name)[-1])
            if name == OWN[task]:
                assert value >= 0.8
            else:
                assert abs(value) <= 0.15


def test_atoms_add_up_within_a_certified_gap(measured):
    _, spectrum, _, _ = measured
    total = sum(getattr(spectrum, name) for name in ATOMS)
    torch.testing.assert_close(total, spectrum.information, atol=1e-6, rtol=0)
    assert spectrum.gap.max() <= 1e-3


def test_the_model_is_right_and_not_overconfident(measured):
    _, _, reads, spectrum = measured
    assert reads.accuracy() >= 0.9
    assert reads.calibration_error() <= 0.04
    assert abs(float(spectrum.information[-1]) - (1 - reads.cross_entropy())) <= 0.06


def test_one_call_does_it_all(digits_model):
    model, processor = digits_model
    batches = pid_lens.demo.batches("redundant")
    spectrum = pid_lens.spectrum(model, batches, processor=processor, choices=("A", "B"))
    assert spectrum.redundancy[-1] >= 0.8
    generator = pid_lens.spectrum(model, iter(batches), processor=processor)
    assert torch.equal(spectrum.redundancy, generator.redundancy)
