"""Flows: known atoms behind distortions, what changes nothing, reports, states, bad input."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from pid_lens import Lens, Pooled, Reads, demo, truth
from pid_lens.atoms import ATOMS
from pid_lens.estimators.flow.axes import independent_axes
from pid_lens.estimators.flow.gaussianise import gaussianise
from pid_lens.estimators.flow.gaussianity import gaussianity
from pid_lens.estimators.flow.reduction import principal_components
from pid_lens.estimators.flow.samples import flow_pid
from pid_lens.estimators.flow.splines import Flow, Shape
from pid_lens.estimators.flow.start import start
from pid_lens.estimators.flow.states import FlowPID
from pid_lens.estimators.gaussian.closed_form import gaussian_pid
from pid_lens.estimators.gaussian.samples import gaussian_pid_samples

DISTORTIONS = {
    "cubes": lambda x: x**3,
    "sinh": lambda x: (2 * x).sinh(),
    "exponentials": torch.exp,
    "signed roots": lambda x: x.sign() * x.abs().sqrt(),
    "saturation": lambda x: (1.5 * x).tanh(),
    "softplus": lambda x: torch.nn.functional.softplus(3 * x),
}


def atoms(result):
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_samples(d, n, seed=0):
    """Y of d dimensions of variance 1, two looks at it, and their atoms."""
    gains = torch.linspace(2, 0.3, d, dtype=torch.float64).diag()
    eye, zero = torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    rows = [[eye, zero, zero], [gains, eye, zero], [gains.flip(0, 1), zero, eye]]
    root = torch.cat([torch.cat(row, 1) for row in rows])
    root = root / (root @ root.mT).diagonal().sqrt()[:, None]
    y, x1, x2 = (normal(n, 3 * d, seed=seed) @ root.mT).split(d, 1)
    return (x1, x2, y), gaussian_pid(root @ root.mT, (d, d, d))


def quick(*variables, **settings):
    return flow_pid(*variables, progress=False, **settings)


def worst(found, true):
    return float((atoms(found) - atoms(true)).abs().max())


# ---------------------------------------------------------------- known atoms


@pytest.mark.parametrize(
    ("d", "name"),
    [*((2, name) for name in DISTORTIONS), (1, "exponentials"), (4, "sinh"), (8, "cubes")],
)
def test_distorted_gaussian_systems_of_known_atoms(d, name):
    given, true = gaussian_samples(d, 5000)
    x1, x2, y = (DISTORTIONS[name](x) for x in given)
    found = quick(x1, x2, y)
    assert worst(found, true) < 0.1
    assert worst(gaussian_pid_samples(y, x1, x2).plug_in, true) > 0.1
    assert found.gain > 0.1
    assert found.components == {"answer": d, "vision": d, "language": d}


def test_four_systems_side_by_side_of_unequal_scales():
    system = truth.gaussian_system(3)
    parts = [system.sample(5000, seed=seed) for seed in range(4)]
    y, x1, x2 = (torch.cat(part, 1) ** 3 for part in zip(*parts, strict=True))
    found = quick(x1, x2, y)
    assert (atoms(found) - 4 * atoms(system.atoms)).abs().max() < 0.1
    assert (
        atoms(gaussian_pid_samples(y, x1, x2).plug_in) - 4 * atoms(system.atoms)
    ).abs().max() > 0.5


def test_correlated_coordinates_distorted_each_in_another_way():
    system = truth.gaussian_system(2)
    y, x1, x2 = system.sample(5000)
    mix = torch.tensor([[1.0, 0.0], [0.7, 0.6]], dtype=torch.float64)
    bent = [DISTORTIONS[name] for name in ("cubes", "saturation", "exponentials")]
    bent_y, bent_1, bent_2 = (f(x @ mix.mT) for f, x in zip(bent, (y, x1, x2), strict=True))
    assert worst(quick(bent_1, bent_2, bent_y), system.atoms) < 0.1
    assert worst(gaussian_pid_samples(bent_y, bent_1, bent_2).plug_in, system.atoms) > 0.1


def test_more_transforms_find_the_same_atoms():
    given, true = gaussian_samples(2, 1500)
    assert worst(quick(*(x**3 for x in given), transforms=2), true) < 0.1


def test_a_gaussian_system_is_left_as_it_is():
    (x1, x2, y), _ = gaussian_samples(4, 3000)
    found = quick(x1, x2, y)
    plain = gaussian_pid_samples(y, x1, x2)
    assert (found.gain, found.steps) == (0, 0)
    assert torch.allclose(atoms(found), atoms(plain.plug_in), atol=1e-9)
    assert torch.allclose(atoms(found.bracket), atoms(plain.cross_fitted), atol=1e-9)
    assert not found.doubtful


def test_unrelated_variables_tell_nothing():
    x1, x2, y = (normal(600, 3, seed=seed) ** 3 for seed in (1, 2, 3))
    assert atoms(quick(x1, x2, y)).abs().max() < 0.05


def test_minimum_redundancy():
    (x1, x2, y), _ = gaussian_samples(2, 400)
    found = quick(x1.exp(), x2, y, redundancy="minimum")
    exact = quick(x1.exp(), x2, y)
    assert torch.minimum(found.unique_vision, found.unique_language) == 0
    assert torch.minimum(exact.unique_vision, exact.unique_language) > 0.1
    assert torch.equal(found.information, exact.information)


def test_units():
    (x1, x2, y), _ = gaussian_samples(1, 300)
    bits, nats = (quick(x1, x2.exp(), y, unit=unit) for unit in ("bits", "nats"))
    assert torch.allclose(atoms(nats), atoms(bits) * np.log(2))
    assert torch.allclose(atoms(bits.to("nats").bracket), atoms(nats.bracket))


# ---------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize("name", ["cubes", "exponentials"])
def test_invertible_linear_maps_of_each_variable(name):
    """Of independent coordinates: their axes are found again."""
    given, true = gaussian_samples(3, 5000)
    variables = [DISTORTIONS[name](x) for x in given]
    mixed = [x @ normal(3, 3, seed=seed) - 7 for seed, x in enumerate(variables)]
    found = quick(*mixed)
    assert worst(found, quick(*variables)) < 0.1
    assert worst(found, true) < 0.1


def test_linear_maps_of_gaussian_variables():
    given, _ = gaussian_samples(3, 1000)
    mixed = [1e3 * x @ normal(3, 3, seed=seed) + 1 for seed, x in enumerate(given)]
    assert worst(quick(*mixed), quick(*given)) < 1e-8


def test_increasing_maps_of_each_coordinate():
    given, _ = gaussian_samples(2, 1000)
    found = [quick(*map(bent, given)) for bent in (torch.exp, torch.sinh)]
    assert worst(*found) < 0.02


def test_exchanging_the_sources():
    (x1, x2, y), _ = gaussian_samples(2, 400)
    one, other = quick(x1.exp(), x2**3, y), quick(x2**3, x1.exp(), y)
    assert torch.allclose(atoms(one)[[0, 2, 1, 3]], atoms(other), atol=0.01)


def test_a_constant_source_tells_nothing():
    (x1, _, y), _ = gaussian_samples(2, 400)
    found = quick(x1.exp(), torch.full((400, 5), 3.7), y)
    assert found.components["language"] == 0
    assert found.information_language == 0
    assert atoms(found).tolist() == pytest.approx([0, float(found.information), 0, 0], abs=1e-9)
    assert found.information > 0.3


def test_a_start_knows_its_jacobian():
    variables = [normal(300, 2).exp(), normal(300, 1, seed=1) ** 3]
    begun = start(variables, [True, False], [independent_axes(x) for x in variables])
    rows = torch.cat(variables, 1)[:5]
    _, volume = begun(rows)
    jacobians = torch.stack([jacobian(lambda x: begun(x[None])[0][0], r) for r in rows])
    assert torch.allclose(volume, torch.linalg.slogdet(jacobians).logabsdet)


@pytest.mark.parametrize("joint", [False, True])
def test_a_flow_knows_its_jacobian_and_mixes_only_when_joint(joint):
    flow = Flow(Shape((2, 1), transforms=2, joint=joint))
    generator = torch.Generator().manual_seed(0)
    for parameter in flow.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    rows = normal(5, 3)
    _, volume = flow(rows)
    jacobians = torch.stack([jacobian(lambda x: flow(x[None])[0][0], row) for row in rows])
    assert torch.allclose(volume, torch.linalg.slogdet(jacobians).logabsdet)
    assert bool((jacobians[:, :2, 2] != 0).any()) == joint


def test_independent_axes_are_found():
    sources = normal(4000, 3) ** 3
    mixed = sources @ normal(3, 3, seed=1)
    found = mixed @ independent_axes(mixed).mT
    correlations = torch.corrcoef(torch.cat([found, sources], 1).mT)[:3, 3:].abs()
    assert (correlations.amax(0) > 0.98).all()


def test_equal_values_are_no_obstacle():
    """Half of each variable's values are one value."""
    (x1, x2, y), _ = gaussian_samples(1, 500)
    found = quick(x1.relu(), x2.relu(), y.relu())
    assert torch.isfinite(atoms(found)).all()
    assert found.information > 0.1


