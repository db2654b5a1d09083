"""BATCH: the released estimator's numbers seed by seed, known truths, laws, clear errors."""

import math
import warnings
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from paths import DATA

from pid_lens import truth
from pid_lens.estimators import batch_pid
from pid_lens.estimators.batch.projection import project
from pid_lens.results import ATOMS

STORED = {name: np.load(DATA / f"batch_{name}.npz") for name in "abc"}
TRIED = [("a", seed) for seed in range(5)] + [("c", seed) for seed in range(5)] + [("b", 0)]
COLUMNS = ("x1", "x2", "p1", "p2", "p12")
QUICK = {"epochs": 1, "progress": False}


def atoms(result):
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


def given(name, split):
    return tuple(STORED[name][f"{split}_{column}"] for column in COLUMNS)


@cache
def released(name, seed):
    """What comes of a stored data set, with a warning unless it is c."""
    with nullcontext() if name == "c" else pytest.warns(UserWarning, match="BROJA"):
        return batch_pid(given(name, "train"), given(name, "val"), seed=seed, progress=False)


def realised(name, n=64):
    """A gate's samples, each (x1, x2) as often as it should be, in an order that mixes them."""
    joint = truth.gate(name)
    full, vision, language = truth.posteriors_of(joint, n)[0].exp()
    ends = (joint.sum(-1).flatten().cumsum(0) * n).round().long()
    cell = torch.repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
    x1 = torch.eye(joint.shape[0])[cell // joint.shape[1]]
    x2 = torch.eye(joint.shape[1])[cell % joint.shape[1]]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    return tuple(x[order] for x in (x1, x2, vision, language, full))


def random_rows(n=40, answers=3, widths=(4, 2), seed=0):
    """Features, and posteriors that have little to do with each other."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(n, width, generator=generator) for width in widths]
    logits = torch.randn(3, n, answers, generator=generator)
    return (*features, *logits.softmax(-1))


def quick(train, val=None, **settings):
    """One epoch; random posteriors share no mean, which is not what is asked about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return batch_pid(train, val, **{**QUICK, **settings})


# ---------------------------------------------------------------- the released estimator


@pytest.mark.parametrize("name", STORED)
def test_informations_of_each_batch_are_the_released_ones(name):
    r, u1, u2, s = atoms(released(name, 0).batches).unbind(-1)
    found = torch.stack([r + u1, r + u2, r + u1 + u2 + s], -1)
    assert np.allclose(found, STORED[name]["ref_I_batches"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["a", "c"])
def test_five_seeds_have_the_released_mean_and_spread(name):
    found = torch.stack([atoms(released(name, seed)) for seed in range(5)]).numpy()
    sd = STORED[name]["ref_sd"]
    assert np.all(abs(found.mean(0) - STORED[name]["ref_mean"]) <= np.maximum(0.01, 2.5 * sd))
    assert np.allclose(found.std(0, ddof=1), sd, rtol=0.2)


def test_one_seed_lies_within_the_released_spread_of_four_answers():
    stored = STORED["b"]
    off = abs(atoms(released("b", 0)).numpy() - stored["ref_mean"])
    assert np.all(off <= np.maximum(0.01, 2.5 * stored["ref_sd"]))


@pytest.mark.parametrize(("name", "seed"), TRIED)
def test_a_seed_gives_what_it_gave_the_released_estimator(name, seed):
    """Training amplifies rounding, so another machine may be off by more than 2e-5."""
    stored, found = STORED[name], released(name, seed)
    batches = stored["ref_atoms_raw_batches"][seed]
    assert np.allclose(atoms(found.batches), batches, atol=2e-3, rtol=0)
    assert np.allclose(found.loss * math.log(2), stored["ref_train_loss"][seed], atol=2e-3)
    clipped = stored["ref_atoms_clipped"][seed]
    assert list(found.clipped.values()) == pytest.approx(clipped.tolist(), abs=2e-3)


@pytest.mark.parametrize(("name", "seed"), TRIED)
def test_projections_converge_as_often_as_the_released_ones(name, seed):
    stored, found = STORED[name], released(name, seed)
    everything, validation = stored["ref_sinkhorn_converged"][seed]
    trained = 8 * (len(stored["train_y"]) // 256)
    batches = len(found.violation)
    total = trained * found.converged_training + batches * found.converged
    assert found.converged == validation
    assert total / (trained + batches) == pytest.approx(everything, abs=0.03)
    assert found.steps == pytest.approx(stored["ref_sinkhorn_steps"][seed], abs=15)
    if validation < 1:
        assert np.allclose(found.violation, stored["ref_violation"][seed], atol=2e-3)


@pytest.mark.parametrize(("name", "seed"), TRIED)
def test_the_union_lies_above_the_certified_optimum(name, seed):
    optimum = STORED[name]["exact_batch_anchor1_IQ"][:, 0]
    assert np.all(released(name, seed).batches.union.numpy() >= optimum - 1e-3)


@pytest.mark.parametrize("name", ["a", "b"])
def test_unmet_marginals_are_said(name):
    found = released(name, 0)
    assert not found.sound
    assert found.converged < 0.2
    assert found.worst_violation > 0.05
    assert "% of projections converged" in repr(found)


# ---------------------------------------------------------------- projection


def scaled(similarity, rows, columns, steps, atol):
    """Sinkhorn's scaling of one answer as textbooks write it, stopped after either half."""
    coupling = similarity.exp()
    for step in range(1, steps + 1):
        coupling = coupling / coupling.sum(0) * columns
        if bool((coupling.sum(1) - rows).abs().max() <= atol):
            return coupling, step, True
        coupling = coupling / coupling.sum(1, keepdim=True) * rows[:, None]
        if bool((coupling.sum(0) - columns).abs().max() <= atol):
            return coupling, step, True
    return coupling, steps, False


def problem(seed, n=12, answers=3, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    similarity = scale * torch.randn(answers, n, n, generator=generator, dtype=torch.float64)
    vision, language = torch.rand(2, n, answers, generator=generator, dtype=torch.float64)
    return similarity, vision, language * vision.sum(0) / language.sum(0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masses", [1.0, 1.5])
@pytest.mark.parametrize(("steps", "atol"), [(500, 1e-2), (500, 1e-4), (2, 1e-2), (1, 1.0)])
def test_each_answer_is_scaled_and_stopped_for_itself(seed, masses, steps, atol):
    similarity, vision, language = problem(seed)
    language[:, 1] *= masses
    found = project(similarity, vision, language, steps=steps, atol=atol)
    for answer, one in enumerate(similarity):
        expected = scaled(one, vision[:, answer], language[:, answer], steps, atol)
        assert torch.allclose(found.log_coupling[answer].exp(), expected[0], atol=2e-4)
        assert (int(found.rounds[answer]), bool(found.converged[answer])) == expected[1:]


@pytest.mark.parametrize("masses", [1.0, 1.5])
def test_the_gradient_is_that_of_all_rounds(masses):
    similarity, vision, language = problem(3)
    language[:, 1] *= masses
    weights = torch.randn(similarity.shape, generator=torch.Generator().manual_seed(4)).double()
    similarity.requires_grad_()
    found = project(similarity, vision, language, steps=500, atol=1e-3).log_coupling.exp()
    textbook = torch.stack(
        [
            scaled(one, rows, columns, 500, 1e-3)[0]
            for one, rows, columns in zip(similarity, vision.T, language.T, strict=True)
        ]
    )
    gradients = [
        torch.autograd.grad((weights * coupling).sum(), similarity)[0]
        for coupling in (found, textbook)
    ]
    assert torch.allclose(*gradients, atol=1e-4)
    assert gradients[0].abs().max() > 0.01


def test_violation_is_the_error_of_what_comes_back():
    similarity, vision, language = problem(5)
    language *= 1.2
    found = project(similarity, vision, language, steps=500, atol=1e-4)
    coupling = found.log_coupling.exp()
    for at, (axis, wanted) in enumerate([(2, vision.T), (1, language.T)]):
        errors = (coupling.sum(axis) - wanted).abs()
        assert found.violation[2 * at] == pytest.approx(float(errors.max()), abs=1e-9)
        assert found.violation[2 * at + 1] == pytest.approx(float(errors.sum() / 12), abs=1e-9)
    assert not found.converged.any()


def test_impossible_answers_are_coupled_to_nothing():
    sure = torch.eye(2).repeat(3, 1)
    found = project(torch.zeros(2, 6, 6), sure, sure, steps=500, atol=1e-4)
    assert found.converged.all()
    same = (sure @ sure.T).bool()
    assert found.log_coupling.exp().sum(0)[~same].max() < 1e-9


# ---------------------------------------------------------------- known truths


@pytest.mark.parametrize("name", ["AND", "XOR_FLIP10", "BSC_PAIR", "SUM", "COPY"])
def test_informations_of_gates_are_exact_and_the_union_is_no_less_than_it_is(name):
    exact = truth.atoms_of(name)
    found = batch_pid(realised(name, 400), batch_size=400, atol=1e-4, progress=False)
    assert found.converged == 1
    for which in ("information", "information_vision", "information_language"):
        assert float(getattr(found, which)) == pytest.approx(
            float(getattr(exact, which)), abs=1e-5
        )
    assert float(found.union) >= float(exact.union) - 1e-3


def test_training_on_one_batch_comes_down_to_the_exact_union():
    exact = truth.atoms_of("AND")
    rows = realised("AND", 32)
    unions = [
        float(batch_pid(rows, epochs=epochs, atol=1e-3, progress=False).union)
        for epochs in (1, 30)
    ]
    assert unions[0] > float(exact.union) + 0.05
    assert float(exact.union) - 1e-3 <= unions[1] < float(exact.union) + 0.02


def test_noisy_xor_is_synergy():
    found = batch_pid(realised("XOR_FLIP10", 200), progress=False)
    assert atoms(found).tolist() == pytest.approx([0, 0, 0, 0.531], abs=0.01)


def test_one_answer_tells_nothing():
    assert torch.equal(atoms(quick(random_rows(answers=1))), torch.zeros(4, dtype=torch.float64))


# ---------------------------------------------------------------- laws


def test_the_seed_moves_the_union_alone():
    one, other = (quick(random_rows(), seed=seed) for seed in (0, 1))
    for name in ("information", "information_vision", "information_language"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.union != other.union
    moved = atoms(one) - atoms(other)
    assert torch.allclose(moved, moved[0] * torch.tensor([1, -1, -1, 1]), atol=1e-9)


def test_atoms_add_up_and_are_means_over_batches():
    found = quick(random_rows(), batch_size=10)
    assert found.batches.union.shape == (4,)
    assert torch.allclose(atoms(found), atoms(found.batches).mean(0))
    assert torch.allclose(atoms(found).sum(), found.information)
    assert found.gap.isnan()
    assert set(found.clipped.values()) == {max(0.0, float(x)) for x in atoms(found)}


def test_random_numbers_are_its_own():
    rows = random_rows()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = quick(rows)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(quick(rows).loss, one.loss)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_whatever_mode_it_is_called_in(context):
    expected = quick(random_rows())
    with context():
        rows = tuple(x.clone() for x in random_rows())
        assert torch.equal(atoms(quick(rows)), atoms(expected))
    asking = tuple(x.clone().requires_grad_() for x in random_rows())
    assert torch.equal(atoms(quick(asking)), atoms(expected))


@pytest.mark.parametrize("convert", [torch.Tensor.double, torch.Tensor.numpy, torch.Tensor.half])
def test_any_float_type(convert):
    rows = random_rows()
    found = quick(tuple(map(convert, rows)))
    assert found.union.dtype == torch.float64
    assert torch.allclose(atoms(found), atoms(quick(rows)), atol=1e-3)


def test_what_fills_no_batch_is_dropped():
    rows = random_rows(50)
    whole, cut = (quick(rows, tuple(x[:n] for x in rows), batch_size=20) for n in (50, 40))
    assert torch.equal(atoms(whole.batches), atoms(cut.batches))


def test_fewer_samples_than_a_batch_are_one_batch():
    rows = random_rows(30)
    found, exactly = quick(rows), quick(rows, batch_size=30)
    assert found.batches.union.shape == (1,)
    assert torch.equal(atoms(found), atoms(exactly))


def test_without_validation_rows_the_training_rows_are_evaluated():
    rows = random_rows()
    alone, given_twice = quick(rows), quick(rows, rows)
    assert torch.equal(atoms(alone), atoms(given_twice))
    assert (alone.evaluated_on, given_twice.evaluated_on) == ("training", "validation")


def test_nats_are_bits_times_a_constant():
    bits, nats = quick(random_rows()), quick(random_rows(), unit="nats")
    assert nats.unit == nats.batches.unit == "nats"
    for one, other in ((bits, nats), (bits.batches, nats.batches)):
        assert torch.allclose(atoms(one) * math.log(2), atoms(other))
    assert torch.allclose(bits.loss * math.log(2), nats.loss)


def without(position, change, rows=None):
    rows = list(random_rows() if rows is None else rows)
    rows[position] = change(rows[position])
    return tuple(rows)


def spoilt(value):
    def change(x):
        x = x.clone()
        x[3, 1] = value
        return x

    return change


BAD = {
    "NaN features": (without(0, spoilt(math.nan)), ValueError, "train's x1 has NaN"),
    "infinite features": (without(1, spoilt(math.inf)), ValueError, "x2 has NaN or infinite"),
    "too large for float32": (without(0, lambda x: x.double() * 1e300), ValueError, "float32"),
    "NaN posteriors": (without(2, spoilt(math.nan)), ValueError, r"p\(y\|x1\) has NaN"),
    "logs": (without(3, torch.log), ValueError, r"p\(y\|x2\) has negative.*x.exp"),
    "counts": (without(4, lambda x: x * 7), ValueError, r"p\(y\|x1,x2\) must sum to 1"),
    "rows of another": (without(1, lambda x: x[1:]), ValueError, "three .n, answers."),
    "answers of another": (without(2, lambda x: x[:, :1]), ValueError, "answers"),
    "a vector": (without(0, lambda x: x[:, 0]), ValueError, r"x1 \[n, d1\]"),
    "nothing": (tuple(x[:0] for x in random_rows()), ValueError, "none empty"),
    "no features": (without(0, lambda x: x[:, :0]), ValueError, "none empty"),
    "a list": (without(0, torch.Tensor.tolist), TypeError, "list"),
    "four of five": (random_rows()[:4], TypeError, "tuple of 4"),
    "a tensor": (torch.zeros(5, 4, 2), TypeError, "Tensor"),
}


@pytest.mark.parametrize(("rows", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_an_error(rows, error, words):
    with pytest.raises(error, match=words):
        quick(rows)
    with pytest.raises(error, match=words.replace("train's", "val's")):
        quick(random_rows(), rows)


@pytest.mark.parametrize("position", [0, 1])
def test_other_widths_to_evaluate_on_are_an_error(position):
    with pytest.raises(ValueError, match="same d1, d2 and answers"):
        quick(random_rows(), without(position, lambda x: x[:, :1]))
    with pytest.raises(ValueError, match="same d1, d2 and answers"):
        quick(random_rows(), random_rows(answers=2))


WRONG = {
    "epochs": 0,
    "batch_size": 2.5,
    "hidden": 0,
    "embed": 1,
    "unit": "trits",
    "hidden_layers": -1,
    "steps": 0,
    "lr": 0.0,
    "atol": math.nan,
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_are_checked(name):
    with pytest.raises(ValueError, match=name):
        batch_pid(random_rows(), **{name: WRONG[name]})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "hidden"])
def test_whole_numbers_of_any_library_will_do(name):
    assert quick(random_rows(), **{name: np.int64(2)}).union.isfinite()


def test_posteriors_may_be_rounded_to_half_precision():
    rows = random_rows(answers=3)
    rounded = (*rows[:2], *(p.bfloat16() for p in rows[2:]))
    assert max(float((p.float().sum(1) - 1).abs().max()) for p in rounded[2:]) > 1e-3
    assert torch.allclose(atoms(quick(rounded)), atoms(quick(rows)), atol=0.01)


def constant(position, rows=None):
    return without(position, lambda x: torch.ones_like(x), rows)


def test_sources_that_are_the_same_in_all_samples():
    with pytest.raises(ValueError, match=r"x1 and x2 are the same.*nothing"):
        quick(constant(0, constant(1)))
    silent = without(3, lambda p: p.mean(0).expand_as(p), constant(1))
    for rows, expected in ((constant(1), 1), (silent, 0)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            batch_pid(rows, **QUICK)
        found = [one for one in said if "x2 is the same in all samples" in str(one.message)]
        assert len(found) == expected


def test_an_answer_that_training_never_saw_is_said():
    n = 64
    seen = torch.arange(n) % 2
    new = seen.where(torch.arange(n) > 3, 2)
    train, val = ((torch.eye(3)[y], torch.eye(3)[y], *[torch.eye(3)[y]] * 3) for y in (seen, new))
    with pytest.warns(UserWarning, match="too high, as answers are rarer.*validation=None"):
        found = batch_pid(train, val, **QUICK)
    assert not found.sound
    own = batch_pid(val, **QUICK)
    assert float(found.information - own.information) == pytest.approx(found.shift, abs=1e-3)
    assert found.to("nats").shift == pytest.approx(found.shift * math.log(2))
    assert own.shift == pytest.approx(0, abs=1e-6)
    assert own.sound
