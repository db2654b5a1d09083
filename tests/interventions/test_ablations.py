"""Ablations: they hide what they say, in every family, whatever the batch."""

from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, make

import pid_lens
from pid_lens import Lens, Mean, Noise, Remove, Resample, Zero, intervene

KINDS = ("zero", "mean", "resample", "noise")


def hiding(kind, span, moments=None, donors=None):
    return {
        "zero": Zero(span),
        "mean": Mean(span, moments),
        "noise": Noise(span, moments, seed=0, draws=1),
        "resample": donors and Resample(span, donors, seed=0, draws=1),
    }[kind]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model, batch = make(request.param)
    others = make(request.param, n=6, seed=1)[1]
    others = replace(others, ids=tuple(f"donor {row}" for row in range(6)))
    moments = pid_lens.calibrate(model, [batch])
    return model, batch, moments, pid_lens.collect(model, [others])


@torch.no_grad()
def logits(model, batch, *interventions, **changed):
    with intervene(model, *interventions, spans=batch.spans, ids=batch.ids):
        return model(**{**batch.inputs, **changed}).logits[:, -1]


def swapped(batch, span):
    """Other pixels, or other words wherever the question is said."""
    if span == "image":
        name = next(name for name in ("pixel_values", "image_patches") if name in batch.inputs)
        return {name: torch.randn_like(batch.inputs[name])}
    words = {"input_ids": batch.inputs["input_ids"].where(~batch.spans["question"], 222)}
    if "qformer_input_ids" in batch.inputs:
        words["qformer_input_ids"] = torch.full_like(batch.inputs["qformer_input_ids"], 222)
    return words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("span", ["image", "question"])