# ---------------------------------------------------------------- joint flows


@pytest.fixture(scope="module")
def exponential():
    """X and Y = X + noise, of which X tells .8327 bits, Euler's constant in nats; and X2 apart."""
    x, noise, other = (
        -torch.rand(3, 4000, 1, generator=torch.Generator().manual_seed(0)).log()
    ).double()
    return x, other, x + noise


def test_own_flows_are_a_lower_bound(exponential):
    found = quick(*exponential)
    assert 0.4 < found.information_vision < 0.8327
    assert found.doubtful


def test_a_joint_flow_changes_mutual_information(exponential):
    """And looks more Gaussian for it."""
    own, joint = quick(*exponential), quick(*exponential, joint=True)
    assert joint.information_vision < 0.1
    assert joint.gain > own.gain
    assert own.gaussianity["joint"][1].clear
    assert not joint.gaussianity["joint"][1].clear


# ---------------------------------------------------------------- reports


KNOWN_MOMENTS = {
    "normal": (lambda x: x, 0, 0),
    "two points": (torch.sign, 0, -2 / 3),
    "exponential": (lambda x: -torch.special.log_ndtr(x), 4, 2),
    "uniform": (torch.special.ndtr, 0, -0.4),
}


@pytest.mark.parametrize("name", KNOWN_MOMENTS)
def test_moments_of_known_distributions(name):
    bend, skewness, kurtosis = KNOWN_MOMENTS[name]
    found = gaussianity(bend(normal(40000, 1)))
    assert found.skewness == pytest.approx(skewness, abs=0.3 if skewness else 0.01)
    assert found.kurtosis == pytest.approx(kurtosis, abs=0.3 if skewness else 0.02)
    assert found.clear == (name != "normal")


