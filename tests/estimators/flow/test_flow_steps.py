"""The steps of a flow: components, independent axes, starts, moments, likelihood."""

import math

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from pid_lens.estimators.flow.axes import independent_axes
from pid_lens.estimators.flow.gaussianise import gaussianise
from pid_lens.estimators.flow.gaussianity import gaussianity
from pid_lens.estimators.flow.reduction import principal_components
from pid_lens.estimators.flow.splines import Flow, Shape
from pid_lens.estimators.flow.start import starting_flow


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- maps


def test_a_start_knows_its_jacobian():
    variables = [normal(300, 2).exp(), normal(300, 1, seed=1) ** 3]
    begun = starting_flow(variables, [True, False], [independent_axes(x) for x in variables])
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


def test_a_direction_without_error_has_no_likelihood():
    x = normal(300, 1)
    with pytest.raises(ValueError, match="no bound"):
        gaussianise([x, x.clone()], [True, True])


# ---------------------------------------------------------------- moments


KNOWN_MOMENTS = {
    "normal": (lambda x: x, 0, 0),
    "two points": (torch.sign, 0, -2 / 3),
    "exponential": (lambda x: -torch.special.log_ndtr(x), 4, 2),
    "laplacian": (lambda x: x.sign() * torch.special.log_ndtr(-x.abs()).add(math.log(2)), 0, 1),
    "uniform": (torch.special.ndtr, 0, -0.4),
}


@pytest.mark.parametrize("name", KNOWN_MOMENTS)
def test_moments_of_known_distributions(name):
    bend, skewness, kurtosis = KNOWN_MOMENTS[name]
    found = gaussianity(bend(normal(40000, 1)))
    assert found.skewness == pytest.approx(skewness, abs=0.3 if skewness else 0.01)
    assert found.kurtosis == pytest.approx(kurtosis, abs=0.3 if kurtosis > 0 else 0.02)
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


def test_a_large_offset_is_no_constant_and_constants_do_not_count():
    x = normal(50, 2)
    far = principal_components(x + 1e6, 1, None)
    assert far.whole
    assert torch.allclose(far.values, principal_components(x, 1, None).values, atol=1e-8)
    padded = torch.cat([torch.full((50, 2), 1e6).double(), x], 1)
    assert torch.equal(
        principal_components(padded, 1, None).values, principal_components(x, 1, None).values
    )