def test_what_is_hidden_changes_nothing(family, kind, span):
    model, batch, moments, donors = family
    hidden = hiding(kind, span, moments, donors)
    change = swapped(batch, span)
    assert torch.equal(logits(model, batch, hidden), logits(model, batch, hidden, **change))
    with torch.no_grad():
        plain, other = (model(**{**batch.inputs, **more}).logits[:, -1] for more in ({}, change))
    assert not torch.allclose(plain, other, atol=1e-4)
    assert not torch.allclose(plain, logits(model, batch, hidden), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_company_in_a_batch_does_not_matter(kind):
    model, batch = make("llava")
    moments, donors = pid_lens.calibrate(model, [batch]), pid_lens.collect(model, [batch])
    hidden = hiding(kind, "image", moments, donors)
    keep = [2, 0]
    few = replace(
        batch,
        inputs={k: v[keep] for k, v in batch.inputs.items()},
        spans={k: m[keep] for k, m in batch.spans.items()},
        ids=tuple(batch.ids[row] for row in keep),
    )
    torch.testing.assert_close(
        logits(model, few, hidden), logits(model, batch, hidden)[keep], atol=1e-5, rtol=0
    )


# ---------------------------------------------------------------- removal


OTHERWISE = ("mllama", "instructblip", "gemma3", "paligemma")
"""Text without an image is embedded, scaled or attended to in another way there."""
TEXT_ONLY = [name for name in FAMILIES if name not in OTHERWISE]


@pytest.mark.parametrize("name", TEXT_ONLY)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_removed_image_is_a_prompt_without_it(name, attention):
    model, batch = make(name)
    model.set_attn_implementation(attention)
    anatomy = pid_lens.dissect(model)
    ids = batch.inputs["input_ids"]
    text = ids[~batch.spans["image"]].view(len(ids), -1)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(text)
        more = {"attention_mask": torch.ones_like(text)} if name == "blip2" else {}
        states = anatomy.decoder(inputs_embeds=embeddings, **more).last_hidden_state
        expected = anatomy.unembed(states[:, -1])
    found = logits(model, batch, Remove("image"))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_removed_image_is_seen_by_nobody(name):
    model, batch = make(name)
    changes = ({}, swapped(batch, "image"))
    found = [logits(model, batch, Remove("image"), **more) for more in changes]
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_removed_image_as_a_condition_beside_others(name):
    model, batch = make(name)
    lens = Lens(model, conditions={"full": [], "text": [Remove("image")]})
    with torch.no_grad():
        plain = model(**batch.inputs).logits
        with lens(batch):
            torch.testing.assert_close(model(**batch.inputs).logits, plain, atol=1e-5, rtol=0)
    alone = logits(model, batch, Remove("image")).log_softmax(-1).gather(-1, batch.options)
    torch.testing.assert_close(lens.reads.log_probs[-1, 1], alone, atol=1e-5, rtol=0)
    own = plain[:, -1].log_softmax(-1).gather(-1, batch.options)
    torch.testing.assert_close(lens.reads.log_probs[-1, 0], own, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- donors


def test_a_sample_is_never_its_own_donor():
    model, batch = make("llava")
    donors = pid_lens.collect(model, [batch], spans=["image"])
    images = donors.of("image")
    for row, name in enumerate(batch.ids):
        drawn = [donors.choose("image", name, 4, key) for key in range(12)]
        chosen = {at for at, one in enumerate(images) if any(one.equal(d) for d in drawn)}
        assert chosen == {0, 1, 2, 3} - {row}


def test_draws_choose_donors():
    model, batch = make("llava")
    hidden = [Resample("image", pid_lens.collect(model, [batch]))]
    lens = Lens(model, conditions={"full": [], "language": hidden}, draws=3)
    with torch.no_grad(), lens(batch):
        model(**batch.inputs)
    assert (lens.reads.spread[:, 1] > 0).any()
    assert (lens.reads.spread[:, 0] == 0).all()
    assert lens.reads.settings["draws"] == 3


def test_longer_spans_than_any_donor_has_are_refused():
    model, batch = make("llava")
    donors = pid_lens.collect(model, [batch], spans=["question"])
    wide = replace(batch, spans={**batch.spans, "question": ~batch.spans["image"]})
    with pytest.raises(ValueError, match="no donor but 'sample 0' itself has 10 tokens"):
        logits(model, wide, Resample("question", donors, seed=0, draws=1))


WRONG = {
    "no moments": (lambda donors: Mean("image"), "needs the moments"),
    "no donors of it": (lambda donors: Resample("car", donors), "no donors for span 'car'"),
    "no draw": (lambda donors: Resample("image", donors, draws=0), "at least one draw"),
    "no span": (lambda donors: Zero("car"), "no span 'car'"),
}


@pytest.mark.parametrize(("hidden", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_hidden_is_refused(hidden, words):
    model, batch = make("llava")
    donors = pid_lens.collect(model, [batch])
    with pytest.raises(ValueError, match=words):
        logits(model, batch, hidden(donors))


def test_donors_of_another_model_are_refused():
    model, batch = make("llava")
    strange = pid_lens.collect(make("llava", seed=7)[0], [batch])
    with pytest.raises(ValueError, match="these donors come from model"):
        Lens(model, conditions={"full": [], "language": [Resample("image", strange)]})
    with pytest.raises(ValueError, match="at least two samples"):
        pid_lens.collect(model, [batch], limit=1)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mistral3"])
def test_what_is_generated_closes_up_too(name):
    """With an image removed and a cache, as without one, and as after a prompt of text alone."""
    model, batch = make(name)
    greedy = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    more = {"output_logits": True, "return_dict_in_generate": True}
    found = []
    for cached in (True, False):
        with intervene(model, Remove("image"), spans=batch.spans), torch.no_grad():
            logits = model.generate(**batch.inputs, use_cache=cached, **greedy, **more).logits
        found.append(torch.stack(logits))
    torch.testing.assert_close(*found, atol=2e-5, rtol=0)
    ids = batch.inputs["input_ids"]
    text = ids[~batch.spans["image"]].view(len(ids), -1)
    with torch.no_grad():
        plain = torch.stack(model.generate(input_ids=text, **greedy, **more).logits)
    torch.testing.assert_close(found[0], plain, atol=2e-5, rtol=0)


def test_a_decoder_that_generates_by_itself_is_refused():
    model, batch = make("blip2")
    with (
        intervene(model, Remove("image"), spans=batch.spans),
        pytest.raises(ValueError, match=r"without the whole model.*BLIP-2"),
    ):
        model.generate(**batch.inputs, max_new_tokens=2)
