"""What a lens refuses or warns of, and what it leaves behind when something fails."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from tiny import LEAKING, described, make, read
from transformers import DynamicCache, StaticCache

import pid_lens
from pid_lens import Lens, Noise, Reads


def hooks(model):
    """Those of ours: transformers leaves some of its own."""
    every = [
        h
        for m in model.modules()
        for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    ]
    return sum("pid_lens" in hook.__module__ for hook in every)


def test_a_filled_cache_and_generate_are_refused(llava):
    model, batch, moments = llava
    cache = DynamicCache()
    with torch.no_grad():
        model(**batch.inputs, past_key_values=cache)
    lens = Lens(model, moments=moments)
    with pytest.raises(ValueError, match="KV cache that holds 14 tokens"), lens(batch):
        model(**batch.inputs, past_key_values=cache)
    with pytest.raises(ValueError, match="StaticCache cannot grow"), lens(batch):
        model(**batch.inputs, past_key_values=StaticCache(model.config, max_cache_len=20))
    assert hooks(model) == 0


def fail(hooked):
    assert hooked > 0
    raise RuntimeError("mine")


def test_no_hook_is_left_after_an_exception(llava):
    model, batch, moments = llava
    lens = Lens(model, moments=moments)
    with pytest.raises(RuntimeError, match="mine"), lens(batch):
        fail(hooks(model))
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="image token"), lens:
        model(input_ids=torch.tensor([[1, 2, 3]]))
    assert hooks(model) == 0
    with lens(batch), torch.no_grad():
        model(**batch.inputs)
    assert lens.reads.n == batch.n


def test_an_interrupted_replay_leaves_no_record(llava):
    model, batch, moments = llava
    lens = Lens(model, moments=moments)
    for view in lens.views(batch):
        with view, torch.no_grad():
            model(**batch.inputs)
        if view.condition == "vision":
            break
    with pytest.raises(ValueError, match="no sample was read yet"):
        lens.reads  # noqa: B018
    with pytest.raises(ValueError, match="no forward pass ran in the view of 'vision'"):
        for _ in lens.views(batch):
            pass


def test_a_lens_opens_once(llava):
    model, _, moments = llava
    lens = Lens(model, moments=moments)
    for other in (lens, Lens(model, moments=moments), Lens(model, conditions={"full": []})):
        with pytest.raises(RuntimeError, match="open already"), lens, other:
            pass
        assert hooks(model) == 0
    with lens:
        pass


def test_training_mode_is_warned_of(llava):
    model, batch, moments = llava
    model.train()
    with pytest.warns(UserWarning, match="training mode"):
        read(model, batch, moments)


@dataclass(frozen=True)
class Wrong:
    """A readout that forgets the options."""

    def __call__(self, state, options, anatomy, layer):
        return state.sum(-1)


class Spoilt(torch.nn.Module):
    def forward(self, states):
        return states * math.nan


ERRORS = {
    "places for an image and none": (
        lambda m, b, s: read(m, replace(b, inputs={"input_ids": b.inputs["input_ids"]}), s),
        "would run on text alone",
    ),
    "no moments": (lambda m, b, s: Lens(m), "needs the moments"),
    "options share a token": (lambda m, b, s: Lens(m, choices=(3, 3), moments=s), "share a first"),
    "one text as options": (lambda m, b, s: Lens(m, choices="AB", moments=s), "list of options"),
    "text without processor": (
        lambda m, b, s: Lens(m, choices=("A", "B"), moments=s),
        "hand over the processor",
    ),
    "an id that is none": (lambda m, b, s: Lens(m, choices=(-5, 3), moments=s), "not a token id"),
    "an id beyond the vocabulary": (
        lambda m, b, s: read(m, replace(b, options=[3, 1000]), s),
        "this model has 300 tokens",
    ),
    "no options at all": (lambda m, b, s: Lens(m, choices=[], moments=s), "at least two options"),
    "a label beyond the options": (
        lambda m, b, s: read(m, replace(b, labels=torch.tensor([0, 1, 2, 0])), s),
        "label 2 of sample 2 is not one of its options",
    ),
    "no list of interventions": (
        lambda m, b, s: Lens(m, moments=s, conditions={"full": Noise("image")}),
        "must be a list of interventions",
    ),
    "no conditions": (lambda m, b, s: Lens(m, moments=s, conditions={}), "at least one condition"),
    "draws that differ": (
        lambda m, b, s: Lens(
            m,
            moments=s,
            conditions={"none": [Noise("image", draws=2), Noise("question", draws=3)]},
        ),
        "the same number",
    ),
    "swapped": (lambda m, b, s: Lens(object(), m), "anatomy="),
    "layers by name": (lambda m, b, s: Lens(m, moments=s, layers="all"), "list of layer numbers"),
    "half a draw": (lambda m, b, s: Lens(m, moments=s, draws=2.5), "whole number"),
    "interventions by name": (
        lambda m, b, s: Lens(m, moments=s, conditions={"x": ["image"]}),
        "must be a list of interventions",
    ),
    "no list of estimators": (
        lambda m, b, s: Lens(m, moments=s, estimators=pid_lens.BROJA()),
        "list of Estimator instances",
    ),
    "states by name": (
        lambda m, b, s: Lens(m, moments=s, states=["image"]),
        "list of Pooled instances",
    ),
    "a readout's class": (
        lambda m, b, s: Lens(m, moments=s, readout=pid_lens.LogitLens),
        "must be an instance",
    ),
    "a readout that says nothing": (
        lambda m, b, s: Lens(m, moments=s, readout=lambda *_: 0),
        "must be an instance",
    ),
    "a readout of another shape": (
        lambda m, b, s: read(m, b, s, readout=Wrong()),
        "one number per option",
    ),
    "moments of another kind": (lambda m, b, s: Lens(m, moments="file"), "must be Moments"),
    "something a lens has no use for": (
        lambda m, b, s: Lens(m, moments=s)(b, tau=3).__enter__(),
        "ids, spans, options, labels",
    ),
    "no such layer": (lambda m, b, s: Lens(m, moments=s, layers=[9]), r"0\.\.3"),
    "no result yet": (lambda m, b, s: Lens(m, moments=s).spectrum(), "no sample was read yet"),
    "no image": (
        lambda m, b, s: read(m, pid_lens.Batch(inputs={"input_ids": torch.ones(1, 5).long()}), s),
        "no image token",
    ),
    "no question": (
        lambda m, b, s: read(m, replace(b, spans=None), s),
        "without a processor the question cannot be found",
    ),
    "no options": (lambda m, b, s: read(m, replace(b, options=None), s), "no options"),
    "spans of another shape": (
        lambda m, b, s: read(m, replace(b, spans={k: v[:, 1:] for k, v in b.spans.items()}), s),
        "as the input",
    ),
    "an empty span": (
        lambda m, b, s: read(
            m, replace(b, spans={**b.spans, "image": b.spans["image"] & False}), s
        ),
        "matches no token",
    ),
    "too few ids": (lambda m, b, s: read(m, replace(b, ids=("one",)), s), "as many ids"),
    "too few labels": (lambda m, b, s: read(m, replace(b, labels=[0]), s), "as many labels"),
    "a batch of no kind": (
        lambda m, b, s: pid_lens.calibrate(m, "vision"),
        "a batch must be a Batch",
    ),
    "an estimator's class": (
        lambda m, b, s: Lens(m, moments=s).spectrum(pid_lens.BROJA),
        "must be an instance",
    ),
    "no draws": (lambda m, b, s: Lens(m, moments=s, draws=0), "at least one draw"),
    "moments of other spans": (
        lambda m, b, s: Lens(m, moments=s, conditions={"full": [Noise("car")]}),
        "no moments for span 'car'",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_to_do(llava, case):
    action, message = ERRORS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        action(*llava)


def test_moments_of_another_model_are_refused(llava):
    _, _, moments = llava
    other, _ = make("llava", seed=1)
    with pytest.raises(ValueError, match="belong to model"):
        Lens(other, moments=moments)


def test_nan_logits_are_refused(llava):
    model, batch, moments = llava
    spoilt = replace(pid_lens.dissect(model), norm=Spoilt())
    lens = Lens(anatomy=spoilt, moments=moments)
    with lens(batch), torch.no_grad():
        model(**batch.inputs)
    assert lens.reads.n == 4
    with pytest.raises(ValueError, match="NaN in 4 of 4 samples, first at layer 0"):
        lens.spectrum()


def test_twins_in_a_batch_are_warned_of(llava):
    model, batch, moments = llava
    with pytest.warns(UserWarning, match="more than once"):
        lens, _ = read(model, replace(batch, ids=("a", "a", "b", "c")), moments)
    assert lens.reads.n == 3


def test_reads_of_other_noise_do_not_mix(llava):
    model, batch, moments = llava
    one, _ = read(model, batch, moments, seed=0)
    other, _ = read(model, batch, moments, seed=1)
    with pytest.raises(ValueError, match="differ in their settings"):
        Reads.concat([one.reads, other.reads])


def test_generate_is_refused_and_comes_back(digits_model, digits_moments):
    model, processor = digits_model
    lens = Lens(model, processor, choices=("A", "B"), moments=digits_moments["vision"])
    (batch,) = pid_lens.demo.batches("vision", n=4)
    before = model.generate(**batch.inputs)
    for opened in (lens, lens(batch), next(lens.views(batch))):
        with pytest.raises(ValueError, match="generate outside"), opened:
            model.generate(**batch.inputs)
    with pytest.raises(ValueError, match="no sample was read"):
        lens.reads  # noqa: B018
    assert torch.equal(model.generate(**batch.inputs), before)
    assert "generate" not in vars(model)


def test_another_batch_than_the_one_described_is_refused(llava):
    model, batch, moments = llava
    other = replace(batch, inputs={**batch.inputs, "input_ids": batch.inputs["input_ids"].flip(0)})
    lens = Lens(model, moments=moments)
    with pytest.raises(ValueError, match="not the inputs of the batch"), lens(batch):
        model(**other.inputs)
    with torch.no_grad(), lens(ids="abcd", spans=batch.spans, options=batch.options):
        model(**batch.inputs)
        with pytest.raises(ValueError, match="not the inputs of the batch"):
            model(**other.inputs)


def test_wrong_readings_of_the_last_layer_are_refused():
    """A soft cap that the model applies and the anatomy does not know, or the other way round."""
    model, batch = make("llava")
    torch.nn.init.normal_(model.lm_head.weight)
    moments = pid_lens.calibrate(model, [batch])
    anatomy = pid_lens.dissect(model)
    for wrong in ({"softcap": 1.0}, {"scale": 0.25}):
        lens = Lens(anatomy=replace(anatomy, **wrong), moments=moments)
        with pytest.raises(ValueError, match="nats off the model's own answer"), lens(batch):
            model(**batch.inputs)
    lens = Lens(anatomy=anatomy, moments=moments)
    with lens(batch), torch.no_grad():
        model(**batch.inputs, logits_to_keep=1)
    assert lens.reads.n == 4


@pytest.mark.parametrize("family", LEAKING)
def test_ways_around_the_embeddings_are_refused_by_behaviour(family):
    """Even where no list names the family: its decoder is given more than embeddings."""
    torch.manual_seed(0)
    model, inputs = LEAKING[family](2)
    batch, decoder = described(inputs), model.model.language_model
    anatomy = pid_lens.Anatomy(
        model=model.eval(),
        decoder=decoder,
        layers=decoder.layers,
        norm=decoder.norm,
        unembed=model.lm_head,
    )
    batch = replace(batch, spans={"question": batch.spans["question"]})
    moments = pid_lens.calibrate(model, [batch], anatomy=anatomy)
    conditions = {"full": [], "vision": [Noise("question")]}
    lens = Lens(anatomy=anatomy, moments=moments, conditions=conditions)
    with pytest.raises(ValueError, match=r"noise at its input would leak"), lens(batch):
        model(**batch.inputs)


def test_changed_weights_are_refused(llava):
    model, batch, moments = llava
    lens, _ = read(model, batch, moments)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    with pytest.raises(ValueError, match="weights were changed"), lens:
        pass
