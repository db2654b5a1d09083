"""Posteriors and reads: stored values, laws, strata, flags, errors."""

import numpy as np
import pytest
import torch
from paths import DATA

from pid_lens import truth
from pid_lens.estimators import BROJA, posterior_pid
from pid_lens.reads import Reads
from pid_lens.results import ATOMS


def atoms(result):
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


def noisy(answers=2, n=450, layers=6, scale=6.0, seed=0):
    """Log-posteriors [layers, 3, n, answers] of a sure model on noisy evidence."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, n, answers)
    answer = torch.randint(answers, (n,), generator=generator)
    evidence = torch.nn.functional.one_hot(answer, answers)
    logits = [
        scale * (weight * evidence + torch.randn(shape, generator=generator).double())
        for weight in (2.0, 1.0, 0.7)
    ]
    return torch.stack([x.log_softmax(-1) for x in logits], 1)


def spectrum(log_p, **settings):
    present = (log_p > -torch.inf).any(0).any(0)
    return BROJA(**settings).update(Reads.from_posteriors(log_p, present=present)).result()


@pytest.mark.parametrize("repair", ["rake", "tilt"])
@pytest.mark.parametrize(("kind", "tolerance"), [("exact", 5e-6), ("iid", 1e-5)])
def test_stored_reads(kind, tolerance, repair):
    stored = np.load(DATA / f"reads_{kind}.npz")
    other = {"rake": "tilt", "tilt": "rake"}[repair]
    result = posterior_pid(*stored["log_p"].swapaxes(0, 1), repair=repair)
    assert np.allclose(atoms(result), stored[f"sample_{repair}_atoms"], atol=tolerance)
    assert np.allclose(atoms(result.sensitivity), stored[f"sample_{other}_atoms"], atol=tolerance)
    assert result.feasible.all()


def test_exactly_realised_reads_have_the_atoms_of_their_joint():
    stored = np.load(DATA / "reads_exact.npz")
    result = posterior_pid(*stored["log_p"].swapaxes(0, 1))
    assert np.allclose(atoms(result), stored["atoms"], atol=5e-6)
    assert result.mismatch.max() < 1e-7
    assert result.ess.min() > 1 - 1e-6


@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_atoms_add_up_to_the_information_of_the_repaired_model(repair):
    log_p = noisy()
    result = posterior_pid(*log_p.unbind(1), repair=repair)
    assert torch.allclose(atoms(result).sum(-1), result.information, atol=1e-12)
    if repair == "rake":
        full = log_p[:, 0].exp()
        mean = full.mean(1)
        own = (-mean.log2() * mean).sum(-1) + (full * full.log2()).sum(-1).mean(1)
        assert torch.allclose(result.information, own, atol=1e-12)


@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_exchanging_vision_and_language(repair):
    full, vision, language = noisy().unbind(1)
    one = posterior_pid(full, vision, language, repair=repair)
    other = posterior_pid(full, language, vision, repair=repair)
    assert torch.allclose(atoms(one), atoms(other)[:, [0, 2, 1, 3]], atol=1e-9)


@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_two_answers_are_reproducible(repair):
    log_p = noisy()
    result = posterior_pid(*log_p.unbind(1), repair=repair)
    assert result.gap.max() < 1e-10
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(log_p.shape[2], generator=generator)
    shuffled = posterior_pid(*log_p[:, :, order].unbind(1), repair=repair)
    assert torch.allclose(atoms(result), atoms(shuffled), atol=1e-9)
    shaken = log_p + 1e-6 * torch.randn(log_p.shape, generator=generator)
    again = posterior_pid(*shaken.unbind(1), repair=repair)
    assert torch.allclose(atoms(result), atoms(again), atol=1e-5)


def test_names_of_answers_do_not_matter():
    log_p = noisy(answers=3, n=40, layers=1)
    one = posterior_pid(*log_p.unbind(1))
    other = posterior_pid(*log_p.roll(1, -1).unbind(1))
    assert torch.allclose(atoms(one), atoms(other), atol=2e-6)


def test_certain_answers_and_absurd_ones_are_finite():
    sure = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0], [0.0, -900.0]])[None]
    wrong = torch.tensor([0.0, -torch.inf]).expand(1, 3, 2)
    result = posterior_pid(sure, sure, wrong)
    assert atoms(result).isfinite().all()
    assert float(result.redundancy) == pytest.approx(0, abs=1e-9)
    assert float(result.unique_vision) == pytest.approx(float(result.information), abs=1e-9)


def test_where_tilting_is_impossible_the_flag_is_down():
    yes = 0.45 + 0.1 * torch.rand(2, 300, generator=torch.Generator().manual_seed(0))
    full = torch.stack([yes, 1 - yes], -1).log()
    vision = full.clone()
    vision[1] = torch.tensor([0.8, 0.2]).log()
    by_tilt = posterior_pid(full, vision, full, repair="tilt")
    assert by_tilt.feasible.tolist() == [True, False]
    assert by_tilt.ess[1] < 0.5
    assert by_tilt.mismatch[1] == pytest.approx(0.3, abs=0.01)
    assert torch.allclose(
        atoms(by_tilt)[1],
        atoms(posterior_pid(full, vision, full, repair="rake"))[1],
        atol=1e-9,
    )


GOOD = noisy(n=20, layers=1)[:, 0]
BAD = {
    "NaN": (GOOD.where(GOOD < -1, torch.nan), ValueError, "NaN"),
    "plus infinity": (GOOD + torch.inf, ValueError, "inf"),
    "logits": (GOOD + torch.arange(20.0)[:, None], ValueError, "sum to 1 in every row"),
    "options out of a vocabulary": (GOOD - 0.5, ValueError, "sum to 0.6065"),
    "no possible answer": (GOOD - torch.inf, ValueError, "every answer"),
    "fewer samples": (GOOD[:, :10], ValueError, "one shape"),
    "no samples": (GOOD[:, :0], ValueError, "one shape"),
    "a list": (GOOD.tolist(), TypeError, "list"),
}


@pytest.mark.parametrize(("bad", "error", "words"), BAD.values(), ids=BAD)
def test_bad_posteriors_are_an_error(bad, error, words):
    with pytest.raises(error, match=words):
        posterior_pid(GOOD, bad, GOOD)


def test_an_unknown_repair_is_an_error():
    with pytest.raises(ValueError, match="rake"):
        posterior_pid(GOOD, GOOD, GOOD, repair="clip")


def test_without_layers_is_an_error():
    with pytest.raises(ValueError, match="layers, n, answers"):
        posterior_pid(GOOD[0], GOOD[0], GOOD[0])


# ---------------------------------------------------------------- reads


def test_batches_merges_and_repeats_give_one_result():
    reads = Reads.from_posteriors(noisy(n=60))
    whole = BROJA().update(reads).result()
    streamed, half = BROJA(), BROJA()
    for at in range(0, 30, 7):
        streamed.update(reads.rows(range(at, min(at + 7, 30))))
    half.update(reads.rows(range(59, 29, -1)))
    merged = streamed.update(reads.rows(range(10))).merge(half).result()
    assert torch.allclose(atoms(whole), atoms(merged), atol=1e-12)
    assert sorted(merged.ids) == sorted(whole.ids)


def test_a_spectrum_says_how_it_was_made():
    reads = Reads.from_posteriors(noisy(n=30), settings={"draws": 4})
    result = BROJA(tau=0.2, repair="tilt").update(reads).result()
    assert result.settings == {
        "draws": 4,
        "tau": 0.2,
        "repair": "tilt",
        "tol": 1e-3,
        "clustered": False,
    }
    assert result.estimator == "BROJA"
    assert result.layers == reads.layers
    assert result.fallback.shape == (6, 3)


def test_extra_conditions_in_any_order_do_no_harm():
    log_p = noisy(n=30)
    plain = spectrum(log_p)
    order = ("language", "full", "other", "vision")
    more = torch.stack([log_p[:, 2], log_p[:, 0], log_p[:, 0], log_p[:, 1]], 1)
    reads = Reads.from_posteriors(more, conditions=order)
    assert torch.equal(atoms(plain), atoms(BROJA().update(reads).result()))


def with_fallback(n, options, answers):
    """Samples whose options have next to no mass: all fall back to uniform."""
    log_p = torch.full((1, 3, n, answers), -torch.inf, dtype=torch.float64)
    log_p[..., :options] = -12.0 - torch.rand(1, 3, n, options).double()
    return log_p


def test_numbers_of_options_are_no_information():
    pooled = torch.cat([with_fallback(50, 2, 4), with_fallback(50, 4, 4)], 2)
    result = spectrum(pooled)
    assert atoms(result).abs().max() < 1e-12
    assert result.fallback.min() == 1


def test_strata_are_averaged_by_their_size():
    two, four = noisy(2, n=30, layers=1), noisy(4, n=10, layers=1)
    absent = torch.full((1, 3, 30, 2), -torch.inf, dtype=torch.float64)
    both = torch.cat([torch.cat([two, absent], -1), four], 2)
    expected = 0.75 * atoms(spectrum(two)) + 0.25 * atoms(spectrum(four))
    result = spectrum(both)
    assert torch.allclose(atoms(result), expected, atol=1e-9)
    assert result.mismatch == max(spectrum(two).mismatch, spectrum(four).mismatch)
    assert min(spectrum(x).ess for x in (two, four)) < result.ess < 1


def test_where_the_options_stand_does_not_matter():
    two = noisy(2, n=30, layers=1)
    wide = torch.full((1, 3, 30, 5), -torch.inf, dtype=torch.float64)
    wide[..., ::2, 1::3] = two[..., ::2, :]
    wide[..., 1::2, 2:4] = two[..., 1::2, :]
    assert torch.allclose(atoms(spectrum(wide)), atoms(spectrum(two)), atol=1e-12)


def test_one_option_carries_no_information():
    one = torch.zeros(2, 3, 8, 1)
    result = spectrum(one)
    assert torch.equal(atoms(result), torch.zeros(2, 4, dtype=torch.float64))
    assert (result.ess == 1).all()
    assert result.feasible.all()


def test_a_result_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        BROJA().result()


def test_a_missing_condition_is_named():
    reads = Reads.from_posteriors(noisy(n=10)[:, :2], conditions=("full", "vision"))
    with pytest.raises(ValueError, match="lack language"):
        BROJA().update(reads).result()


def test_reads_of_another_kind_are_refused_at_once():
    estimator = BROJA().update(Reads.from_posteriors(noisy(n=10, layers=2)))
    with pytest.raises(ValueError, match="layers"):
        estimator.update(Reads.from_posteriors(noisy(n=10, layers=3)))
    assert estimator.result().n == 10


def test_a_result_can_be_asked_for_in_between():
    reads = Reads.from_posteriors(noisy(n=40))
    estimator = BROJA().update(reads.rows(range(25)))
    assert estimator.result().n == 25
    later = estimator.update(reads.rows(range(20, 40))).result()
    assert torch.allclose(atoms(later), atoms(BROJA().update(reads).result()), atol=1e-12)


def test_other_settings_do_not_merge():
    with pytest.raises(ValueError, match="equal settings"):
        BROJA(tau=0.3).merge(BROJA(tau=0.0))


def test_independent_draws_of_a_gate():
    log_p = truth.posteriors_of(truth.gate("AND"), 4000, seed=0)
    result = spectrum(log_p)
    assert atoms(result)[0].tolist() == pytest.approx([0.311, 0, 0, 0.5], abs=0.03)


@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_an_infeasible_tilt_is_no_sensitivity(repair):
    """A constant predictor has no weights: the other repair has no result, and says so."""
    full = torch.tensor([[0.5, 0.5], [0.45, 0.55]], dtype=torch.float64).log()
    constant = torch.tensor([0.8, 0.2], dtype=torch.float64).log().expand(2, 2)
    result = spectrum(torch.stack([full, constant, full])[None], repair=repair)
    assert not result.feasible.any()
    assert result.doubtful.all()
    assert atoms(result.sensitivity).isnan().all()
    assert torch.isfinite(atoms(result)).all()


@pytest.mark.parametrize("wrong", [{"tau": 2.0}, {"tau": -1}, {"repair": "hammer"}, {"tol": 0}])
def test_settings_are_checked_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BROJA(**wrong)
