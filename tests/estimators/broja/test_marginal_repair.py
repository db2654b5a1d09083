"""Both repairs make the label marginals agree, and say so where they cannot."""

import pytest
import torch

from pid_lens.estimators.broja.marginal_repair import rake, tilt


def log_posteriors(answers, scale, bias=0.0, layers=3, n=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(layers, n, answers, generator=generator, dtype=torch.float64)
    return (logits + bias * torch.arange(answers)).log_softmax(-1)


def even(log_p):
    return torch.full(log_p.shape[:2], 1 / log_p.shape[1], dtype=torch.float64)


CASES = [(2, 1, 0.5), (2, 30, 2), (4, 5, 1), (4, 40, 0), (16, 10, 0.3)]


@pytest.mark.parametrize(("answers", "scale", "bias"), CASES)
def test_rake_reaches_any_marginal(answers, scale, bias):
    log_p = log_posteriors(answers, scale, bias)
    target = log_posteriors(answers, 1.0, n=1, seed=1).exp()[:, 0]
    q, residual = rake(log_p, target, even(log_p))
    assert residual.max() < 1e-12
    assert torch.allclose(q.mean(1), target, atol=1e-12)
    assert torch.allclose(q.sum(-1), torch.ones_like(q[..., 0]))


def test_rake_is_one_factor_an_answer():
    log_p = log_posteriors(4, 2)
    q, _ = rake(log_p, torch.full((3, 4), 0.25, dtype=torch.float64), even(log_p))
    factors = q.log() - log_p
    contrast = factors - factors[..., :1]
    assert torch.allclose(contrast, contrast[:, :1].expand_as(contrast), atol=1e-9)


def test_rake_undoes_a_bias():
    log_p = log_posteriors(3, 2)
    biased = (log_p + torch.tensor([1.0, -2.0, 0.5])).log_softmax(-1)
    q, _ = rake(biased, log_p.exp().mean(1), even(log_p))
    assert torch.allclose(q, log_p.exp(), atol=1e-9)


def test_rake_follows_the_weights():
    log_p = log_posteriors(3, 2)
    weights = log_posteriors(120, 1.0, n=1, seed=2).exp()[:, 0]
    target = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    q, _ = rake(log_p, target, weights)
    assert torch.allclose((weights[..., None] * q).sum(1), target, atol=1e-12)


def test_rake_layers_are_independent():
    log_p = log_posteriors(4, 5)
    target = log_posteriors(4, 1.0, n=1, seed=1).exp()[:, 0]
    whole, _ = rake(log_p, target, even(log_p))
    alone, _ = rake(log_p[1:2], target[1:2], even(log_p)[1:2])
    assert torch.allclose(whole[1:2], alone, atol=1e-12)


def test_rake_to_an_answer_of_no_mass():
    log_p = log_posteriors(3, 2)
    target = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).expand(3, 3)
    q, residual = rake(log_p, target, even(log_p))
    assert residual.max() < 1e-12
    assert (q[..., 2] == 0).all()


def test_rake_says_when_an_answer_is_impossible():
    log_p = torch.tensor([1.0, 0.0], dtype=torch.float64).log().expand(1, 5, 2)
    q, residual = rake(log_p, torch.full((1, 2), 0.5, dtype=torch.float64), even(log_p))
    assert float(residual) == pytest.approx(0.5)
    assert q.isfinite().all()


@pytest.mark.parametrize(("answers", "scale"), [(2, 1), (2, 20), (4, 3), (8, 6)])
def test_tilt_makes_three_marginals_agree(answers, scale):
    parts = [log_posteriors(answers, scale, b, seed=s).exp() for s, b in enumerate((0, 0.1, 0))]
    result = tilt(*parts)
    assert result.feasible.all()
    means = [(result.weights[..., None] * p).sum(1) for p in parts]
    assert torch.allclose(means[1], means[0], atol=1e-9)
    assert torch.allclose(means[2], means[0], atol=1e-9)
    assert torch.allclose(result.weights.sum(1), torch.ones(3, dtype=torch.float64))
    assert ((result.ess > 0.2) & (result.ess < 1)).all()


def test_tilt_leaves_what_agrees_alone():
    p = log_posteriors(3, 2).exp()
    result = tilt(p, p, p)
    assert torch.allclose(result.weights, torch.full_like(result.weights, 1 / 120))
    assert torch.allclose(result.ess, torch.ones(3, dtype=torch.float64))


def test_tilt_flags_what_no_weights_can_do():
    yes = 0.45 + 0.1 * torch.rand(1, 300, generator=torch.Generator().manual_seed(0)).double()
    full = torch.stack([yes, 1 - yes], -1)
    constant = torch.tensor([0.8, 0.2], dtype=torch.float64).expand(1, 300, 2)
    result = tilt(full, constant, full)
    assert not result.feasible.any()
    assert 0.2 < float(result.residual) < 0.3
    assert result.weights.isfinite().all()
    assert float(result.ess) < 0.5


def test_tilt_does_not_mind_what_is_as_good_as_equal():
    """Language is above full by 1e-5 in every sample; vision differs in earnest and evenly."""
    full = torch.tensor([[[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]]], dtype=torch.float64)
    shift = torch.tensor([1e-5, -1e-5], dtype=torch.float64)
    apart = torch.tensor([[[0.1], [-0.2], [0.3]]], dtype=torch.float64) * torch.tensor([1.0, -1.0])
    balance = tilt(full, full + apart, full + shift)
    assert balance.feasible.all()
    assert balance.residual.item() == pytest.approx(1e-5, rel=1e-6)
    assert balance.ess > 0.5


def test_an_infeasible_layer_leaves_the_others_alone():
    parts = [log_posteriors(2, 2, b, seed=s).exp() for s, b in enumerate((0, 0.1, 0))]
    before = tilt(*parts)
    parts[1][1] = torch.tensor([0.999, 0.001], dtype=torch.float64)
    after = tilt(*parts)
    assert after.feasible.tolist() == [True, False, True]
    assert torch.allclose(before.weights[::2], after.weights[::2], atol=1e-9)


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("shift", [4e-4, 9e-4])
def test_tilt_does_not_know_the_order_of_the_answers(order, shift):
    """Vision is off by the shift, or twice as much, in every sample: no weights undo that."""
    torch.manual_seed(0)
    full, language = torch.rand(2, 1, 30, 3, dtype=torch.float64).softmax(-1)
    vision = full + shift * torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64)
    known = tilt(full, vision, language)
    other = tilt(*(p[..., order] for p in (full, vision, language)))
    assert known.feasible == other.feasible == (2 * shift < 1e-3)
    if known.feasible:
        assert torch.allclose(known.weights, other.weights, atol=1e-9)
