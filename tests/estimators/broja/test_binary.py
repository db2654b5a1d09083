"""Two answers: the closed form against the iterative solver, and its own proof."""

import math

import pytest
import torch

from pid_lens.estimators.broja.solver.binary import solve_binary
from pid_lens.estimators.broja.solver.interior_point import solve
from pid_lens.estimators.common.entropy import entropy

SHAPES = [(2, 2), (3, 6), (7, 4), (1, 5)]


def tables(shape, seed, sparse):
    generator = torch.Generator().manual_seed(seed)
    joint = torch.rand(12, *shape, 2, generator=generator, dtype=torch.float64) ** 3
    if sparse:
        joint = joint * (torch.rand(joint.shape, generator=generator) > 0.4)
    joint = joint / joint.sum((1, 2, 3), keepdim=True)
    return joint.sum(2), joint.sum(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sparse", [False, True])
def test_agrees_with_the_interior_point(shape, sparse):
    p1, p2 = tables(shape, seed=sum(shape), sparse=sparse)
    exact, iterated = solve_binary(p1, p2), solve(p1, p2, tol=1e-10)
    assert (iterated.lower <= exact.upper + 1e-12).all()
    assert (exact.lower <= iterated.upper + 1e-12).all()
    assert exact.gap.max() < 1e-13


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sparse", [False, True])
def test_potentials_are_feasible_and_attain_the_value(shape, sparse):
    p1, p2 = tables(shape, seed=7 + sum(shape), sparse=sparse)
    solution = solve_binary(p1, p2)
    a, b = solution.dual_vision, solution.dual_language
    held = (p1.sum(-1) > 0)[:, :, None] & (p2.sum(-1) > 0)[:, None]
    total = torch.logsumexp(a[:, :, None] + b[:, None], -1)
    assert total[held].max() < 1e-12
    value = sum(torch.where(p > 0, u * p, 0.0).sum((1, 2)) for u, p in ((a, p1), (b, p2)))
    assert torch.allclose(value + entropy(p1.sum(1)), solution.lower, atol=1e-12)


def test_certain_posteriors_are_no_trouble():
    certain = torch.tensor([[0.1, 0], [0.2, 0], [0, 0.3], [0, 0.4]], dtype=torch.float64)
    solution = solve_binary(certain[None], certain[None, [0, 1, 3, 2]])
    coin = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    assert float(solution.upper) == pytest.approx(coin, abs=1e-14)
    assert float(solution.lower) == pytest.approx(coin, abs=1e-14)


def test_very_peaked_posteriors():
    odds = torch.linspace(-90, 90, 400, dtype=torch.float64)
    rows = torch.stack([-torch.nn.functional.softplus(x) for x in (odds, -odds)], -1).exp() / 400
    solution = solve_binary(rows[None], rows.flip(0)[None])
    assert float(solution.gap) < 1e-13
    assert solution.upper.isfinite().all()