def test_moments_have_the_errors_they_say():
    found = [gaussianity(normal(300, 4, seed=seed)) for seed in range(200)]
    for name in ("skewness", "kurtosis"):
        values = np.array([getattr(one, name) for one in found])
        error = getattr(found[0], f"{name}_error")
        assert abs(values.mean()) < 0.5 * error
        assert values.std() == pytest.approx(error, rel=0.25)
    assert sum(one.clear for one in found) <= 2


def test_moments_do_not_depend_on_axes():
    skewed = normal(500, 3).exp()
    one, other = gaussianity(skewed), gaussianity(skewed @ normal(3, 3, seed=1) + 2)
    assert other.skewness == pytest.approx(one.skewness)
    assert other.kurtosis == pytest.approx(one.kurtosis)


def test_the_report_says_before_and_after():
    (x1, x2, y), _ = gaussian_samples(2, 2000)
    found = quick(x1.exp(), x2**3, y)
    for name in ("vision", "language", "joint"):
        before, after = found.gaussianity[name]
        assert before.clear
        assert not after.clear
    assert not any(one.clear for one in found.gaussianity["answer"])
    assert "n=2000, 2+2+2 components, gain=" in repr(found)
    assert "doubtful" not in repr(found)


def test_what_no_flow_makes_gaussian_is_doubtful():
    x, noise = normal(2, 2000, 1)
    found = quick(x, normal(2000, 1, seed=1), x**2 + 0.3 * noise)
    assert found.information < 0.05
    assert found.doubtful
    assert "doubtful" in repr(found)


# ---------------------------------------------------------------- components


def test_as_many_components_as_the_variance_needs():
    x = normal(500, 4) * torch.tensor([10.0, 5.0, 2.0, 0.1])
    kept = [principal_components(x, share, None).values.shape[1] for share in (0.5, 0.95, 0.99, 1)]
    assert kept == [1, 2, 3, 4]
    found = principal_components(x, 0.95, None)
    expected = torch.tensor([100.0, 25, 4, 0.01])
    assert found.share == pytest.approx(float(expected[:2].sum() / expected.sum()), abs=0.01)
    assert torch.allclose(
        torch.cov(found.values.mT, correction=0), torch.eye(2).double(), atol=1e-6
    )
    assert principal_components(x, 1, 3).values.shape[1] == 3


