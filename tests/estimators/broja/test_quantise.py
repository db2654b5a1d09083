"""Samples: proven on their own rows, or on cells that lose what the interval says they lose."""

import cvxpy
import pytest
import torch

from pid_lens.estimators.broja.marginal_repair import rake
from pid_lens.estimators.broja.solver.best_response import respond
from pid_lens.estimators.broja.solver.cells import cluster, merge_equal
from pid_lens.estimators.broja.solver.interior_point import solve
from pid_lens.estimators.broja.solver.quantise import solve_rows
from pid_lens.estimators.common.entropy import entropy, table_information


def samples(n, answers, scale, layers=1, seed=0):
    """Masses of two sources with one label marginal, every row distinct."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, n, answers)
    answer = torch.randint(answers, shape[:2], generator=generator)
    evidence = scale * torch.nn.functional.one_hot(answer, answers)
    logs = [
        (evidence + scale * torch.randn(shape, generator=generator, dtype=torch.float64))
        for _ in range(2)
    ]
    weights = torch.full(shape[:2], 1 / n, dtype=torch.float64)
    target = torch.full((layers, answers), 1 / answers, dtype=torch.float64)
    return tuple(rake(x.log_softmax(-1), target, weights)[0] / n for x in logs)


def test_merging_equal_rows_loses_nothing():
    rows, _ = samples(30, 3, 2.0)
    again = rows[0].repeat(4, 1) / 4
    cells = merge_equal(again)
    assert len(cells) == 30
    assert torch.allclose(table_information(cells.masses), table_information(rows[0]))
    assert torch.allclose(
        torch.zeros_like(cells.masses).index_add_(0, cells.of, again), cells.masses
    )


@pytest.mark.parametrize("count", [1, 5, 40])
def test_clusters_do_not_depend_on_the_order(count):
    rows = samples(200, 3, 2.0)[0][0]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    one, other = (cluster(merge_equal(r).masses, count) for r in (rows, rows[order]))
    assert len(one) <= count
    assert torch.allclose(one.masses, other.masses, atol=1e-15)


def test_more_cells_keep_more_information():
    rows = merge_equal(samples(200, 4, 3.0)[0][0]).masses
    kept = [float(table_information(cluster(rows, m).masses)) for m in (1, 4, 16, 64, 200)]
    assert kept == sorted(kept)
    assert kept[0] == pytest.approx(0, abs=1e-12)
    assert kept[-1] == pytest.approx(float(table_information(rows)), abs=1e-12)


def test_many_rows_are_clustered_from_a_part_of_them():
    rows = merge_equal(samples(2000, 3, 2.0)[0][0]).masses
    cells = cluster(rows, 50)
    lost = float(table_information(rows) - table_information(cells.masses))
    assert len(cells) <= 50
    assert 0 < lost < 0.01


@pytest.mark.parametrize(("answers", "scale"), [(3, 1.0), (4, 6.0)])
def test_a_response_is_feasible_and_no_shift_betters_it(answers, scale):
    (p1,), (p2,) = samples(40, answers, scale)
    exact = solve(p1[None], p2[None], tol=1e-9)
    a = respond(p1, exact.dual_language[0])
    assert torch.logsumexp(a[:, None] + exact.dual_language[0], -1).max() < 1e-12
    value = (a * p1).sum() + (exact.dual_language[0] * p2).sum() + entropy(p1.sum(0))
    assert float(value) >= float(exact.lower) - 1e-7
    assert float(value) <= float(exact.upper) + 1e-12


def informations(p1, p2):
    return torch.stack([table_information(p1), table_information(p2)])


@pytest.mark.parametrize("answers", [2, 3, 4])
@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("most", [8, 16, 2048])
def test_the_interval_holds_the_exact_optimum(answers, scale, most):
    p1, p2 = samples(48, answers, scale, layers=2)
    exact = solve(p1, p2, tol=1e-9)
    for tol in (1e-2, 1e-6):
        result = solve_rows(p1, p2, tol=tol, most=most)
        assert (result.lower <= exact.upper + 1e-12).all()
        assert (exact.lower <= result.upper + 1e-12).all()
        assert result.gap.max() < (0.25 if most < 48 else tol)


@pytest.mark.parametrize("answers", [3, 5])
@pytest.mark.parametrize("scale", [0.3, 3.0, 50.0])
@pytest.mark.parametrize("most", [16, 2048])
def test_no_proof_contradicts_another(answers, scale, most):
    p1, p2 = samples(150, answers, scale, layers=2)
    for tol in (0.1, 1e-3):
        result = solve_rows(p1, p2, tol=tol, most=most)
        assert (result.upper - result.lower).min() >= -1e-12
        assert (result.upper >= informations(p1, p2).amax(0) - 1e-12).all()
        assert result.lower.isfinite().all()


@pytest.mark.parametrize("zeros", [0.2, 0.6])
def test_impossible_answers_are_no_trouble(zeros):
    generator = torch.Generator().manual_seed(3)
    joint = torch.rand(40, 40, 4, generator=generator, dtype=torch.float64)
    joint = joint * (torch.rand(40, 1, 4, generator=generator) > zeros)
    joint = joint * (torch.rand(1, 40, 4, generator=generator) > zeros)
    p1, p2 = (joint.sum(axis)[None] / joint.sum() for axis in (1, 0))
    exact, result = solve(p1, p2), solve_rows(p1, p2, tol=1e-3)
    assert (result.lower <= exact.upper + 1e-12).all()
    assert (exact.lower <= result.upper + 1e-12).all()
    assert result.gap.max() <= 1e-3


def test_more_cells_narrow_the_interval():
    p1, p2 = samples(150, 3, 2.0)
    widths = [float(solve_rows(p1, p2, tol=1e-4, most=m).gap) for m in (8, 16, 32, 64, 150)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] <= 1e-4 < widths[0] / 100


def test_steps_end_at_the_tolerance():
    p1, p2 = samples(150, 3, 2.0)
    wide, narrow = (solve_rows(p1, p2, tol=tol) for tol in (0.03, 1e-3))
    assert 1e-3 < float(wide.gap) <= 0.03
    assert float(narrow.gap) <= 1e-3
    assert wide.iterations < narrow.iterations


@pytest.mark.parametrize(
    ("n", "most", "tol"), [(120, 32, 1e-3), (1200, 2048, 0.02), (1200, 99, 0.1)]
)
def test_potentials_of_the_rows_prove_the_lower_bound(n, most, tol):
    p1, p2 = samples(n, 3, 3.0)
    result = solve_rows(p1, p2, tol=tol, most=most)
    a, b = result.dual_vision, result.dual_language
    assert torch.logsumexp(a[:, :, None] + b[:, None], -1).max() < 1e-12
    value = (a * p1).sum() + (b * p2).sum() + entropy(p1[0].sum(0))
    assert float(value) == pytest.approx(float(result.lower), abs=1e-12)
    assert float(result.gap) < (tol if n <= most else 0.1)


@pytest.mark.parametrize("most", [32, 2048])
def test_order_of_the_samples_does_not_matter(most):
    p1, p2 = samples(200, 4, 4.0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    one = solve_rows(p1, p2, tol=1e-3, most=most)
    other = solve_rows(p1[:, order], p2[:, order.flip(0)], tol=1e-3, most=most)
    assert torch.allclose(one.lower, other.lower, atol=1e-9)
    assert torch.allclose(one.upper, other.upper, atol=1e-9)
    assert torch.allclose(one.dual_vision[:, order], other.dual_vision, atol=1e-6)


def test_layers_are_solved_as_if_alone():
    p1, p2 = samples(60, 3, 3.0, layers=3)
    p1[1, :20] = p1[1, :1]
    p2[1] *= p1[1].sum(0) / p2[1].sum(0)
    for tol in (1e-2, 1e-6):
        whole = solve_rows(p1, p2, tol=tol)
        for i in range(3):
            alone = solve_rows(p1[i : i + 1], p2[i : i + 1], tol=tol)
            assert float(alone.upper) == pytest.approx(float(whole.upper[i]), abs=1e-8)
            assert float(alone.lower) == pytest.approx(float(whole.lower[i]), abs=1e-8)


def test_few_distinct_rows_are_solved_exactly_whatever_the_tolerance():
    p1, p2 = (p.repeat(1, 30, 1) / 30 for p in samples(12, 4, 2.0))
    assert float(solve_rows(p1, p2, tol=0.1).gap) < 1e-6


def test_many_samples_fit_in_memory():
    p1, p2 = samples(20_000, 3, 3.0)
    result = solve_rows(p1, p2, tol=0.05, most=256)
    assert result.dual_vision.shape == p1.shape
    assert float(result.gap) < 0.05


@pytest.mark.parametrize("answers", [2, 3])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_an_independent_solver_agrees_on_posterior_rows(answers, scale):
    """The exponential-cone programme of the same rows, by Clarabel."""
    torch.manual_seed(answers)
    n = 8
    p1, p2 = (torch.softmax(scale * torch.randn(n, answers).double(), -1) / n for _ in range(2))
    p2 = p2 * (p1.sum(0) / p2.sum(0))
    q = [cvxpy.Variable((n, n), nonneg=True) for _ in range(answers)]
    total = sum(q)
    cost = sum(cvxpy.sum(cvxpy.rel_entr(part, total)) for part in q)
    bounds = [
        constraint
        for y, part in enumerate(q)
        for constraint in (
            cvxpy.sum(part, axis=1) == p1[:, y].numpy(),
            cvxpy.sum(part, axis=0) == p2[:, y].numpy(),
        )
    ]
    problem = cvxpy.Problem(cvxpy.Minimize(cost), bounds)
    value = problem.solve(solver="CLARABEL") + float(entropy(p1.sum(0)))
    found = solve_rows(p1[None], p2[None], tol=1e-9)
    assert found.lower - 1e-6 <= value <= found.upper + 1e-6
    assert found.gap < 1e-6


def test_marginals_that_differ_are_refused():
    p1 = torch.tensor([[[0.5, 0.0], [0.0, 0.5]]], dtype=torch.float64)
    p2 = torch.tensor([[[0.4, 0.6]]], dtype=torch.float64)
    with pytest.raises(ValueError, match="answer marginals differ"):
        solve_rows(p1, p2)
