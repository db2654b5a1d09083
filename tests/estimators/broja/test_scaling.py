"""Scaling: both ends of the interval hold after any number of steps, and close."""

import pytest
import torch

from pid_lens.estimators.broja.solver.certificate import round_to_marginals
from pid_lens.estimators.broja.solver.interior_point import solve
from pid_lens.estimators.broja.solver.scaling import Scaling
from pid_lens.estimators.common.entropy import entropy, table_information


def marginals(batch, n1, n2, answers, power=3.0, keep=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    joint = torch.rand(batch, n1, n2, answers, generator=generator, dtype=torch.float64) ** power
    joint = joint * (torch.rand(joint.shape, generator=generator) < keep)
    joint = joint / joint.sum((1, 2, 3), keepdim=True)
    return joint.sum(2), joint.sum(1)


KINDS = {
    "dense": {"batch": 8, "n1": 5, "n2": 6, "answers": 3},
    "sparse": {"batch": 8, "n1": 7, "n2": 5, "answers": 4, "keep": 0.3},
    "peaked": {"batch": 8, "n1": 6, "n2": 6, "answers": 3, "power": 20.0},
    "many answers": {"batch": 2, "n1": 6, "n2": 6, "answers": 16},
    "one answer": {"batch": 2, "n1": 3, "n2": 4, "answers": 1},
    "one row": {"batch": 2, "n1": 1, "n2": 4, "answers": 3},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def problem(request):
    return marginals(**request.param)


@pytest.mark.parametrize("steps", [0, 1, 7, 9, 300])
def test_the_interval_holds_the_optimum(problem, steps):
    p1, p2 = problem
    exact = solve(p1, p2, tol=1e-10)
    scaling = Scaling(p1, p2)
    scaling.advance(steps)
    a, b, lower = scaling.potentials()
    assert (lower <= exact.upper + 1e-12).all()
    assert (scaling.upper() >= exact.lower - 1e-12).all()
    assert torch.logsumexp(a[:, :, None] + b[:, None], -1).max() < 1e-12
    value = sum(torch.where(p > 0, u * p, 0.0).sum((1, 2)) for u, p in ((a, p1), (b, p2)))
    assert torch.allclose(value + entropy(p1.sum(1)), lower, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 9, 300])
def test_a_coupling_attains_the_upper_bound(problem, steps):
    p1, p2 = problem
    scaling = Scaling(p1, p2)
    scaling.advance(steps)
    q = scaling.r[..., None] * scaling.u.mT[:, :, None] * scaling.v.mT[:, None]
    q = round_to_marginals(q, p1, p2)
    assert torch.allclose(q.sum(2), p1, atol=1e-14)
    assert torch.allclose(q.sum(1), p2, atol=1e-14)
    assert (table_information(q.flatten(1, 2)) <= scaling.upper() + 1e-12).all()


def test_the_interval_closes(problem):
    scaling, widths = Scaling(*problem), []
    for steps in (30, 300, 3000):
        scaling.advance(steps)
        widths.append(float((scaling.upper() - scaling.potentials()[2]).max()))
    assert widths[2] < 1e-3
    assert widths[2] < max(widths[0] / 10, 1e-12)


def test_padding_and_company_change_nothing():
    p1, p2 = marginals(**KINDS["dense"])
    padded = [torch.nn.functional.pad(p, (0, 0, 0, 3)) for p in (p1, p2)]
    plain, more, alone = Scaling(p1, p2), Scaling(*padded), Scaling(p1[2:3], p2[2:3])
    for scaling in (plain, more, alone):
        scaling.advance(100)
    assert torch.allclose(plain.upper(), more.upper(), atol=1e-12)
    assert torch.allclose(plain.potentials()[2], more.potentials()[2], atol=1e-12)
    assert torch.allclose(plain.keep([2]).upper(), alone.upper(), atol=1e-12)


def test_tables_larger_than_the_cache_are_taken_in_pieces():
    p1, p2 = marginals(1, 1500, 100, 3)
    scaling = Scaling(p1, p2)
    scaling.advance(20)
    first = Scaling(p1.flip(1), p2)
    first.advance(20)
    assert torch.allclose(scaling.upper(), first.upper(), atol=1e-12)