def test_wide_variables_have_the_components_of_narrow_ones():
    narrow = normal(60, 3) * torch.tensor([3.0, 2.0, 1.0])
    wide = narrow @ torch.linalg.qr(normal(200, 3, seed=1)).Q.mT
    one, other = (principal_components(x, 0.9, 2).values for x in (narrow, wide))
    assert torch.allclose((one.mT @ other / 60).abs(), torch.eye(2).double(), atol=1e-6)
    assert principal_components(wide, 1, None).values.shape[1] == 3


def test_components_do_not_depend_on_the_order_of_samples():
    x = normal(80, 5).exp()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    one, other = (principal_components(rows, 0.9, None).values for rows in (x, x[order]))
    assert torch.allclose(one[order], other, atol=1e-8)


def test_coordinates_stay_where_nothing_is_left_out():
    x = normal(50, 3) * torch.tensor([3.0, 2.0, 1.0]) + 4
    found = principal_components(x, 1, None)
    assert found.whole
    assert torch.allclose(found.values, (x - x.mean(0)) / x.std(0, correction=0))


def test_the_rounding_of_a_constant_has_no_components():
    x = (torch.full((50, 3), 12.3) + 1e-6 * normal(50, 3)).float().double()
    assert principal_components(x, 0.95, None).values.shape == (50, 0)


def test_wide_variables_are_reduced_and_narrow_ones_are_not():
    (x1, x2, y), _ = gaussian_samples(2, 400)
    wide = torch.cat([x1, 1e-3 * normal(400, 15)], 1)
    assert quick(wide, x2, y, steps=0).components == {"answer": 2, "vision": 2, "language": 2}
    assert quick(wide[:, :16], x2, y, steps=0).components["vision"] == 16
    assert quick(wide, x2, y, steps=0, components=1).components["vision"] == 1
    assert quick(wide, x2, y, steps=0).variance["vision"] > 0.99


def test_many_components_are_a_warning():
    (x1, x2, y), _ = gaussian_samples(4, 110)
    with pytest.warns(UserWarning, match=r"12 components of 110 samples.*components="):
        quick(x1, x2, y, steps=5)


# ---------------------------------------------------------------- states


def reads(n=200, layers=2):
    y, one, two = (normal(layers, n, 2, seed=seed).float() for seed in range(3))
    plain = Reads.from_posteriors(torch.zeros(layers, 1, n, 1), conditions=["full"])
    states = {"image": (y + one).exp(), "question": (y[:1] + two) ** 3, "answer": y.sinh()}
    return replace(plain, states=states)


def flow(**settings):
    return FlowPID(steps=15, progress=False, **settings)


def test_batches_merges_orders_and_repeats_give_one_result():
    whole = flow().update(reads()).result()
    streamed, half = flow(), flow()
    wrong = reads().rows(range(10))
    streamed.update(replace(wrong, states={k: -x for k, x in wrong.states.items()}))
    for at in range(0, 100, 17):
        streamed.update(reads().rows(range(at, min(at + 17, 100))))
    half.update(reads().rows(range(199, 99, -1)))
    merged = streamed.merge(half).result()
    assert torch.equal(atoms(whole), atoms(merged))
    assert torch.equal(atoms(whole.bracket), atoms(merged.bracket))
    assert sorted(merged.ids) == sorted(whole.ids)


def test_a_result_may_be_asked_for_twice_and_leaves_chance_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    estimator = flow().update(reads())
    first, second = estimator.result(), estimator.result()
    assert torch.equal(atoms(first), atoms(second))
    assert first.settings == second.settings
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_flows_are_trained_where_gradients_are_off(mode):
    expected = flow().update(reads()).result()
    with mode():
        found = flow().update(reads()).result()
    assert torch.equal(atoms(found), atoms(expected))
    assert min(found.settings["gain"]) > 0.5


def test_variables_may_require_gradients():
    (x1, x2, y), _ = gaussian_samples(1, 100)
    found = quick(x1.exp().requires_grad_(), x2, y, steps=5)
    assert torch.equal(atoms(found), atoms(quick(x1.exp(), x2, y, steps=5)))


@pytest.mark.parametrize("target", ["last", "same"])
def test_the_target_is_the_last_layer_or_the_same(target):
    found = flow(target=target).update(reads()).result()
    order = sorted(range(200), key=str)
    states = {k: x[:, order].double() for k, x in reads().states.items()}
    for layer in range(2):
        y = states["answer"][layer if target == "same" else -1]
        one = quick(states["image"][layer], states["question"][layer], y, steps=15)
        assert torch.allclose(atoms(found)[layer], atoms(one), atol=1e-9)
        assert found.settings["gain"][layer] == pytest.approx(one.gain)
    assert found.settings["target"] == target


