"""Principal components: the same by every route."""

from __future__ import annotations

import pytest
import torch

from pid_lens.estimators.common.pca import principal_axes


def falling(n, width, decay=0.8):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, width, generator=generator, dtype=torch.float64)
    rows = rows * decay ** torch.arange(width)
    return rows - rows.mean(0)


@pytest.mark.parametrize(
    ("n", "width", "most"), [(200, 30, None), (30, 200, None), (300, 90, 5), (90, 300, 5)]
)
def test_axes_and_variances_are_those_of_the_singular_values(n, width, most):
    rows = falling(n, width)
    variances, axes = principal_axes(rows, most)
    _, deviations, expected = torch.linalg.svd(rows, full_matrices=False)
    kept = most or 20
    torch.testing.assert_close(
        variances[:kept], deviations[:kept].square() / n, rtol=1e-6, atol=1e-12
    )
    overlap = (axes[:, :kept].mT @ expected[:kept].mT).abs()
    torch.testing.assert_close(overlap, torch.eye(kept).double(), rtol=0, atol=1e-3)
    scores = rows @ axes[:, :kept]
    torch.testing.assert_close(scores.square().mean(0), variances[:kept], rtol=1e-6, atol=1e-12)


def test_many_layers_are_each_decomposed_by_themselves():
    layers = torch.stack([falling(40, 6), falling(40, 6, 0.5)])
    variances, axes = principal_axes(layers)
    for layer, rows in enumerate(layers):
        alone = principal_axes(rows)
        torch.testing.assert_close(variances[layer], alone[0])
        torch.testing.assert_close(axes[layer].abs(), alone[1].abs())


def test_directions_without_variance_have_no_axis():
    rows = falling(50, 4) @ falling(60, 4).mT
    variances, axes = principal_axes(rows)
    assert (variances > 0).sum() == 4
    assert (axes[:, 4:] == 0).all()
    assert axes.isfinite().all()


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    one, other = (principal_axes(falling(300, 90), 5, seed=3)[1] for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())
