"""Files that version 0.1 wrote load today, say the same numbers, and mix with what is read now."""

import pytest
import torch
from paths import DATA

import pid_lens
from pid_lens import BROJA, Curve, Knockout, Lens, Moments, Pooled, Reads, Spectrum, TunedLens
from pid_lens.results import ATOMS, FIELDS

STORED = DATA / "version_0_1"
BATCHES = pid_lens.demo.batches("synergy", split="test", n=24)


@pytest.fixture(scope="module")
def moments():
    return Moments.load(STORED / "moments.safetensors")


@pytest.fixture(scope="module")
def read(digits_model, moments):
    """Reads of today under the settings of a stored file."""
    model, processor = digits_model

    def of(**how):
        given = {"choices": ("A", "B"), "moments": moments, "layers": [0, 5], "draws": 2}
        lens = Lens(model, processor, **given, **how)
        with torch.no_grad():
            for batch in BATCHES:
                with lens(batch):
                    model(**batch.inputs)
        return lens.reads

    return of


def plain(read):
    return read(states=[Pooled("answer")])


def tuned_knockout(read):
    tuned = TunedLens.load(STORED / "tuned_lens.safetensors")
    return read(interventions=[Knockout("image", "question", layers=[0])], readout=tuned)


@pytest.mark.parametrize(
    ("name", "again"), [("reads", plain), ("reads_tuned_knockout", tuned_knockout)]
)
def test_reads_are_what_is_read_today_and_mix_with_it(name, again, read):
    stored, today = Reads.load(STORED / f"{name}.safetensors"), again(read)
    assert today.settings == stored.settings
    assert (today.ids, today.contents, today.layers) == (
        stored.ids,
        stored.contents,
        stored.layers,
    )
    assert torch.allclose(today.log_probs, stored.log_probs, atol=1e-4)
    assert torch.allclose(today.spread, stored.spread, atol=1e-4)
    assert Reads.concat([stored.rows(range(12)), today.rows(range(12, 24))]).ids == stored.ids
    changed = BROJA().update(stored).result() - BROJA().update(today).result()
    assert all(getattr(changed, atom).abs().max() < 1e-3 for atom in ATOMS)


def test_a_spectrum_is_what_its_reads_say_today():
    stored = Spectrum.load(STORED / "spectrum.safetensors")
    today = BROJA(floor=3).update(Reads.load(STORED / "reads.safetensors")).result()
    assert today.settings == stored.settings
    for part in (None, "sensitivity", "pointwise", "influence", "bracket", "floor"):
        one, other = (x if part is None else getattr(x, part) for x in (today, stored))
        for field in FIELDS:
            values = getattr(one, field), getattr(other, field)
            assert torch.allclose(*values, atol=1e-9, equal_nan=True), (part, field)
    for flag in ("mismatch", "ess", "feasible", "fallback", "doubtful", "draw_bias"):
        assert torch.allclose(
            getattr(today, flag).double(), getattr(stored, flag).double(), atol=1e-9
        ), flag


def test_a_change_between_spectra_is_the_same():
    stored = Spectrum.load(STORED / "change.safetensors")
    changed, baseline = (
        BROJA().update(Reads.load(STORED / f"{name}.safetensors")).result()
        for name in ("reads_tuned_knockout", "reads")
    )
    today = pid_lens.compare(changed, baseline)
    assert today.settings == stored.settings
    for atom in ATOMS:
        assert torch.allclose(getattr(today, atom), getattr(stored, atom), atol=1e-9)
        assert torch.allclose(today.standard_error(atom), stored.standard_error(atom), atol=1e-9)


def test_moments_are_of_the_model_that_is_shipped(digits_model, moments):
    again = pid_lens.calibrate(
        digits_model[0], pid_lens.demo.batches("synergy", split="train", n=64)
    )
    assert (again.model, again.site, list(again)) == (moments.model, moments.site, list(moments))
    for span in moments:
        assert torch.allclose(again[span].std, moments[span].std, atol=1e-5)


def test_a_curve_keeps_its_parts():
    stored = Curve.load(STORED / "curve.safetensors")
    assert stored.value.tolist() == [0, 0]
    assert stored.parts["changed"].value.tolist() == [1, 4]
