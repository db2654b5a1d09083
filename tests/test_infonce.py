"""Mutual information by critics: known truths, honest errors, laws of the estimator."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pid_lens import Reads
from pid_lens.estimators.infonce.copula import coordinates, normal_scores
from pid_lens.estimators.infonce.critics import RECIPES, pointwise_information, trained
from pid_lens.estimators.infonce.held_out import held_out
from pid_lens.estimators.infonce.infonce import InfoNCE
from pid_lens.estimators.infonce.information import mutual_information

STORED = Path(__file__).parents[2] / "shared/reference/mi_tasks.npz"
TASKS = (
    "1v1-additive-0.75",
    "swissroll_x-normal_cdf-1v1-normal-0.75",
    "multinormal-dense-50-50-0.5",
    "half_cube-multinormal-sparse-5-5-2-2.0",
    "multinormal-sparse-25-25-2-2.0",
    "student-identity-2-2-1",
    "asinh-student-identity-5-5-2",
    "spiral-normal_cdf-multinormal-sparse-5-5-2-2.0",
)
DEFAULT = RECIPES["default"]
QUICK = replace(DEFAULT, steps=100, every=10)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(d=2, rho=0.7, n=900, seed=0):
    """Pairs of correlation rho in each of d dimensions, and their information in nats."""
    x, noise = torch.randn(2, n, d, generator=generator(seed), dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -d / 2 * math.log(1 - rho**2)


def student(d=2, n=1500, seed=0):
    """Independent normals over one common chi: what they share is their scale. One degree."""
    z = torch.randn(n, 2 * d + 1, generator=generator(seed), dtype=torch.float64)
    x = z[:, :-1] / z[:, -1:].abs()

    def entropy(k):
        at = torch.tensor([0.5, (1 + k) / 2, (1 + k) / 2], dtype=torch.float64)
        gamma, psi = torch.lgamma(at), torch.digamma(at)
        return gamma[0] - gamma[1] + k / 2 * math.log(math.pi) + (1 + k) / 2 * (psi[1] - psi[0])

    return x[:, :d], x[:, d:], float(2 * entropy(d) - entropy(2 * d))


def folded(n=1500, seed=0):
    """A sign and a size, and the size with noise: no correlation at all."""
    x, noise = torch.randn(2, n, 1, generator=generator(seed), dtype=torch.float64)
    x = x.sign() * (1 + 0.2 * x.abs())
    sign = torch.randint(2, (n, 1), generator=generator(seed + 1)) * 2 - 1
    return x * sign, x.abs() + 0.1 * noise


# ---------------------------------------------------------------- known truths


@pytest.mark.parametrize("method", ["infonce", "gaussian", "ksg"])
@pytest.mark.parametrize(("d", "rho"), [(1, 0.0), (1, 0.7), (2, 0.9)])
def test_normal_pairs(method, d, rho):
    x, y, truth = normal(d, rho)
    value, error, cap = mutual_information(x, y, method=method, unit="nats")
    assert value == pytest.approx(truth, abs=3 * error + 0.05 + 0.05 * truth)
    assert 0 < error < 0.1
    assert cap > value


def test_what_no_correlation_shows():
    x, y, truth = student()
    assert truth - 0.15 < mutual_information(x, y, unit="nats").value < truth + 0.05
    assert mutual_information(x, y, method="gaussian", unit="nats").value < 0.05
    assert mutual_information(*folded()).value > 0.3


def test_many_dimensions_of_which_one_matters():
    x, noise = torch.randn(2, 900, 20, generator=generator(), dtype=torch.float64)
    y = torch.cat([0.95 * x[:, :1] + math.sqrt(1 - 0.95**2) * noise[:, :1], noise[:, 1:]], 1)
    truth = -math.log(1 - 0.95**2) / 2
    assert mutual_information(x, y, unit="nats").value == pytest.approx(truth, abs=0.1)


@pytest.mark.skipif(not STORED.exists(), reason="the stored tasks are not part of the checkout")
def test_stored_tasks():
    """All 40 with three seeds are in tests/benchmarks/mutual_information.py."""
    tasks = np.load(STORED)
    truth = dict(zip(tasks["names"].tolist(), tasks["mi_nats"].tolist(), strict=True))
    errors = [
        mutual_information(tasks[f"{k}__X"], tasks[f"{k}__Y"], unit="nats").value - truth[k]
        for k in TASKS
    ]
    assert np.mean(np.abs(errors)) < 0.09
    assert max(errors) < 0.05


def test_monotone_maps_of_each_coordinate_change_nothing():
    x, y, _ = normal(n=150)
    assert mutual_information(x.exp(), -(y**3)).value == pytest.approx(
        mutual_information(x, -y).value, abs=1e-9
    )


def test_the_error_is_the_spread_over_samples():
    """Under one critic: a sample counts in the denominators of all others too."""
    x, y, _ = normal(1, 0.9, 20000)
    slope, curve = 0.9 / (1 - 0.9**2), 0.9**2 / (2 * (1 - 0.9**2))
    values, errors = [], []
    for a, b in zip(x.split(200), y.split(200), strict=True):
        score = slope * a @ b.mT - curve * (a**2 + (b**2).mT)
        pointwise = pointwise_information(score)
        both = score.log_softmax(0) + score.log_softmax(1)
        torch.testing.assert_close(pointwise.mean(), both.diagonal().mean() / 2 + math.log(200))
        values.append(pointwise.mean())
        errors.append(pointwise.std() / math.sqrt(200))
    ratio = float(torch.stack(values).std() / torch.stack(errors).mean())
    assert ratio == pytest.approx(1, abs=0.2)


def test_a_bound_cannot_exceed_the_log_of_its_samples():
    scores = 50 * torch.randn(30, 30, generator=generator()).double()
    assert pointwise_information(scores + 1e4 * torch.eye(30)).mean() <= math.log(30) + 1e-9
    assert pointwise_information(torch.zeros(30, 30)).abs().max() < 1e-6


def test_near_the_cap_there_is_a_warning():
    x = torch.randn(150, 2, generator=generator())
    with pytest.warns(UserWarning, match="more samples"):
        found = mutual_information(x, x)
    assert found.near_cap
    assert found.cap == pytest.approx(math.log2(50))
    with pytest.warns(UserWarning, match="more samples"):
        assert mutual_information(x, x, method="ksg").near_cap
    with pytest.raises(ValueError, match="without error"):
        mutual_information(x, x, method="gaussian")


def test_units_and_shapes():
    x, y, _ = normal(1, n=150)
    bits, nats = (mutual_information(x, y.numpy(), unit=unit) for unit in ("bits", "nats"))
    assert np.array(nats) == pytest.approx(np.array(bits) * math.log(2))
    assert (bits.unit, nats.unit) == ("bits", "nats")
    assert mutual_information(x[:, 0], y.float()[:, 0]).value == pytest.approx(bits.value)
    assert "bits, cap" in repr(bits)


@pytest.mark.parametrize("constant", [torch.zeros(150, 2), torch.ones(150, 1)])
def test_a_constant_tells_nothing(constant):
    x, _, _ = normal(n=150)
    assert mutual_information(x, constant).value == pytest.approx(0, abs=0.02)
    assert mutual_information(x, constant, method="gaussian").value == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"x": "abc"}, TypeError, "x must be"),
        ({"y": torch.randn(80, 2)}, ValueError, "of one n"),
        ({"x": torch.randn(2, 150, 2)}, ValueError, r"\[n, width\]"),
        ({"x": torch.full((150, 2), math.nan)}, ValueError, "x has NaN"),
        ({"method": "mine"}, ValueError, "method must be"),
        ({"unit": "bans"}, ValueError, "unit must be"),
        ({"x": torch.randn(149, 2), "y": torch.randn(149, 2)}, ValueError, "50 samples"),
        ({"x": torch.randn(150, 148), "method": "gaussian"}, ValueError, "more samples than"),
        ({"x": torch.randn(9, 2), "y": torch.randn(9, 2), "method": "ksg"}, ValueError, "ksg"),
    ],
)
def test_bad_input(change, error, said):
    given = {"x": torch.randn(150, 2), "y": torch.randn(150, 2), **change}
    with pytest.raises(error, match=said):
        mutual_information(given.pop("x"), given.pop("y"), **given)


# ---------------------------------------------------------------- parts


def test_normal_scores_keep_order_and_ties():
    x = torch.tensor([[3.0, 1.0], [1.0, 1.0], [3.0, 1.0], [7.0, 1.0]], dtype=torch.float64)
    scores = normal_scores(x)
    assert scores[0, 0] == scores[2, 0] > scores[1, 0]
    assert scores[3, 0] == scores[:, 0].max()
    assert (scores[:, 1] == 0).all()
    torch.testing.assert_close(normal_scores(scores), scores)


def test_training_that_does_not_end_is_reported():
    x, y = (coordinates(z) for z in normal(n=200)[:2])
    with pytest.warns(UserWarning, match="still getting better after 20 steps"):
        trained(x, y, replace(QUICK, steps=20), torch.arange(200), generator())


def test_one_encoder_needs_one_width():
    with pytest.raises(ValueError, match="one width; got 2 and 3"):
        held_out(torch.randn(150, 2), torch.randn(150, 3), RECIPES["paper"])


# ---------------------------------------------------------------- the estimator


def reads_of(n=100, layers=2, d=2, seed=0, labels=None):
    """A state that knows more of the last one from layer to layer, and is it in the end."""
    last, noise = torch.randn(2, n, d, generator=generator(seed))
    clear = torch.linspace(0, 1, layers)[:, None, None]
    reads = Reads.from_posteriors(
        torch.zeros(layers, 1, n, 1), conditions=["full"], labels=labels, settings={"model": "m"}
    )
    image = 2 * clear * last + noise
    return replace(reads, states={"image": image, "answer": last.expand(layers, -1, -1)})


def estimator(**settings):
    return InfoNCE(**{"x": "image", "folds": 2, "progress": False, **settings})


@pytest.fixture(scope="module")
def reads():
    return reads_of()


@pytest.fixture(scope="module")
def curve(reads):
    return estimator().update(reads).result()


def same(one, other):
    assert one.ids == other.ids
    return torch.equal(one.pointwise, other.pointwise)


def test_layers_as_curves(curve, reads):
    assert curve.value[1] > 0.5 > curve.value[0] > -0.5
    assert curve.pointwise.shape == (2, 100)
    assert curve.cap.tolist() == pytest.approx([math.log2(50)] * 2)
    assert curve.ids == tuple(sorted(reads.ids))
    assert curve.settings["model"] == "m"
    assert "I(image; answer of the last layer)" in repr(curve)


def test_the_order_of_arrival_does_not_matter(curve, reads):
    order = torch.randperm(100, generator=generator()).tolist()
    parts = [reads.rows(order[at : at + 40]) for at in range(0, 100, 40)]
    streamed = estimator()
    for part in parts:
        assert streamed.update(part) is streamed
    assert same(streamed.result(), curve)
    assert same(streamed.result(), curve)
    merged = estimator().update(parts[2])
    other = estimator().update(parts[0]).update(parts[1])
    assert merged.merge(other) is merged
    assert same(merged.result(), curve)


def test_a_sample_read_again_replaces_its_record(curve, reads):
    other = replace(reads, states={name: x.flip(1) for name, x in reads.states.items()})
    assert same(estimator().update(other.rows(range(30))).update(reads).result(), curve)


def test_layers_know_nothing_of_each_other(curve, reads):
    alone = replace(
        reads,
        layers=(1,),
        log_probs=reads.log_probs[1:2],
        states={name: x[1:2] for name, x in reads.states.items()},
    )
    assert torch.equal(estimator().update(alone).result().pointwise[0], curve.pointwise[1])


def test_nothing_else_is_random(reads):
    before = torch.get_rng_state()
    with torch.inference_mode():
        estimator().update(reads).result()
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_and_unit(curve, reads):
    assert not same(estimator(seed=1).update(reads).result(), curve)
    nats = estimator(unit="nats").update(reads).result()
    torch.testing.assert_close(nats.pointwise, curve.to("nats").pointwise)
    torch.testing.assert_close(nats.cap, curve.to("nats").cap)


def test_target_of_the_same_layer():
    reads = reads_of(layers=2)
    states = {**reads.states, "other": reads.states["image"] ** 3}
    estimate = estimator(y="other", target="same").update(replace(reads, states=states))
    with pytest.warns(UserWarning, match="at layers 0, 1: the information is large"):
        assert estimate.result().near_cap.all()


def test_label_in_place_of_a_state():
    """A normal whose mean is +1 or -1 tells .486 bits of its sign."""
    labels = torch.arange(400) % 2
    reads = reads_of(400, layers=1, d=1, labels=labels)
    states = {"image": reads.states["image"] + (2 * labels - 1)[:, None]}
    found = estimator(y="label").update(replace(reads, states=states)).result()
    assert float(found.value) == pytest.approx(0.486, abs=2 * float(found.error) + 0.05)
    with pytest.raises(ValueError, match="400 of 400 samples have no label"):
        estimator(y="label").update(replace(reads, labels=torch.full((400,), -1))).result()


def test_constants_of_the_paper():
    reads = reads_of(layers=1)
    states = {**reads.states, "image": reads.states["image"] + 3 * reads.states["answer"]}
    found = estimator(constants="paper").update(replace(reads, states=states)).result()
    assert found.cap.tolist() == pytest.approx([math.log2(25)])
    assert found.value > 0.2


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "next"},
        {"constants": "theirs"},
        {"unit": "bans"},
        {"components": 0},
        {"folds": 1},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        InfoNCE(**settings)


def test_bad_reads(reads):
    with pytest.raises(ValueError, match=r"call update\(reads\) first"):
        estimator().result()
    with pytest.raises(ValueError, match="lack the states question; they have image, answer"):
        estimator(x="question").update(reads)
    with pytest.raises(ValueError, match="50 samples"):
        estimator().update(reads.rows(range(99))).result()
    with pytest.raises(ValueError, match="equal settings merge"):
        estimator().merge(estimator(seed=1))
    broken = reads.states["image"].clone()
    broken[1, 4] = math.nan
    reads = replace(reads, states={**reads.states, "image": broken})
    with pytest.raises(ValueError, match="'image' is NaN or infinite, first at layer 1, sample"):
        estimator().update(reads).result()