def test_a_spectrum_of_flows_can_be_stored(tmp_path):
    found = flow(unit="nats").update(reads()).result()
    found.save(tmp_path / "s.safetensors")
    again = type(found).load(tmp_path / "s.safetensors")
    assert torch.equal(atoms(again), atoms(found))
    assert again.settings == found.settings
    assert again.settings["kept"] == {name: [2, 2] for name in ("answer", "vision", "language")}
    assert again.settings["gaussianity"]["joint"]["before"][0][0] > 1
    assert "FlowPID(" in repr(again)
    assert torch.equal(atoms(found - again), torch.zeros(2, 4).double())


@pytest.fixture(scope="module")
def digits_reads(digits_model):
    model, processor = digits_model
    states = [Pooled("image"), Pooled("question"), Pooled("answer")]
    lens = Lens(model, processor, conditions={"full": ()}, states=states)
    with torch.no_grad():
        for batch in demo.batches("synergy"):
            with lens(batch):
                model(**batch.inputs)
    return lens.reads


def test_curves_of_the_digits_model_are_stable_over_seeds(digits_reads):
    one, other = (
        FlowPID(seed=seed, progress=False).update(digits_reads).result() for seed in (0, 1)
    )
    for name in ATOMS:
        curves = torch.stack([getattr(one, name), getattr(other, name)])
        assert torch.corrcoef(curves)[0, 1] > 0.95, name
    assert one.settings["gain"] != other.settings["gain"]
    assert min(one.settings["gain"]) > 3
    assert one.doubtful.all(), "digits are ten clusters"


# ---------------------------------------------------------------- bad input


GOOD = [normal(120, 2, seed=seed) for seed in range(3)]
BAD = {
    "NaN": ((GOOD[0] * torch.nan, *GOOD[1:]), {}, ValueError, "vision has NaN"),
    "other lengths": ((GOOD[0][:60], *GOOD[1:]), {}, ValueError, "of one n"),
    "no axis of samples": ([x[0] for x in GOOD], {}, ValueError, "n, width"),
    "a list": ((GOOD[0].tolist(), *GOOD[1:]), {}, TypeError, "list"),
    "few samples": ([x[:40] for x in GOOD], {}, ValueError, "at least 50 samples; got 40"),
    "y is in x1": ((torch.cat([GOOD[0], GOOD[2]], 1), *GOOD[1:]), {}, ValueError, "X1 determines"),
    "more components than samples": (
        [normal(90, 40, seed=seed) for seed in range(3)],
        {},
        ValueError,
        "components in 3 folds need at least .* samples; got 90",
    ),
}


@pytest.mark.filterwarnings("ignore:.*components of .* samples")
@pytest.mark.parametrize(("variables", "more", "error", "words"), BAD.values(), ids=BAD)
def test_bad_variables_are_an_error(variables, more, error, words):
    with pytest.raises(error, match=words):
        quick(*variables, **more)


SETTINGS = {
    "redundancy": "blackwell",
    "unit": "bytes",
    "variance": 0,
    "components": 0,
    "transforms": 0,
    "steps": -1,
    "folds": 1,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_checked_at_once(name):
    wrong = {name: SETTINGS[name]}
    with pytest.raises(ValueError, match=name):
        quick(*GOOD, **wrong)
    with pytest.raises(ValueError, match=name):
        FlowPID(**wrong)


def test_an_unknown_target_is_an_error():
    with pytest.raises(ValueError, match="target must be one of"):
        FlowPID(target="first")


def test_missing_states_are_named():
    plain = replace(reads(), states={"image": reads().states["image"]})
    with pytest.raises(ValueError, match=r"lack the states answer, question.*Pooled\('image'\)"):
        FlowPID().update(plain)


def test_states_that_are_not_numbers_are_named():
    given = reads()
    given.states["question"][1, 3] = torch.nan
    with pytest.raises(ValueError, match="'question' is NaN or infinite"):
        flow().update(given).result()


def test_a_result_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        FlowPID().result()


def test_other_settings_do_not_merge():
    with pytest.raises(ValueError, match="equal settings"):
        FlowPID(seed=0).merge(FlowPID(seed=1))


def test_a_relation_without_error_is_named():
    """Told exactly, and not linearly: the likelihood grows for ever."""
    x = normal(300, 1)
    with pytest.raises(ValueError, match="no bound"):
        gaussianise([x, x.clone()], [True, True])


def test_without_zuko_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.transforms", None)
    with pytest.raises(ImportError, match="pip install zuko"):
        quick(*GOOD)
