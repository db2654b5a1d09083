"""The solver's promises: proofs that hold, at any batch, on tables of every kind."""

import pytest
import torch

from pid_lens.estimators.broja.solver.certificate import (
    lower_the_lighter,
    round_to_marginals,
    shift_to_feasible,
    value_of,
)
from pid_lens.estimators.broja.solver.interior_point import solve
from pid_lens.estimators.common.entropy import entropy, table_information


def marginals(batch, n1, n2, answers, power=3.0, keep=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    joint = torch.rand(batch, n1, n2, answers, generator=generator, dtype=torch.float64) ** power
    joint = joint * (torch.rand(joint.shape, generator=generator) < keep)
    joint = joint / joint.sum((1, 2, 3), keepdim=True)
    return joint.sum(2), joint.sum(1)


KINDS = {
    "dense": {"batch": 8, "n1": 4, "n2": 5, "answers": 3},
    "sparse": {"batch": 8, "n1": 5, "n2": 4, "answers": 4, "keep": 0.4},
    "peaked": {"batch": 8, "n1": 6, "n2": 6, "answers": 3, "power": 20.0},
    "nearly certain": {"batch": 8, "n1": 4, "n2": 5, "answers": 3, "power": 100.0},
    "wide": {"batch": 4, "n1": 3, "n2": 12, "answers": 5},
    "many answers": {"batch": 2, "n1": 6, "n2": 6, "answers": 16},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def problem(request):
    return marginals(**request.param)


def test_interval_is_narrow_and_proven(problem):
    p1, p2 = problem
    solution = solve(p1, p2, tol=1e-9)
    assert solution.gap.max() <= 1e-9
    q = solution.coupling
    assert (q >= 0).all()
    assert torch.allclose(q.sum(2), p1, atol=1e-14)
    assert torch.allclose(q.sum(1), p2, atol=1e-14)
    upper = table_information(q.flatten(1, 2))
    assert torch.allclose(upper, solution.upper, atol=1e-12)


def test_potentials_are_feasible_and_attain_the_lower_bound(problem):
    p1, p2 = problem
    solution = solve(p1, p2, tol=1e-9)
    a, b = solution.dual_vision, solution.dual_language
    held = (p1.sum(-1) > 0)[:, :, None] & (p2.sum(-1) > 0)[:, None]
    assert torch.logsumexp(a[:, :, None] + b[:, None], -1)[held].max() < 1e-12
    value = sum(torch.where(p > 0, u * p, 0.0).sum((1, 2)) for u, p in ((a, p1), (b, p2)))
    assert torch.allclose(value + entropy(p1.sum(1)), solution.lower, atol=1e-12)


def test_a_problem_does_not_depend_on_its_batch(problem):
    p1, p2 = problem
    whole = solve(p1, p2, tol=1e-8)
    for i in range(len(p1)):
        alone = solve(p1[i : i + 1], p2[i : i + 1], tol=1e-8)
        assert float(alone.lower) == pytest.approx(float(whole.lower[i]), abs=1e-10)
        assert float(alone.upper) == pytest.approx(float(whole.upper[i]), abs=1e-10)


def test_exchanging_the_sources_exchanges_the_proofs(problem):
    p1, p2 = problem
    one, other = solve(p1, p2, tol=1e-10), solve(p2, p1, tol=1e-10)
    assert torch.allclose(one.upper, other.upper, atol=1e-9)
    assert one.dual_vision.shape == other.dual_language.shape


def test_padding_changes_nothing():
    p1, p2 = marginals(**KINDS["dense"])
    padded = (
        torch.nn.functional.pad(p1, (0, 0, 0, 3)),
        torch.nn.functional.pad(p2, (0, 0, 2, 0)),
    )
    plain, more = solve(p1, p2, tol=1e-10), solve(*padded, tol=1e-10)
    assert torch.allclose(plain.upper, more.upper, atol=1e-9)
    assert torch.allclose(plain.lower, more.lower, atol=1e-9)


def test_without_steps_the_better_source_alone_is_the_lower_bound():
    p1, p2 = marginals(**KINDS["dense"])
    none = solve(p1, p2, max_iterations=0)
    known = torch.maximum(table_information(p1), table_information(p2))
    assert torch.allclose(none.lower, known, atol=1e-14)
    assert (none.upper >= solve(p1, p2).upper).all()
    assert (none.iterations == 0).all()


def test_out_of_steps_the_interval_says_so():
    p1, p2 = marginals(**KINDS["dense"])
    exact, early = solve(p1, p2, tol=1e-9), solve(p1, p2, tol=1e-9, max_iterations=2)
    assert early.gap.min() > 1e-6
    assert (early.lower <= exact.upper).all()
    assert (exact.lower <= early.upper).all()
    assert early.dual_vision.nan_to_num(neginf=0.0).isfinite().all()


def test_asking_for_more_than_float64_has_does_no_harm():
    p1, p2 = marginals(batch=40, n1=4, n2=4, answers=4, power=8.0, keep=0.7)
    solution = solve(p1, p2, tol=0.0)
    assert solution.gap.max() < 1e-9
    assert solution.upper.isfinite().all()


@pytest.mark.parametrize("answers", [1, 3])
def test_nothing_to_solve(answers):
    p1, _ = marginals(batch=3, n1=4, n2=4, answers=answers)
    solution = solve(p1, p1.sum(1, keepdim=True))
    assert torch.allclose(solution.upper, table_information(p1), atol=1e-14)
    assert solution.gap.max() < 1e-14
    assert (solution.iterations == 0).all()


def test_any_pair_and_any_coupling_bound_the_optimum():
    p1, p2 = marginals(**KINDS["dense"])
    exact, prior = solve(p1, p2, tol=1e-10), entropy(p1.sum(1))
    generator = torch.Generator().manual_seed(3)
    q = torch.rand(8, 4, 5, 3, generator=generator, dtype=torch.float64) / 60
    a, b = (torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in (p1, p2))
    assert (value_of(round_to_marginals(q, p1, p2)) + prior > exact.upper).all()
    assert (shift_to_feasible(a, b, p1, p2)[2] + prior < exact.lower).all()


def light_rows(deepest):
    """Six rows of falling mass a source, and one that has the rest."""
    p1, p2 = marginals(batch=6, n1=6, n2=6, answers=4)
    falling = torch.logspace(0, -deepest, 6, dtype=torch.float64)[:, None]
    prior = torch.full((6, 1, 4), 0.25, dtype=torch.float64)
    tables = []
    for light in (falling * p1, falling * p2):
        share = 0.1 * light / light.sum((1, 2), keepdim=True)
        tables.append(torch.cat([share, prior - share.sum(1, keepdim=True)], 1))
    return tables


@pytest.mark.parametrize("deepest", [12, 20, 60])
def test_rows_of_next_to_no_mass_do_no_harm(deepest):
    assert solve(*light_rows(deepest), tol=1e-9).gap.max() <= 1e-9


def test_a_light_symbol_alone_pays_for_what_it_makes_infeasible():
    p1, p2 = light_rows(12)
    exact = solve(p1, p2, tol=1e-10)
    a, b = exact.dual_vision.clone(), exact.dual_language.clone()
    a[:, 5] += 1
    b[:, 4] += 1
    lowered = lower_the_lighter(a, b, p1, p2)
    assert (lowered[0] <= a).all()
    assert (lowered[1] <= b).all()
    best = exact.lower - entropy(p1.sum(1))
    assert (best - shift_to_feasible(*lowered, p1, p2)[2]).max() < 1e-8
    assert (best - shift_to_feasible(a, b, p1, p2)[2]).min() > 1e-2


@pytest.mark.parametrize("dust", [8e-16, 8e-13, 1e-20])
def test_dust_on_one_side_harms_nobody(dust):
    """An answer that is next to impossible for one source must not stop the others."""
    torch.manual_seed(0)
    p = torch.rand(1, 10, 10, 3, dtype=torch.float64)
    p[..., 2] = 0
    p = p / p.sum()
    clean = solve(p.sum(2), p.sum(1), tol=1e-10)
    p[0, :, 0, 2] = dust
    dusty = solve(p.sum(2), p.sum(1), tol=1e-10)
    assert dusty.gap < 1e-9
    assert abs(float(dusty.upper - clean.upper)) < 1e-9


def test_dust_is_part_of_the_proof():
    """One source alone tells everything, so that I_Q is its information exactly."""
    p1 = torch.zeros(1, 1000, 3, dtype=torch.float64)
    p1[0, :500, 0], p1[0, 500:, 1], p1[0, :, 2] = 1e-3, 1e-3, 9e-16
    p1 = p1 / p1.sum()
    found = solve(p1, p1.sum(1, keepdim=True))
    known = table_information(p1)
    assert found.lower - 1e-14 <= known <= found.upper + 1e-14
