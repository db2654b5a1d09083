"""Whatever takes a model takes it from any framework, and finds the same."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch
from nnsight import NNsight, TransformersModel
from pid_lens.adapters.nnsight import readout
from pid_lens.adapters.transformer_lens import bridged
from tiny import FAMILIES, in_nnsight, make

import pid_lens
from pid_lens.model import dissect
from pid_lens.model.frameworks import ADAPTERS, Adapter
from pid_lens.scoring import score_options


def in_transformers_model(model):
    processor = pid_lens.demo.load()[1]
    return TransformersModel(
        model, processor=processor, tokenizer=processor.tokenizer, task="image-text-to-text"
    )


WRAPPED = {"NNsight": NNsight, "TransformersModel": in_transformers_model, "bridge": bridged}


@pytest.fixture(scope="module")
def plain():
    model, processor = pid_lens.demo.load()
    batches = list(pid_lens.demo.batches("synergy", n=48, batch_size=24))
    return model, processor, batches


@pytest.fixture(scope="module", params=WRAPPED)
def wrapped(request):
    return WRAPPED[request.param](pid_lens.demo.load()[0])


def equal(one, other):
    torch.testing.assert_close(one.float(), other.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_the_same_model_in_nnsight(family):
    model, _ = make(family)
    one, other = dissect(model), dissect(in_nnsight(model))
    assert one.fingerprint() == other.fingerprint()
    assert one.site == other.site
    assert len(one.layers) == len(other.layers)


def test_moments_are_those_of_the_plain_model(plain, wrapped):
    model, _, batches = plain
    mine, theirs = (pid_lens.calibrate(one, batches) for one in (wrapped, model))
    assert (mine.model, mine.site) == (theirs.model, theirs.site)
    for span in ("image", "question"):
        equal(mine.spans[span].mean, theirs.spans[span].mean)
        equal(mine.spans[span].std, theirs.spans[span].std)


def test_one_call(plain, wrapped):
    model, processor, batches = plain
    moments = pid_lens.calibrate(model, batches)
    closed = [pid_lens.Knockout("question", "answer", layers=[1, 2])]
    for interventions in ([], closed):
        told = {"processor": processor, "moments": moments, "interventions": interventions}
        mine = pid_lens.spectrum(wrapped, batches, **told)
        theirs = pid_lens.spectrum(model, batches, **told)
        for atom in ("redundancy", "unique_vision", "unique_language", "synergy"):
            equal(getattr(mine, atom), getattr(theirs, atom))


def test_the_self_check(plain, wrapped):
    _, processor, batches = plain
    report = pid_lens.check(wrapped, batches[0], processor=processor)
    assert report.ok, report


def test_interventions_around_a_call(plain, wrapped):
    model, processor, batches = plain
    inputs = dict(batches[0].inputs)
    closed = pid_lens.Knockout("image", "question")
    with torch.no_grad(), pid_lens.intervene(model, closed, processor=processor):
        expected = model(**inputs).logits
    with torch.no_grad(), pid_lens.intervene(wrapped, closed, processor=processor):
        found = dissect(wrapped).model(**inputs).logits
    equal(found, expected)


def test_a_model_s_own_processor_is_taken():
    """TransformersModel brings one along: options as text, questions to be found."""
    model = in_transformers_model(pid_lens.demo.load()[0])
    inputs = next(iter(pid_lens.demo.batches("vision"))).inputs
    plain = [{name: inputs[name] for name in ("input_ids", "pixel_values")}]
    lens = pid_lens.Lens(model, choices=("A", "B"), moments=pid_lens.calibrate(model, plain))
    with torch.no_grad(), lens, model.trace(**plain[0]):
        stream = readout(model, choices=("A", "B"))
        knocked = model.output.logits.save()
    equal(stream.reads.log_probs[:, 0], lens.reads.log_probs[:, 0])
    with torch.no_grad(), pid_lens.intervene(model, pid_lens.Knockout("image", "question")):
        assert not torch.equal(dissect(model).model(**plain[0]).logits, knocked)


def test_scores_donors_regions_and_a_tuned_lens(plain, wrapped):
    model, processor, batches = plain
    options = ("A", "B", "B .")
    mine, theirs = (
        score_options(one, batches[0], options, processor=processor) for one in (wrapped, model)
    )
    equal(mine.log_probs, theirs.log_probs)
    box = {"box": (0, 0, 8, 4), "sizes": (8, 8), "processor": processor}
    assert torch.equal(
        pid_lens.region(wrapped, batches[0], **box), pid_lens.region(model, batches[0], **box)
    )
    donors = pid_lens.collect(wrapped, batches)
    resampled = {"full": [pid_lens.Resample("image", donors)]}
    lens = pid_lens.Lens(model, processor, choices=("A", "B"), conditions=resampled)
    with torch.no_grad(), lens:
        model(**batches[0].inputs)
    assert lens.reads.n == batches[0].n
    tuned = pid_lens.tune(wrapped, pid_lens.demo.batches("synergy", split="train", n=256))
    reading = {"conditions": {"full": []}, "readout": tuned}
    lens = pid_lens.Lens(model, processor, choices=("A", "B"), **reading)
    with torch.no_grad(), lens:
        model(**batches[0].inputs)
    assert lens.reads.n == batches[0].n


@pytest.mark.parametrize("path", ADAPTERS.values())
def test_every_adapter_answers_what_it_is_asked(path):
    """They are named by strings, which no import and no type checker looks at."""
    adapter = import_module(path)
    asked = {name for name in vars(Adapter) if not name.startswith("_")}
    assert callable(adapter.dissect)
    for name in asked & set(vars(adapter)):
        expected = list(inspect.signature(getattr(Adapter, name)).parameters)[1:]
        assert len(inspect.signature(getattr(adapter, name)).parameters) == len(expected), name
