"""BATCH over reads: what is trained on, what is evaluated, laws, clear errors."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from pid_lens import Lens, Pooled, Reads
from pid_lens.estimators import BATCH, batch_pid
from pid_lens.results import ATOMS

QUICK = {"epochs": 1, "batch_size": 16, "progress": False}


def atoms(spectrum):
    return torch.stack([getattr(spectrum, name) for name in ATOMS], -1)


def reads(n=90, answers=3, layers=2, seed=0, present=None):
    generator = torch.Generator().manual_seed(seed)
    log_p = torch.randn(layers, 3, n, answers, generator=generator)
    if present is not None:
        log_p = log_p.masked_fill(~present, -math.inf)
    plain = Reads.from_posteriors(log_p.log_softmax(-1), present=present)
    states = {k: torch.randn(layers, n, 4, generator=generator) for k in ("image", "question")}
    return replace(plain, states=states)


def estimator(**settings):
    return BATCH(**{**QUICK, **settings})


def result(of):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return of.result()


def spectrum(of, **settings):
    return result(estimator(**settings).update(of))


def test_batches_merges_orders_and_repeats_give_one_result():
    whole = spectrum(reads())
    streamed, half = estimator(), estimator()
    wrong = reads().rows(range(10))
    streamed.update(replace(wrong, states={k: -x for k, x in wrong.states.items()}))
    for at in range(0, 40, 7):
        streamed.update(reads().rows(range(at, min(at + 7, 40))))
    half.update(reads().rows(range(89, 39, -1)))
    merged = streamed.merge(half)
    for _ in range(2):
        assert torch.equal(atoms(result(merged)), atoms(whole))
        assert result(merged).ids == whole.ids


def test_more_samples_move_none_from_one_side_to_the_other():
    few, many = (spectrum(reads().rows(range(n)), batch_size=1) for n in (40, 90))
    assert set(few.ids) == {name for name in many.ids if int(name) < 40}
    assert 0.15 < many.n / 90 < 0.45


def test_all_are_evaluated_without_validation():
    found = spectrum(reads(), validation=None, batch_size=90)
    assert set(found.ids) == set(reads().ids)
    given = reads()
    order = [given.ids.index(name) for name in found.ids]
    p = given.posteriors()[0, :, order].exp()
    x1, x2 = (given.states[name][0, order] for name in ("image", "question"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plain = batch_pid((x1, x2, p[1], p[2], p[0]), **{**QUICK, "batch_size": 90})
    assert torch.allclose(atoms(found)[0], atoms(plain), atol=1e-9)


def test_features_of_the_first_layer_for_all():
    same, first = (spectrum(reads(), features=which) for which in ("same", "first"))
    assert torch.equal(same.union[0], first.union[0])
    assert same.union[1] != first.union[1]
    states = {k: x[:1].expand_as(x) for k, x in reads().states.items()}
    assert torch.equal(spectrum(replace(reads(), states=states)).union, first.union)


def test_numbers_of_options_are_decomposed_for_themselves():
    present = torch.ones(90, 3).bool()
    present[:50, 1] = False
    mixed = reads(present=present)
    parts = [spectrum(mixed.rows(rows)) for rows in (range(50), range(50, 90))]
    expected = (50 * atoms(parts[0]) + 40 * atoms(parts[1])) / 90
    found = spectrum(mixed)
    assert torch.allclose(atoms(found), expected, atol=1e-9)
    assert set(found.ids) == {*parts[0].ids, *parts[1].ids}


def test_layers_whose_projections_fail_are_doubtful_and_named():
    half = torch.full((90, 2), 0.5).log()
    tilted = torch.tensor([0.9, 0.1]).expand(90, 2).log()
    log_p = torch.stack([torch.stack([half, half, half]), torch.stack([half, half, tilted])])
    of = replace(Reads.from_posteriors(log_p), states=reads().states)
    with pytest.warns(UserWarning, match="^layers 1: 0% .*BROJA"):
        found = estimator().update(of).result()
    assert found.doubtful.tolist() == [False, True]
    assert found.settings["converged"] == [1, 0]
    assert found.settings["violation"] == pytest.approx([0, 0.8], abs=1e-3)
    assert found.mismatch.tolist() == pytest.approx([0, 0.4], abs=1e-6)


def test_below_tau_counts_as_unsure():
    of = reads()
    of = replace(of, log_probs=of.log_probs + math.log(0.2))
    assert spectrum(of).information.abs().max() < 1e-9
    assert spectrum(of).doubtful.all()
    assert torch.allclose(atoms(spectrum(of, tau=0.1)), atoms(spectrum(reads())), atol=1e-6)


def test_a_spectrum_can_be_stored_and_says_its_settings(tmp_path):
    found = spectrum(reads(), unit="nats")
    found.save(tmp_path / "s.safetensors")
    again = type(found).load(tmp_path / "s.safetensors")
    assert torch.equal(atoms(again), atoms(found))
    assert again.settings == found.settings
    assert (again.settings["batch_size"], again.unit) == (16, "nats")
    assert torch.allclose(atoms(spectrum(reads())) * math.log(2), atoms(found))


@pytest.mark.parametrize(
    "wrong",
    [{"tau": 1}, {"features": "last"}, {"validation": 1}, {"unit": "trits"}, {"epochs": 0}],
)
def test_settings_of_reads_are_checked_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BATCH(**wrong)


def test_the_seed_is_that_of_the_networks():
    one, other = (spectrum(reads(), seed=seed) for seed in (0, 1))
    assert torch.equal(one.information, other.information)
    assert (one.union != other.union).all()


def test_flags_are_those_of_the_evaluated_samples():
    of = reads(n=60)
    held = set(spectrum(of, batch_size=1).ids)
    elsewhere = torch.tensor([name not in held for name in of.ids])
    logs = of.log_probs.clone()
    logs[:, :, elsewhere] += math.log(0.1)
    tilted = torch.tensor([0.8, 0.1, 0.1]).log()
    logs[:, 1] = torch.where(elsewhere[:, None], tilted + math.log(0.1), logs[:, 1])
    plain, changed = (spectrum(one, batch_size=1) for one in (of, replace(of, log_probs=logs)))
    assert changed.ids == plain.ids
    assert (changed.fallback == 0).all()
    assert torch.allclose(changed.mismatch, plain.mismatch)
    swapped = of.log_probs + (~elsewhere)[:, None] * math.log(0.1)
    assert (spectrum(replace(of, log_probs=swapped), batch_size=1).fallback == 1).all()


def test_reads_without_layers_are_an_error():
    of = reads()
    none = replace(
        of, layers=(), log_probs=of.log_probs[:0], states={k: x[:0] for k, x in of.states.items()}
    )
    with pytest.raises(ValueError, match="no layers"):
        spectrum(none)


def test_too_few_samples_to_be_split_are_an_error():
    with pytest.raises(ValueError, match=r"samples with 3 options.*validation=None"):
        spectrum(reads().rows([0]))
    assert spectrum(reads().rows([0]), validation=None).n == 1


def test_missing_states_and_conditions_are_named():
    with pytest.raises(ValueError, match=r"lack the states question.*Pooled\('question'\)"):
        BATCH().update(replace(reads(), states={"image": reads().states["image"]}))
    alone = Reads.from_posteriors(torch.zeros(2, 1, 90, 1), conditions=["full"])
    with pytest.raises(ValueError, match="lack vision, language"):
        spectrum(replace(alone, states=reads().states))


@pytest.mark.parametrize("where", ["states", "log_probs"])
def test_nan_is_an_error_that_names_the_sample(where):
    of = reads()
    if where == "states":
        of.states["question"][1, 7, 0] = math.nan
    else:
        of.log_probs[1, 2, 7, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN.*layer 1.*'7'"):
        spectrum(of)


def test_a_result_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        BATCH().result()


def test_other_settings_do_not_merge_but_bars_do():
    with pytest.raises(ValueError, match="equal settings"):
        BATCH(seed=0).merge(BATCH(seed=1))
    assert BATCH(progress=False) == BATCH()


def test_inline_in_a_lens(llava):
    model, batch, moments = llava
    own = estimator(validation=None)
    lens = Lens(
        model, moments=moments, states=[Pooled("image"), Pooled("question")], estimators=[own]
    )
    with lens(replace(batch, ids=("a", "b", "c", "d"))), torch.no_grad():
        model(**batch.inputs)
        found = result(own)
    assert found.n == 4
    assert found.layers == lens.reads.layers
    assert torch.isfinite(atoms(found)).all()
