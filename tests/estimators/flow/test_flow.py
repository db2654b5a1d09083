"""Flows: known atoms behind distortions, what changes nothing, reports, states, bad input."""

import math
import sys

import numpy as np
import pytest
import torch

from pid_lens import truth
from pid_lens.estimators import flow_pid, gaussian_pid, gaussian_pid_samples
from pid_lens.results import ATOMS

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


def test_variables_may_require_gradients():
    (x1, x2, y), _ = gaussian_samples(1, 100)
    found = quick(x1.exp().requires_grad_(), x2, y, steps=5)
    assert torch.equal(atoms(found), atoms(quick(x1.exp(), x2, y, steps=5)))


def coupled(d=2, n=400, images=100, seed=0):
    """Clusters of four equal sources, and answers that go with a code of the cluster."""
    of = torch.arange(n) % images
    x = normal(images, d, seed=seed)[of]
    y = normal(images, d, seed=seed + 1)[of] + 0.1 * normal(n, d, seed=seed + 2)
    return of, x, y


def test_clusters_widen_errors_and_are_held_out_together():
    of, x, y = coupled()
    noise = normal(400, 2, seed=9)
    plain, grouped = (quick(x, noise, y, groups=g) for g in (None, of))
    assert grouped.standard_error("information") > 1.5 * plain.standard_error("information")
    labels = quick(x, noise, y, groups=[f"image {i}" for i in of.tolist()])
    assert torch.equal(atoms(labels), atoms(grouped))
    assert labels.standard_error("synergy") == grouped.standard_error("synergy")
    with pytest.raises(ValueError, match="400 samples need as many groups"):
        quick(x, noise, y, groups=of[1:])


# ---------------------------------------------------------------- no flow at all


SINGULAR = {
    "one source twice": lambda x: x,
    "a linear map": lambda x: 2 * x + 1,
    "a shared coordinate": lambda x: torch.cat([x[:, :1], normal(len(x), 1, seed=7)], 1),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_sources_that_share_a_direction_have_the_closed_form_and_a_doubt(name):
    (x1, _, y), _ = gaussian_samples(2, 400)
    x2 = SINGULAR[name](x1)
    found, plain = quick(x1, x2, y), gaussian_pid_samples(y, x1, x2)
    assert not found.bounded
    assert found.doubtful
    assert found.gain == 0
    assert torch.allclose(atoms(found), atoms(plain.plug_in), atol=1e-6)


# ---------------------------------------------------------------- constants, offsets, doubts


def test_offsets_and_constant_coordinates_change_nothing():
    (x1, x2, y), _ = gaussian_samples(2, 900)
    given = [x1.exp(), x2.exp(), y.exp()]
    plain = quick(*given)
    one = torch.ones(900, 1, dtype=torch.float64)
    padded = quick(*(torch.cat([x, 7.3 * one], 1) for x in given))
    moved = quick(given[0] + 1e6, *given[1:])
    for other in (padded, moved):
        assert other.components == plain.components
        assert torch.allclose(atoms(other), atoms(plain), atol=2e-3)
        assert other.doubtful == plain.doubtful


@pytest.mark.parametrize("seed", range(3))
def test_doubts_do_not_depend_on_the_unit(seed):
    (x1, x2, y), _ = gaussian_samples(2, 80, seed=seed)
    bits, nats = (quick(x1, x2, y, unit=unit, steps=0) for unit in ("bits", "nats"))
    assert bits.doubtful == nats.doubtful == bits.to("nats").doubtful
    assert nats.width == pytest.approx(bits.width * math.log(2))
    assert bits.to("nats").width == pytest.approx(nats.width)


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


def test_without_zuko_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.transforms", None)
    with pytest.raises(ImportError, match="pip install zuko"):
        quick(*GOOD)
