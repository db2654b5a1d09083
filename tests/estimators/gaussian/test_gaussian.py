"""The Gaussian decomposition: stored values, laws, singular systems, samples, states in a Lens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussians import NAMES, STORED, atoms, covariance, looks

from pid_lens import Lens, Pooled, Reads, truth
from pid_lens.estimators import GaussianPID, gaussian_pid, gaussian_pid_samples

GAIN = {
    0: (0.5, 0, 0.792481, 0.207519),
    0.99: (0.992787, 0, 0.299695, 0.495199),
    2: (1, 0.660964, 0.292481, 0.339036),
    3: (1, 1.160964, 0.292481, 0.276271),
}


def blocks(*parts):
    return torch.block_diag(*parts)


# ---------------------------------------------------------------- covariances


@pytest.mark.parametrize("name", NAMES)
def test_stored_systems(name):
    at = NAMES.index(name)
    result = gaussian_pid(STORED[f"cov_{name}"], STORED["dims"][at])
    assert np.allclose(atoms(result), STORED["atoms"][at], atol=1e-9, rtol=0)
    totals = result.information_vision, result.information_language, result.information
    assert np.allclose(torch.stack(totals), STORED["I"][at], atol=1e-9, rtol=0)
    assert result.gap == 0


@pytest.mark.parametrize("gain", GAIN)
def test_gain_table(gain):
    system = truth.gaussian_system(gain)
    assert atoms(gaussian_pid(system.covariance, system.sizes)).tolist() == pytest.approx(
        GAIN[gain], abs=1e-6
    )


def test_independent_systems_add_up():
    dy, d1, d2 = sizes = (3, 4, 2)
    one = covariance(sizes)
    order = torch.arange(2 * sum(sizes)).reshape(2, -1)
    order = torch.cat([part.flatten() for part in order.split(sizes, 1)])
    twice = blocks(one, one)[order][:, order]
    expected = 2 * atoms(gaussian_pid(one, sizes))
    found = atoms(gaussian_pid(twice, (2 * dy, 2 * d1, 2 * d2)))
    assert torch.allclose(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("redundancy", ["exact", "minimum"])
def test_exchanging_the_sources(redundancy):
    cov = covariance()
    order = [0, 1, 2, 7, 8, 3, 4, 5, 6]
    one = gaussian_pid(cov, (3, 4, 2), redundancy=redundancy)
    other = gaussian_pid(cov[order][:, order], (3, 2, 4), redundancy=redundancy)
    assert torch.allclose(atoms(one)[[0, 2, 1, 3]], atoms(other), atol=1e-12)


def test_invertible_maps_of_each_variable_change_nothing():
    cov = covariance()
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(k, k, generator=generator, dtype=torch.float64) for k in (3, 4, 2)]
    change = blocks(1e-4 * maps[0], maps[1], 1e5 * maps[2])
    mapped = gaussian_pid(change @ cov @ change.mT, (3, 4, 2))
    assert torch.allclose(atoms(mapped), atoms(gaussian_pid(cov, (3, 4, 2))), atol=1e-9)


def test_a_batch_is_one_by_one():
    cov = covariance(batch=(2, 5))
    cov[1, 2, 4] = cov[1, 2, :, 4] = 0
    whole = atoms(gaussian_pid(cov.numpy(), (3, 4, 2)))
    assert whole.shape == (2, 5, 4)
    each = [atoms(gaussian_pid(c, (3, 4, 2))) for c in cov.flatten(0, 1)]
    assert torch.allclose(whole.flatten(0, 1), torch.stack(each), atol=1e-12)


def test_atoms_are_what_they_should_be():
    cov = covariance(batch=(50,))
    exact, least = (gaussian_pid(cov, (3, 4, 2), redundancy=r) for r in ("exact", "minimum"))
    assert atoms(exact).min() > -1e-12
    assert torch.allclose(atoms(exact).sum(-1), exact.information)
    either = torch.minimum(least.information_vision, least.information_language)
    assert torch.allclose(least.redundancy, either)
    assert torch.minimum(least.unique_vision, least.unique_language).abs().max() == 0
    assert (exact.redundancy <= least.redundancy + 1e-12).all()


def test_units():
    bits, nats = (gaussian_pid(covariance(), (3, 4, 2), unit=u) for u in ("bits", "nats"))
    assert torch.allclose(atoms(nats), atoms(bits) * np.log(2))
    assert (bits.unit, nats.unit) == ("bits", "nats")


# ---------------------------------------------------------------- singular ones


def grown(cov, rows):
    """The system with variables that are combinations of the others."""
    change = torch.as_tensor(rows, dtype=torch.float64)
    return change @ cov @ change.mT


@pytest.mark.parametrize("of", [0, 3, 8])
@pytest.mark.parametrize("factor", [0.0, 1.0, -3.0])
def test_constants_and_copies_change_nothing(of, factor):
    cov, eye = covariance(), torch.eye(9, dtype=torch.float64)
    sizes = [3, 4, 2]
    sizes[(of > 2) + (of > 6)] += 1
    more = torch.cat([eye[: of + 1], factor * eye[of : of + 1], eye[of + 1 :]])
    found = gaussian_pid(grown(cov, more), sizes)
    assert torch.allclose(atoms(found), atoms(gaussian_pid(cov, (3, 4, 2))), atol=1e-9)


def test_sources_that_are_one():
    eye = torch.eye(5, dtype=torch.float64)
    cov = grown(covariance((3, 2, 0)), torch.cat([eye, eye[3:]]))
    found = gaussian_pid(cov, (3, 2, 2))
    assert atoms(found).tolist() == pytest.approx([float(found.information), 0, 0, 0], abs=1e-12)


def test_a_constant_source_tells_nothing():
    cov = covariance()
    cov[7:] = cov[:, 7:] = 0
    found = gaussian_pid(cov, (3, 4, 2))
    assert found.information_language == 0
    assert atoms(found).tolist() == pytest.approx([0, float(found.information), 0, 0], abs=1e-12)


def test_everything_constant_is_zero():
    assert torch.equal(atoms(gaussian_pid(torch.zeros(3, 3), (1, 1, 1))), torch.zeros(4).double())


def test_what_both_tell_without_error_is_infinite_synergy():
    mixed = torch.tensor([[1.0, 1.0], [1, 0], [0, 1]]).double()
    found = gaussian_pid(mixed @ mixed.mT, (1, 1, 1))
    assert found.information == found.synergy == torch.inf
    assert found.redundancy == pytest.approx(0.5)
    assert found.unique_vision == pytest.approx(0)
    assert not atoms(found).isnan().any()


@pytest.mark.parametrize(("source", "row"), [(1, 3), (2, 7)])
def test_what_one_source_tells_without_error_is_refused(source, row):
    eye = torch.eye(9, dtype=torch.float64)
    cov = torch.stack([covariance(), grown(covariance(), torch.cat([eye[row][None], eye[1:]]))])
    with pytest.raises(ValueError, match=rf"X{source} determines .* in system \[1\]"):
        gaussian_pid(cov, (3, 4, 2))


GOOD = covariance()
SPREAD = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
BAD = {
    "NaN": (GOOD * torch.nan, (3, 4, 2), ValueError, "NaN"),
    "infinite": (GOOD + torch.inf, (3, 4, 2), ValueError, "infinite"),
    "sizes that do not add up": (GOOD, (3, 4, 3), ValueError, "sum of sizes"),
    "no Y": (GOOD, (0, 7, 2), ValueError, "at least 1"),
    "two sizes": (GOOD, (4, 5), ValueError, "at least 1"),
    "not square": (GOOD[:8], (3, 4, 2), ValueError, r"\[8, 9\]"),
    "not symmetric": (GOOD + torch.eye(9).roll(1, 0), (3, 4, 2), ValueError, "symmetric"),
    "negative variance": (SPREAD, (1, 1, 1), ValueError, "negative variance"),
    "indefinite": (torch.ones(3, 3) * 2 - torch.eye(3), (1, 1, 1), ValueError, "semi-definite"),
    "constant that covaries": (torch.ones(3, 3) - SPREAD, (1, 1, 1), ValueError, "without var"),
    "a list": (GOOD.tolist(), (3, 4, 2), TypeError, "list"),
}


@pytest.mark.parametrize(("cov", "sizes", "error", "words"), BAD.values(), ids=BAD)
def test_bad_covariances_are_an_error(cov, sizes, error, words):
    with pytest.raises(error, match=words):
        gaussian_pid(cov, sizes)


@pytest.mark.parametrize("wrong", [{"redundancy": "blackwell"}, {"unit": "bytes"}])
def test_unknown_settings_are_an_error(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        gaussian_pid(GOOD, (3, 4, 2), **wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GaussianPID(**wrong)


# ---------------------------------------------------------------- samples


def test_identical_channels_have_nothing_unique():
    """Ten dimensions, n = 500, mean of 16 samples: the plug-in reads .6 bits, the other none."""
    y, x1, x2 = looks(layers=(16,))
    found = gaussian_pid_samples(y, x1, x2)
    for name in ("unique_vision", "unique_language"):
        assert getattr(found.plug_in, name).mean() > 0.4
        assert getattr(found.cross_fitted, name).mean().abs() < 0.1
    assert (found.width > 0.3).all()


def test_informations_are_without_bias():
    found = gaussian_pid_samples(*looks(n=120, d=6, layers=(64,))).cross_fitted
    true = {"information": 3 * np.log2(3), "information_vision": 3, "information_language": 3}
    for name, value in true.items():
        assert getattr(found, name).mean() == pytest.approx(value, abs=0.1)


def test_both_ends_meet_the_truth_with_many_samples():
    y, x1, x2 = looks(n=20000, d=3, better=4.0)
    true = [1.5, 1.5 * np.log2(2.5), 0, 1.5 * np.log2(6 / 5)]
    found = gaussian_pid_samples(y, x1, x2)
    assert atoms(found.plug_in).tolist() == pytest.approx(true, abs=0.05)
    assert atoms(found.cross_fitted).tolist() == pytest.approx(true, abs=0.05)


def test_a_large_unique_information_is_not_lost():
    found = gaussian_pid_samples(*looks(n=500, better=4.0, layers=(8,)))
    true = 5 * np.log2(2.5)
    assert found.cross_fitted.unique_vision.mean() == pytest.approx(true, abs=0.2)


def test_plug_in_is_the_decomposition_of_the_sample_covariance():
    rows = looks(n=60, d=3)
    cov = np.cov(np.concatenate(rows, 1).T)
    found, expected = gaussian_pid_samples(*rows).plug_in, gaussian_pid(cov, (3, 3, 3))
    assert torch.allclose(atoms(found), atoms(expected), atol=1e-12)


def test_layers_are_decomposed_one_by_one():
    y, x1, x2 = looks(n=80, d=2, layers=(3,))
    whole = gaussian_pid_samples(y[-1], x1, x2.numpy())
    assert whole.plug_in.union.shape == whole.cross_fitted.union.shape == (3,)
    for layer in range(3):
        one = gaussian_pid_samples(y[-1], x1[layer], x2[layer])
        for end in ("plug_in", "cross_fitted"):
            assert torch.allclose(
                atoms(getattr(whole, end))[layer], atoms(getattr(one, end)), atol=1e-12
            )


def test_exchanging_the_sources_of_samples():
    y, x1, x2 = looks(n=90, d=3, better=2.0)
    one, other = gaussian_pid_samples(y, x1, x2), gaussian_pid_samples(y, x2, x1)
    for end in ("plug_in", "cross_fitted"):
        found = atoms(getattr(one, end))[[0, 2, 1, 3]]
        assert torch.allclose(found, atoms(getattr(other, end)), atol=1e-9)


def test_invertible_maps_of_samples_change_nothing():
    y, x1, x2 = looks(n=90, d=3, better=2.0)
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, other = gaussian_pid_samples(y, x1, x2), gaussian_pid_samples(y @ mix, x1 - 7, x2 @ mix)
    for end in ("plug_in", "cross_fitted"):
        assert torch.allclose(atoms(getattr(one, end)), atoms(getattr(other, end)), atol=1e-9)


def test_constant_features_change_nothing():
    y, x1, x2 = looks(n=90, d=3, better=2.0)
    flat = torch.full((90, 1), 7.3, dtype=torch.float64)
    one = gaussian_pid_samples(y, x1, x2)
    other = gaussian_pid_samples(*(torch.cat([x, flat], 1) for x in (y, x1, x2)))
    for end in ("plug_in", "cross_fitted"):
        assert torch.allclose(atoms(getattr(one, end)), atoms(getattr(other, end)), atol=1e-9)


def test_minimum_redundancy_of_samples():
    found = gaussian_pid_samples(*looks(n=90, d=3), redundancy="minimum")
    for end in (found.plug_in, found.cross_fitted):
        assert torch.minimum(end.unique_vision, end.unique_language) == 0


def test_groups_stay_together():
    """Every sample comes six times: split apart, a half would know the other."""
    y, x1, x2 = (x.repeat(6, 1) for x in looks(n=60, d=8))
    apart = gaussian_pid_samples(y, x1, x2).cross_fitted
    names = [f"image {i % 60}" for i in range(360)]
    together = gaussian_pid_samples(y, x1, x2, groups=names).cross_fitted
    assert together.union < apart.union - 0.3


ROWS = looks(n=40, d=3)
BAD_ROWS = {
    "no more samples than dimensions": ([x[:9] for x in ROWS], {}, "must be over 9"),
    "halves too small": ([x[:12] for x in ROWS], {}, "each half"),
    "other lengths": ((ROWS[0][:30], *ROWS[1:]), {}, "one n"),
    "no axis of samples": ([x[0] for x in ROWS], {}, "n, width"),
    "NaN": ((ROWS[0] * torch.nan, *ROWS[1:]), {}, "y has NaN"),
    "layers that differ": (
        (ROWS[0].expand(2, 40, 3), ROWS[1].expand(3, 40, 3), ROWS[2]),
        {},
        "bro",
    ),
    "groups of others": (ROWS, {"groups": "abc"}, "40 samples need as many groups"),
    "one group": (ROWS, {"groups": "a" * 40}, "smaller half has 0"),
    "no splits": (ROWS, {"splits": 0}, "splits"),
    "y is in x1": ((ROWS[0], torch.cat(ROWS[:2], 1), ROWS[2]), {}, "X1 determines"),
}


@pytest.mark.parametrize(("rows", "more", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_samples_are_an_error(rows, more, words):
    with pytest.raises(ValueError, match=words):
        gaussian_pid_samples(*rows, **more)


# ---------------------------------------------------------------- reads


def reads(n=80, d=2, layers=3, **more):
    y, x1, x2 = (x.float() for x in looks(n=n, d=d, layers=(layers,), better=3.0))
    plain = Reads.from_posteriors(torch.zeros(layers, 1, n, 1), conditions=["full"], **more)
    return replace(plain, states={"image": x1, "question": x2, "answer": y})


def test_batches_merges_orders_and_repeats_give_one_result():
    whole = GaussianPID().update(reads()).result()
    streamed, half = GaussianPID(), GaussianPID()
    wrong = reads().rows(range(10))
    streamed.update(replace(wrong, states={k: -x for k, x in wrong.states.items()}))
    for at in range(0, 40, 7):
        streamed.update(reads().rows(range(at, min(at + 7, 40))))
    half.update(reads().rows(range(79, 39, -1)))
    merged = streamed.merge(half).result()
    assert torch.allclose(atoms(whole), atoms(merged), atol=1e-9)
    assert torch.allclose(atoms(whole.bracket), atoms(merged.bracket), atol=1e-9)
    assert sorted(merged.ids) == sorted(whole.ids)


@pytest.mark.parametrize("target", ["last", "same"])
def test_the_target_is_the_last_layer_or_the_same(target):
    found = GaussianPID(target=target).update(reads()).result()
    states = {k: x.double() for k, x in reads().states.items()}
    y = states["answer"] if target == "same" else states["answer"][-1:]
    order = sorted(range(80), key=str)
    rows = [x[:, order] for x in (y, states["image"], states["question"])]
    expected = gaussian_pid_samples(*rows)
    assert torch.allclose(atoms(found), atoms(expected.plug_in), atol=1e-12)
    assert torch.allclose(atoms(found.bracket), atoms(expected.cross_fitted), atol=1e-12)
    assert found.settings["target"] == target
    assert found.redundancy[-1] > 0.3


def test_a_spectrum_of_states_can_be_stored(tmp_path):
    found = GaussianPID(unit="nats").update(reads()).result()
    found.save(tmp_path / "s.safetensors")
    again = type(found).load(tmp_path / "s.safetensors")
    assert again.unit == "nats"
    assert torch.equal(atoms(again), atoms(found))
    assert "GaussianPID" in repr(again)


def test_components_make_wide_states_narrow():
    wide = reads(d=50)
    with pytest.raises(ValueError, match=r"80 samples of 150 dimensions.*components="):
        GaussianPID().update(wide).result()
    found = GaussianPID(components=4).update(wide).result()
    assert torch.isfinite(atoms(found)).all()
    narrow = GaussianPID(components=9).update(reads()).result()
    assert torch.equal(atoms(narrow), atoms(GaussianPID().update(reads()).result()))


def test_a_layer_with_too_few_samples_is_doubtful():
    few = GaussianPID().update(reads(n=40, d=8)).result()
    many = GaussianPID().update(reads(n=4000)).result()
    assert few.doubtful.all()
    assert not many.doubtful.any()


def test_missing_states_are_named():
    plain = replace(reads(), states={"image": reads().states["image"]})
    with pytest.raises(ValueError, match=r"lack the states answer, question.*Pooled\('image'\)"):
        GaussianPID().update(plain)


def test_a_result_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        GaussianPID().result()
    with pytest.raises(ValueError, match="no sample"):
        GaussianPID().update(reads().rows(())).result()


def test_other_settings_do_not_merge():
    with pytest.raises(ValueError, match="equal settings"):
        GaussianPID(seed=0).merge(GaussianPID(seed=1))


@pytest.mark.parametrize("wrong", [{"target": "first"}, {"components": 0}])
def test_settings_are_checked_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GaussianPID(**wrong)


def test_inline_in_a_lens(llava):
    model, batch, moments = llava
    estimator = GaussianPID(components=1)
    states = [Pooled("image"), Pooled("question"), Pooled("answer")]
    lens = Lens(model, moments=moments, states=states, estimators=[estimator])
    generator = torch.Generator().manual_seed(0)
    for at in range(8):
        batch.inputs["pixel_values"] = torch.randn(4, 3, 28, 28, generator=generator)
        ids = batch.inputs["input_ids"]
        ids[:, -6:-1] = torch.randint(10, 200, (4, 5), generator=generator)
        with lens(replace(batch, ids=tuple(f"{at} {row}" for row in range(4)))), torch.no_grad():
            model(**batch.inputs)
    found = estimator.result()
    assert found.n == 32
    assert found.layers == lens.reads.layers
    assert torch.equal(atoms(found), atoms(lens.spectrum(GaussianPID(components=1))))
    assert torch.isfinite(atoms(found)).all()
