"""Tuned lenses: closer to the model's answer than the logit lens, on samples held out."""

import copy
import math
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import make
from torch import nn

import pid_lens
from pid_lens import Anatomy, Batch, Lens
from pid_lens.readouts import LogitLens, Translator, TunedLens, tune

WIDTH, WORDS, IMAGE = 8, 40, 39
NONE = torch.empty(0, 14, dtype=torch.long)


@pytest.fixture(scope="module")
def digits():
    return list(pid_lens.demo.batches("synergy", split="train", n=256))


@pytest.fixture(scope="module")
def tuned(digits_model, digits):
    return tune(digits_model[0], digits, epochs=60)


class Turning(nn.Module):
    """A decoder whose layers turn the residual stream, and move it."""

    def __init__(self, turns, moves):
        """One layer a turn and move."""
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.turns = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in turns)
        self.unembed = nn.Linear(WIDTH, WORDS, bias=False)
        for layer, turn, move in zip(self.turns, turns, moves, strict=True):
            layer.weight.data, layer.bias.data = turn, move
        generator = torch.Generator().manual_seed(0)
        for one, std in ((self.embed, 1.0), (self.unembed, 0.5)):
            one.weight.data.normal_(std=std, generator=generator)

    def forward(self, input_ids):
        states = self.embed(input_ids)
        for layer in self.turns:
            states = layer(states)
        return SimpleNamespace(logits=self.unembed(states))


def turning(seed=0):
    """A model whose best translators are known: what the later layers do."""
    generator = torch.Generator().manual_seed(seed)
    turns = [torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q for _ in range(3)]
    moves = [torch.randn(WIDTH, generator=generator) / 4 for _ in range(3)]
    model = Turning(turns, moves).eval()
    anatomy = Anatomy(
        model=model,
        decoder=model,
        layers=list(model.turns),
        norm=nn.Identity(),
        unembed=model.unembed,
        image_token=IMAGE,
    )
    ids = torch.randint(0, IMAGE, (400, 3), generator=generator)
    ids[:, 0] = IMAGE
    names = tuple(f"{at:03}" for at in range(400))
    return anatomy, [
        Batch(inputs={"input_ids": ids[at : at + 50]}, ids=names[at : at + 50])
        for at in range(0, 400, 50)
    ]


# ---------------------------------------------------------------- what is learned


@pytest.mark.parametrize("positions", ["answer", "text"])
def test_known_translators_are_recovered(positions):
    anatomy, batches = turning()
    found = tune(None, batches, anatomy=anatomy, positions=positions)
    assert (found.untuned[:2] > 0.5).all()
    assert (found.divergence[:2] < 1e-3).all()
    last = anatomy.layers[-1]
    one = found.translators[1]
    identity = torch.eye(WIDTH)
    assert torch.allclose(one.matrix + identity, last.weight, atol=0.05)
    assert torch.allclose(one.bias, last.bias, atol=0.05)


def test_held_out_divergence_falls_at_early_layers(tuned):
    assert (tuned.divergence[:5] < tuned.untuned[:5]).all()
    assert (tuned.divergence[1:5] < 0.2 * tuned.untuned[1:5]).all()
    assert tuned.untuned[0] > 0.9
    assert tuned.divergence[-1] == tuned.untuned[-1] == 0
    assert tuned.n == round(256 * 0.3 / 2)


def test_the_divergence_is_that_of_the_answers_under_a_lens(digits_model, digits, tuned):
    """In bits, over the full vocabulary, on the part of the samples that was put aside."""
    model, processor = digits_model
    words = list(range(len(pid_lens.dissect(model).unembed.weight)))
    names = [name for batch in digits for name in batch.ids]
    by_name = torch.tensor(sorted(range(256), key=lambda at: names[at]))
    last = by_name[torch.randperm(256, generator=torch.Generator().manual_seed(0))[38:76]]
    for readout, known in ((LogitLens(), tuned.untuned), (tuned, tuned.divergence)):
        lens = Lens(model, processor, conditions={"full": []}, readout=readout)
        for batch in digits:
            with torch.no_grad(), lens(options=words, ids=batch.ids, spans=batch.spans):
                model(**batch.inputs)
        read = lens.reads.log_probs[:, 0]
        divergence = (read[-1].exp() * (read[-1] - read)).sum(-1) / math.log(2)
        assert torch.allclose(divergence[:, last].mean(-1), known, atol=1e-5)


