"""Mutual information from samples: known truths, honest errors, bad input."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from draws import folded, generator, images, normal, student
from paths import SHARED

from pid_lens.estimators import mutual_information

STORED = SHARED / "reference/mi_tasks.npz"
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


def test_repeated_images_are_no_knowledge():
    x, y, image = images()
    assert mutual_information(x, y).value > 1
    for method in ("infonce", "ksg"):
        value, error, _ = mutual_information(x, y, method=method, groups=image)
        assert -0.3 < value < 2 * error < 0.6


@pytest.mark.parametrize("method", ["gaussian", "ksg"])
def test_errors_count_clusters_once(method):
    """Four questions on each of 250 images, all of them but the same."""
    x, y, _ = normal(n=250)
    few = mutual_information(x, y, method=method)
    x, y = (z.repeat(4, 1) + 1e-6 * torch.randn(1000, 2, generator=generator()) for z in (x, y))
    image = [f"image {row % 250}" for row in range(1000)]
    found = mutual_information(x, y, method=method, groups=image)
    assert found.error == pytest.approx(few.error, rel=0.4)
    if method == "gaussian":
        assert mutual_information(x, y, method=method).error == pytest.approx(
            few.error / 2, rel=0.02
        )


@pytest.mark.parametrize("method", ["infonce", "gaussian", "ksg"])
def test_clusters_of_one_change_no_value(method):
    x, y, _ = normal(n=150)
    alone, clustered = (
        mutual_information(x, y, method=method, groups=groups) for groups in (None, range(150))
    )
    assert clustered.value == pytest.approx(alone.value, abs=1e-9 if method != "infonce" else 0.2)
    assert clustered.cap == alone.cap


def test_monotone_maps_of_each_coordinate_change_nothing():
    x, y, _ = normal(n=150)
    assert mutual_information(x.exp(), -(y**3)).value == pytest.approx(
        mutual_information(x, -y).value, abs=1e-9
    )


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
    assert [*nats] == pytest.approx([v * math.log(2) for v in bits])
    assert (bits.unit, nats.unit) == ("bits", "nats")
    assert "3.000±" in repr(replace(nats, value=3.0))
    assert replace(nats, value=3.0).unit == "nats"
    assert nats == replace(nats) != replace(nats, unit="bits")
    assert mutual_information(x[:, 0], y.float()[:, 0]).value == pytest.approx(bits.value)
    assert "bits, cap" in repr(bits)


@pytest.mark.parametrize("constant", [torch.zeros(150, 2), torch.ones(150, 1)])
def test_a_constant_tells_nothing(constant):
    x, _, _ = normal(n=150)
    assert mutual_information(x, constant).value == pytest.approx(0, abs=0.02)
    assert mutual_information(x, constant, method="gaussian").value == pytest.approx(0, abs=0.02)


def test_directions_that_are_none_have_no_bias():
    x, y, _ = normal(n=150)
    twice = torch.cat([x, x], 1)
    plain, wide = (mutual_information(z, y, method="gaussian") for z in (x, twice))
    assert wide.value == pytest.approx(plain.value, abs=1e-9)


@pytest.mark.parametrize("method", ["infonce", "gaussian", "ksg"])
def test_values_that_require_gradients(method):
    x, y, _ = normal(n=150)
    plain = mutual_information(x, y, method=method)
    assert mutual_information(x.requires_grad_(), y.requires_grad_(), method=method) == plain


def test_ties_have_no_neighbours():
    x, y, _ = normal(1, 0.0, n=600)
    for tied in (lambda z: (z > 0).double(), torch.relu):
        with pytest.raises(ValueError, match=r"equal sample .* method='infonce'"):
            mutual_information(tied(x), tied(y), method="ksg")
        assert mutual_information(tied(x), tied(y)).value == pytest.approx(0, abs=0.05)
        found = mutual_information(tied(x), y, method="ksg")
        assert found.value == pytest.approx(0, abs=3 * found.error + 0.05)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"x": "abc"}, TypeError, "x must be"),
        ({"y": torch.randn(80, 2)}, ValueError, "of one n"),
        ({"x": torch.randn(2, 150, 2)}, ValueError, r"\[n, width\]"),
        ({"x": torch.full((150, 2), math.nan)}, ValueError, "x has NaN"),
        ({"y": torch.arange(150.0).log()}, ValueError, "1 of 150 rows, first in row 0: leave"),
        ({"groups": [1, 2]}, ValueError, "150 samples need as many groups"),
        ({"groups": [0] * 150}, ValueError, "folds need as many samples or clusters"),
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
