"""Flows over reads: laws, the digits model, what is stored and what is refused."""

from dataclasses import replace

import pytest
import torch

from pid_lens import Lens, Pooled, Reads, demo
from pid_lens.estimators import FlowPID, flow_pid
from pid_lens.results import ATOMS


def atoms(result):
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reads(n=200, layers=2):
    y, one, two = (normal(layers, n, 2, seed=seed).float() for seed in range(3))
    plain = Reads.from_posteriors(torch.zeros(layers, 1, n, 1), conditions=["full"])
    states = {"image": (y + one).exp(), "question": (y[:1] + two) ** 3, "answer": y.sinh()}
    return replace(plain, states=states)


def flow(**settings):
    return FlowPID(steps=15, progress=False, **settings)


def test_batches_merges_orders_and_repeats_give_one_result():
    whole = flow().update(reads()).result()
    streamed, half = flow(), flow()
    wrong = reads().rows(range(10))
    streamed.update(replace(wrong, states={k: -x for k, x in wrong.states.items()}))
    for at in range(0, 100, 17):
        streamed.update(reads().rows(range(at, min(at + 17, 100))))
    half.update(reads().rows(range(199, 99, -1)))
    merged = streamed.merge(half).result()
    assert torch.equal(atoms(whole), atoms(merged))
    assert torch.equal(atoms(whole.bracket), atoms(merged.bracket))
    assert sorted(merged.ids) == sorted(whole.ids)


def test_a_result_may_be_asked_for_twice_and_leaves_chance_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    estimator = flow().update(reads())
    first, second = estimator.result(), estimator.result()
    assert torch.equal(atoms(first), atoms(second))
    assert first.settings == second.settings
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_flows_are_trained_where_gradients_are_off(mode):
    expected = flow().update(reads()).result()
    with mode():
        found = flow().update(reads()).result()
    assert torch.equal(atoms(found), atoms(expected))
    assert min(found.settings["gain"]) > 0.5


@pytest.mark.parametrize("target", ["last", "same"])
def test_the_target_is_the_last_layer_or_the_same(target):
    found = flow(target=target).update(reads()).result()
    order = sorted(range(200), key=str)
    states = {k: x[:, order].double() for k, x in reads().states.items()}
    for layer in range(2):
        y = states["answer"][layer if target == "same" else -1]
        one = flow_pid(
            states["image"][layer], states["question"][layer], y, steps=15, progress=False
        )
        assert torch.allclose(atoms(found)[layer], atoms(one), atol=1e-9)
        assert found.settings["gain"][layer] == pytest.approx(one.gain)
    assert found.settings["target"] == target


def test_a_spectrum_of_flows_can_be_stored(tmp_path):
    found = flow(unit="nats").update(reads()).result()
    found.save(tmp_path / "s.safetensors")
    again = type(found).load(tmp_path / "s.safetensors")
    assert torch.equal(atoms(again), atoms(found))
    assert again.settings == found.settings
    assert again.settings["kept"] == {name: [2, 2] for name in ("answer", "vision", "language")}
    assert again.settings["gaussianity"]["joint"]["before"][0][0] > 1
    assert "FlowPID(" in repr(again)
    assert torch.equal(atoms(found - again), torch.zeros(2, 4).double())


@pytest.fixture(scope="module")
def digits_reads(digits_model):
    model, processor = digits_model
    states = [Pooled("image"), Pooled("question"), Pooled("answer")]
    lens = Lens(model, processor, conditions={"full": ()}, states=states)
    with torch.no_grad():
        for batch in demo.batches("synergy"):
            with lens(batch):
                model(**batch.inputs)
    return lens.reads


def test_curves_of_the_digits_model_are_stable_over_seeds(digits_reads):
    one, other = (
        FlowPID(seed=seed, progress=False).update(digits_reads).result() for seed in (0, 1)
    )
    for name in ATOMS:
        curves = torch.stack([getattr(one, name), getattr(other, name)])
        assert torch.corrcoef(curves)[0, 1] > 0.95, name
    assert one.settings["gain"] != other.settings["gain"]
    assert min(one.settings["gain"]) > 3
    assert one.doubtful.all(), "digits are ten clusters"


def test_clusters_go_by_id():
    of = {name: int(name) // 4 for name in reads().ids}
    plain, grouped = (flow(groups=g).update(reads()).result() for g in (None, of))
    assert grouped.groups.max() == 49
    assert plain.groups is None
    assert grouped.settings["clustered"]
    assert torch.equal(
        flow(groups=lambda name: int(name) // 4)
        .update(reads())
        .result()
        .standard_error("synergy"),
        grouped.standard_error("synergy"),
    )
    with pytest.raises(ValueError, match="groups lack 200 of 200"):
        flow(groups={}).update(reads()).result()


def test_what_cannot_be_decomposed_names_its_layer():
    given = reads()
    given.states["answer"][1] = given.states["image"][1]
    with pytest.raises(ValueError, match=r"layer 1: .*determines"):
        flow(target="same").update(given).result()


def test_a_layer_without_flows_is_doubtful_and_says_so():
    given = reads()
    given.states["question"][1] = given.states["image"][1]
    found = flow().update(given).result()
    assert found.settings["bounded"] == [True, False]
    assert found.doubtful[1]


# ---------------------------------------------------------------- refusals


def test_an_unknown_target_is_an_error():
    with pytest.raises(ValueError, match="target must be one of"):
        FlowPID(target="first")


def test_missing_states_are_named():
    plain = replace(reads(), states={"image": reads().states["image"]})
    with pytest.raises(ValueError, match=r"lack the states answer, question.*Pooled\('image'\)"):
        FlowPID().update(plain)


def test_states_that_are_not_numbers_are_named():
    given = reads()
    given.states["question"][1, 3] = torch.nan
    with pytest.raises(ValueError, match="'question' is NaN or infinite"):
        flow().update(given).result()


def test_a_result_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        FlowPID().result()


def test_other_settings_do_not_merge():
    with pytest.raises(ValueError, match="equal settings"):
        FlowPID(seed=0).merge(FlowPID(seed=1))