def test_the_identity_stays_where_nothing_helps():
    """Layers that do nothing answer as the last one does."""
    anatomy, batches = turning()
    for layer in list(anatomy.layers)[1:]:
        layer.weight.data, layer.bias.data = torch.eye(WIDTH), torch.zeros(WIDTH)
    found = tune(None, batches, anatomy=anatomy, epochs=20)
    assert found.translators == {}
    assert (found.divergence < 1e-6).all()
    assert torch.equal(found.divergence, found.untuned)


# ---------------------------------------------------------------- under a lens


def test_the_last_layer_is_the_models_own_answer(digits_model, tuned):
    model, processor = digits_model
    (batch,) = pid_lens.demo.batches("synergy", n=32)
    reads = []
    for readout in (tuned, LogitLens()):
        lens = Lens(model, processor, conditions={"full": []}, readout=readout)
        with torch.no_grad(), lens(batch):
            logits = model(**batch.inputs).logits
        reads.append(lens.reads)
    own = logits[:, -1].log_softmax(-1).gather(-1, batch.options)
    assert torch.allclose(reads[0].log_probs[-1, 0], own, atol=1e-5)
    assert torch.equal(reads[0].log_probs[-1], reads[1].log_probs[-1])
    assert not torch.allclose(reads[0].log_probs[0], reads[1].log_probs[0], atol=0.1)
    with pytest.raises(ValueError, match="settings"):
        pid_lens.Reads.concat(reads)


@pytest.mark.filterwarnings("ignore:layers .* are further")
def test_a_wrong_anatomy_is_found_under_a_tuned_lens_too():
    model, batch = make("llava")
    wrong = copy.copy(pid_lens.dissect(model))
    object.__setattr__(wrong, "scale", 3.0)
    with pytest.warns(UserWarning, match="1 samples alone"):
        tuned = tune(None, [batch], anatomy=wrong, epochs=1)
    lens = Lens(anatomy=wrong, readout=tuned, conditions={"full": []})
    with pytest.raises(ValueError, match="own answer"), torch.no_grad(), lens(batch):
        model(**batch.inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gains_what_full_precision_does(digits_model, digits, tuned, dtype):
    model = copy.deepcopy(digits_model[0]).to(dtype)
    found = tune(model, digits, epochs=60)
    assert all(one.matrix.dtype == torch.float32 for one in found.translators.values())
    assert (found.divergence - tuned.divergence).abs().max() < 0.01
    assert (found.divergence[1:5] < 0.1 * found.untuned[1:5]).all()


def test_a_translator_keeps_the_precision_of_states():
    one = Translator(torch.eye(4), torch.ones(4))
    state = torch.randn(3, 4).bfloat16()
    assert one(state).dtype == torch.bfloat16
    assert torch.equal(one(state), (2 * state.float() + 1).bfloat16())


# ---------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_tuning_leaves_the_model_alone_in_any_context(digits_model, digits, tuned, context):
    model, _ = digits_model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = sum(len(m._forward_hooks) for m in model.modules())
    state = torch.get_rng_state()
    with context():
        found = tune(model, digits, epochs=60)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert sum(len(m._forward_hooks) for m in model.modules()) == own
    assert repr(found) == repr(tuned)


def test_samples_that_come_twice_are_not_trained_and_measured_on(digits_model, digits, tuned):
    model, _ = digits_model
    assert repr(tune(model, [*digits, *digits[::-1]], epochs=60)) == repr(tuned)
    nameless = [replace(batch, ids=None) for batch in digits[:3]]
    once = tune(model, nameless, epochs=3)
    assert repr(tune(model, [*nameless, *nameless], epochs=3)) == repr(once)


def test_the_last_of_a_name_counts_and_no_order_matters():
    anatomy, batches = turning()
    other = [replace(batches[1], ids=batches[0].ids)]
    last = tune(None, [*batches[2:], *batches[:1], *other], anatomy=anatomy, epochs=3)
    alone = tune(None, [*other, *batches[2:]], anatomy=anatomy, epochs=3)
    assert repr(last) == repr(alone)
    assert last.n == round(350 * 0.15)


def test_seeds(digits_model, digits, tuned):
    model, _ = digits_model
    assert tune(model, digits, epochs=60, seed=1).fingerprint != tuned.fingerprint


def test_frozen_parameters_do_not_matter(digits_model, digits, tuned):
    model = copy.deepcopy(digits_model[0]).requires_grad_(False)
    assert repr(tune(model, digits, epochs=60)) == repr(tuned)


# ---------------------------------------------------------------- kept, and refused


def test_saving(tuned, tmp_path, digits_model):
    tuned.save(tmp_path / "tuned.safetensors")
    again = TunedLens.load(tmp_path / "tuned.safetensors")
    assert repr(again) == repr(tuned)
    assert torch.equal(again.divergence, tuned.divergence)
    state, options = torch.randn(5, 64), torch.tensor([[3, 4]]).expand(5, -1)
    anatomy = pid_lens.dissect(digits_model[0])
    for layer in range(6):
        assert torch.equal(
            again.to("cpu")(state, options, anatomy, layer), tuned(state, options, anatomy, layer)
        )
    with pytest.raises(ValueError, match=r"not a pid_lens\.Moments"):
        pid_lens.Moments.load(tmp_path / "tuned.safetensors")


def test_repr_says_weights_and_gain(tuned):
    words = repr(tuned)
    assert "5 of 6 layers translated" in words
    assert tuned.fingerprint in words
    assert tuned.model in words
    assert "bits a layer" in words


def test_lenses_are_equal_by_their_translators(tuned):
    same, bare = tuned.to("cpu"), replace(tuned, translators={})
    assert same == tuned
    assert hash(same) == hash(tuned)
    assert len({same, tuned, bare}) == 2
    assert bare != tuned
    assert tuned != LogitLens()
    assert LogitLens() != tuned
    assert replace(bare, model="another") != bare


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_copy_through_bytes_serves_as_well(tuned, digits_model, again):
    anatomy = pid_lens.dissect(digits_model[0])
    tuned.check(anatomy)
    found = again(tuned)
    found.check(anatomy)
    assert found == tuned
    assert repr(found) == repr(tuned)


def test_plot(tuned):
    ax = tuned.plot()
    assert [line.get_label() for line in ax.lines] == ["logit lens", "tuned lens"]
    assert tuned.plot(ax) is ax


def test_another_model_is_refused(tuned, digits_model):
    other, processor = pid_lens.demo.load("tune-0150")
    (batch,) = pid_lens.demo.batches("synergy", n=4)
    lens = Lens(other, processor, readout=tuned, conditions={"full": []})
    with pytest.raises(ValueError, match=r"tuned on model .*pid_lens\.tune"), lens(batch):
        other(**batch.inputs)
    shorter = copy.copy(pid_lens.dissect(digits_model[0]))
    object.__setattr__(shorter, "layers", shorter.layers[:4])
    with pytest.raises(ValueError, match="6 layers, not on 4"):
        tuned.check(shorter)
    model = copy.deepcopy(digits_model[0])
    anatomy = pid_lens.dissect(model)
    tuned.check(anatomy)
    with torch.no_grad():
        anatomy.unembed.weight.add_(1)
    with pytest.raises(ValueError, match="tuned on model"):
        tuned.check(anatomy)


def test_another_precision_of_the_same_model_is_another_model(tuned, digits_model):
    model = copy.deepcopy(digits_model[0])
    anatomy = pid_lens.dissect(model)
    tuned.check(anatomy)
    model.bfloat16()
    with pytest.raises(ValueError, match="tuned on model"):
        tuned.check(anatomy)


@pytest.mark.parametrize("layer", [-1, 6, 100])
def test_a_layer_that_is_not_there_is_refused(tuned, digits_model, layer):
    anatomy = pid_lens.dissect(digits_model[0])
    with pytest.raises(ValueError, match=r"0\.\.5; got"):
        tuned(torch.randn(5, 64), torch.tensor([[3, 4]]).expand(5, -1), anatomy, layer)


def test_translators_of_another_shape_are_refused(tuned, digits_model):
    with pytest.raises(ValueError, match="square matrix"):
        Translator(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="square matrix"):
        Translator(torch.zeros(4, 4), torch.zeros(3))
    small, large = (Translator(torch.zeros(k, k), torch.zeros(k)) for k in (4, 5))
    with pytest.raises(ValueError, match=r"one width; got \[4, 5\]"):
        replace(tuned, translators={0: small, 1: large})
    anatomy, options = pid_lens.dissect(digits_model[0]), torch.tensor([[3, 4]]).expand(5, -1)
    with pytest.raises(ValueError, match="width 4, not of 64"):
        replace(tuned, translators={0: small})(torch.randn(5, 64), options, anatomy, 0)


def test_a_translator_of_the_last_layer_is_refused(tuned):
    with pytest.raises(ValueError, match=r"layers 0\.\.4.*\[5\]"):
        TunedLens(
            model="m",
            translators={5: tuned.translators[0]},
            divergence=torch.zeros(6),
            untuned=torch.zeros(6),
            n=1,
        )
    with pytest.raises(ValueError, match="one number per layer"):
        TunedLens(
            model="m", translators={}, divergence=torch.zeros(6), untuned=torch.zeros(5), n=1
        )


WRONG = {
    "positions": ({"positions": "question"}, "'answer' or 'text'"),
    "no epochs": ({"epochs": 0}, "at least 1"),
    "no patience": ({"patience": 0}, "at least 1"),
    "a rate of 0": ({"lr": 0.0}, "above 0"),
    "all held out": ({"held_out": 1.0}, "between 0 and 1"),
    "nothing": ({"batches": []}, "no batch"),
    "empty batches": ({"batches": [Batch(inputs={"input_ids": NONE})]}, "came with a sample"),
    "too few": ({"n": 2}, "give more samples"),
}


@pytest.mark.parametrize(("changed", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(changed, words):
    model, batch = make("llava", n=changed.pop("n", 4))
    with pytest.raises(ValueError, match=words):
        tune(model, changed.pop("batches", [batch]), **changed)


def test_states_that_are_not_finite_are_refused():
    model, batch = make("llava")
    with torch.no_grad():
        model.get_decoder().layers[2].mlp.down_proj.weight.fill_(math.nan)
    with pytest.raises(ValueError, match=r"layers \[2, 3\] are not finite"):
        tune(model, [batch])


def test_a_model_of_inference_mode_is_refused():
    with torch.inference_mode():
        model, batch = make("llava")
    with pytest.raises(ValueError, match="load it outside"):
        tune(model, [batch])


@pytest.mark.filterwarnings("ignore:layers .* are further")
def test_training_mode_is_warned_of():
    model, batch = make("llava")
    with (
        pytest.warns(UserWarning, match=r"model\.eval"),
        pytest.warns(UserWarning, match="1 samples alone"),
    ):
        tune(model.train(), [batch], epochs=1)


def test_layers_that_got_worse_are_named():
    """Translators of 6 samples need not hold for others."""
    anatomy, (batch, *_) = turning()
    few = Batch(inputs={"input_ids": batch.inputs["input_ids"][:8]}, ids=tuple("abcdefgh"))
    with (
        pytest.warns(UserWarning, match=r"layers \[0\] are further .*more samples"),
        pytest.warns(UserWarning, match="1 samples alone"),
    ):
        found = tune(None, few, anatomy=anatomy, held_out=0.15, seed=2)
    assert (found.divergence > found.untuned).nonzero().flatten().tolist() == [0]


def test_a_seed_that_is_no_number_is_refused():
    model, batch = make("llava")
    with pytest.raises(TypeError, match="whole number"):
        tune(model, [batch], seed=None)
