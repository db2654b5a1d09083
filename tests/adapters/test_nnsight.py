"""pid_lens's own functions inside traces, edits, sessions and invokes of nnsight."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import nnsight
import pytest
import torch
from pid_lens.adapters.nnsight import in_trace as inside
from tiny import FAMILIES, Rows, in_nnsight, make, read

import pid_lens
from pid_lens import (
    Knockout,
    Lens,
    LogitLens,
    Noise,
    Pooled,
    Remove,
    Zero,
    intervene,
)


def equal(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- functions inside a trace


def by_hooks(model, batch, *interventions, **options):
    """Logits under interventions around a plain call."""
    with torch.no_grad(), intervene(model, *interventions, **options):
        return model(**batch.inputs).logits


@pytest.mark.parametrize("layers", [None, [1], range(2, 4)])
def test_knockout_is_that_of_plain_transformers(traced, layers):
    model, nn, batch, _ = traced
    if layers is not None and "mllama" in type(model).__name__.lower():
        layers = [*layers, 3]
    expected = by_hooks(
        model, batch, Knockout("image", "question", layers=layers), spans=batch.spans
    )
    with torch.no_grad(), nn.trace(**batch.inputs):
        inside.knockout(nn, "image", "question", layers=layers, batch=batch)
        logits = nn.output.logits.save()
    assert torch.equal(logits, expected)
    assert not torch.equal(logits, model(**batch.inputs).logits)
    with torch.no_grad(), nn.trace(**batch.inputs):
        after = nn.output.logits.save()
    assert torch.equal(after, model(**batch.inputs).logits), "nothing stays behind"


@pytest.mark.parametrize("hidden", [Noise("image"), Noise("question"), Zero("image")], ids=repr)
def test_noise_is_that_of_plain_transformers(traced, hidden):
    model, nn, batch, moments = traced
    options = {"ids": batch.ids, "spans": batch.spans, "moments": moments}
    expected = by_hooks(model, batch, hidden, **options)
    with torch.no_grad(), nn.trace(**batch.inputs):
        inside.intervene(nn, hidden, batch=batch, moments=moments)
        logits = nn.output.logits.save()
    assert torch.equal(logits, expected)


def test_three_readouts_are_the_lens(traced):
    """Plain, question noised, image noised: what a Lens reads in its fork."""
    model, nn, batch, moments = traced
    states = [Pooled("answer")]
    lens, _ = read(model, batch, moments, states=states)
    streams = {}
    for name, span in (("full", None), ("vision", "question"), ("language", "image")):
        with torch.no_grad(), nn.trace(**batch.inputs):
            if span is not None:
                inside.noise(nn, span, moments, batch=batch)
            stream = inside.readout(nn, states=states, batch=batch)
        streams[name] = stream
    joined = pid_lens.Reads.join(**{name: one.reads for name, one in streams.items()})
    equal(joined.log_probs, lens.reads.log_probs)
    assert joined.ids == lens.reads.ids
    equal(joined.states["answer"], lens.reads.states["answer"])
    mine, theirs = pid_lens.decompose(**streams), lens.spectrum()
    equal(mine.synergy.float(), theirs.synergy.float())


def test_functions_may_stand_anywhere_among_the_blocks_own_reads(llava_in_nnsight):
    model, nn, batch, _ = llava_in_nnsight
    layers = nn.model.language_model.layers
    expected = by_hooks(
        model, batch, Knockout("image", "question", layers=[2, 3]), spans=batch.spans
    )
    with torch.no_grad(), nn.trace(**batch.inputs):
        pixels = nn.model.vision_tower.output.save()
        first = layers[0].output.save()
        inside.knockout(nn, "image", "question", layers=range(2, 4), batch=batch)
        second = layers[1].output.save()
        stream = inside.readout(nn, layers=[2, -1], batch=batch)
        last = layers[3].output.save()
        logits = nn.output.logits.save()
    assert torch.equal(logits, expected)
    assert pixels is not None
    assert first.shape == second.shape == last.shape
    own = logits[:, -1].log_softmax(-1).gather(-1, batch.options)
    equal(stream.reads.log_probs[-1, 0], own)
    assert stream.reads.layers == (2, 3)


def test_calls_by_hand_are_none_of_the_models(llava_in_nnsight):
    """A block that runs the model, or a layer of it, itself: neither is the pass that is read."""
    model, nn, batch, moments = llava_in_nnsight
    plain, own = read(model, batch, moments)
    expected = by_hooks(model, batch, Knockout("image", "question"), spans=batch.spans)
    with torch.no_grad(), nn.trace(**batch.inputs):
        inside.knockout(nn, "image", "question", batch=batch)
        stream = inside.readout(nn, batch=batch)
        by_hand = nn(**batch.inputs).logits.save()
        logits = nn.output.logits.save()
    assert torch.equal(by_hand, own)
    assert torch.equal(logits, expected)
    answers = expected[:, -1].log_softmax(-1).gather(-1, batch.options)
    equal(stream.reads.log_probs[-1, 0], answers)
    lens = Lens(nn, moments=moments)
    layers = nn.model.language_model.layers
    with torch.no_grad(), lens(batch), nn.trace(**batch.inputs):
        kwargs = layers[2].inputs[1]
        named = {k: v for k, v in kwargs.items() if k != "past_key_values"}
        h = layers[3].output
        again = layers[3](0.1 * h, **named).save()
        whole = nn(**batch.inputs).logits.save()
    assert again.shape == (batch.n, batch.inputs["input_ids"].shape[1], 32)
    assert torch.equal(whole, own)
    equal(lens.reads.log_probs, plain.reads.log_probs)


def test_a_stopped_run_keeps_what_was_read(llava_in_nnsight):
    _, nn, batch, _ = llava_in_nnsight
    before = hooks_of(nn)
    with torch.no_grad(), nn.trace(**batch.inputs) as tracer:
        inside.knockout(nn, "image", "question", layers=[0], batch=batch)
        stream = inside.readout(nn, layers=[0], batch=batch)
        h = nn.model.language_model.layers[1].output.save()
        tracer.stop()
    assert len(h) == stream.reads.n == batch.n
    assert hooks_of(nn) == before


def hooks_of(nn):
    modules = nn._module.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("span", ["image", "question"])
def test_noise_in_an_invoke_of_any_family_is_that_of_the_whole_batch(family, span):
    """Without ids: names by content, which rows of pixels may lie apart from."""
    model, batch = make(family)
    moments = pid_lens.calibrate(model, [batch])
    nn = in_nnsight(model, Rows)
    parts = [take(batch.inputs, rows) for rows in (slice(0, 1), slice(1, 4))]
    own = {name: mask[1:] for name, mask in batch.spans.items()}
    with torch.no_grad(), nn.trace() as tracer:
        with tracer.invoke(**parts[0]):
            first = nn.output.logits.save()
        with tracer.invoke(**parts[1]):
            inside.noise(nn, span, moments, spans=own)
            rest = nn.output.logits.save()
    equal(first, model(**batch.inputs).logits[:1])
    hidden = by_hooks(model, batch, Noise(span), spans=batch.spans, moments=moments)
    equal(rest, hidden[1:])


def take(inputs, rows):
    """Some samples' part of each input; pixels of Qwen lie in one row of patches."""
    n = len(inputs["input_ids"])
    parts = {}
    for name, value in inputs.items():
        each = len(value) // n
        parts[name] = value[rows.start * each : rows.stop * each]
    return parts


def test_another_model_than_the_traced_one_is_refused(llava_in_nnsight):
    _, nn, batch, _ = llava_in_nnsight
    with pytest.raises(ValueError, match="another model than the one that this block traces"):
        knocked_out_elsewhere(nn, in_nnsight(make("llava", seed=1)[0]), batch)


def knocked_out_elsewhere(nn, other, batch):
    with torch.no_grad(), nn.trace(**batch.inputs):
        inside.knockout(other, "image", "question", batch=batch)


def test_what_a_block_writes_is_in_the_readout(llava_in_nnsight):
    _, nn, batch, _ = llava_in_nnsight
    with torch.no_grad(), nn.trace(**batch.inputs):
        stream = inside.readout(nn, batch=batch)
        h = nn.model.language_model.layers[1].output
        h[1, -1] = h[0, -1]
        edited = nn.model.language_model.layers[1].output.save()
    anatomy = pid_lens.dissect(nn)
    direct = LogitLens()(edited[:, -1], batch.options, anatomy, 1)
    equal(stream.reads.log_probs[1, 0], direct)
    equal(direct[0], direct[1])


LATE = {
    "a layer that has run": lambda nn, batch: inside.knockout(
        nn, "image", "question", batch=batch
    ),
    "the layer that is read": lambda nn, batch: inside.readout(nn, layers=[1], batch=batch),
    "the decoder's input": lambda nn, batch: inside.intervene(nn, Zero("image"), batch=batch),
}


def behind_layer_1(nn, batch, function):
    with torch.no_grad(), nn.trace(**batch.inputs):
        nn.model.language_model.layers[1].output.save()
        function(nn, batch)


@pytest.mark.parametrize("late", LATE)
def test_too_late_is_an_error(llava_in_nnsight, late):
    model, nn, batch, _ = llava_in_nnsight
    with pytest.raises(ValueError, match="before the block reads"):
        behind_layer_1(nn, batch, LATE[late])
    with torch.no_grad(), nn.trace(**batch.inputs):
        logits = nn.output.logits.save()
    assert torch.equal(logits, model(**batch.inputs).logits), "nothing stays behind"


# ---------------------------------------------------------------- edits, sessions, invokes


def test_an_edit_keeps_a_knockout(llava_in_nnsight):
    model, nn, batch, _ = llava_in_nnsight
    expected = by_hooks(model, batch, Knockout("image", "answer"), spans=batch.spans)
    with nn.edit() as (_, edited):
        inside.knockout(edited, "image", "answer", batch=batch)
    for _ in range(2):
        with torch.no_grad(), edited.trace(**batch.inputs):
            logits = edited.output.logits.save()
        assert torch.equal(logits, expected)
    with torch.no_grad(), nn.trace(**batch.inputs):
        plain = nn.output.logits.save()
    assert torch.equal(plain, model(**batch.inputs).logits)


def test_a_session_has_three_conditions(llava_in_nnsight):
    model, nn, batch, moments = llava_in_nnsight
    lens, _ = read(model, batch, moments)
    with torch.no_grad(), nn.session():
        with nn.trace(**batch.inputs):
            full = inside.readout(nn, batch=batch)
        with nn.trace(**batch.inputs):
            inside.noise(nn, "question", moments, batch=batch)
            vision = inside.readout(nn, batch=batch)
        with nn.trace(**batch.inputs):
            inside.noise(nn, "image", moments, batch=batch)
            language = inside.readout(nn, batch=batch)
    mine = pid_lens.decompose(full=full, vision=vision, language=language)
    equal(mine.unique_vision.float(), lens.spectrum().unique_vision.float())


HIDDEN = {
    "a knockout": (Knockout("image", "question"),),
    "noise": (Noise("image"),),
    "zeros": (Zero("question"),),
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("family", ["llava", "gemma3", "mistral3"])
def test_an_invoke_touches_its_own_rows_alone(family, kind, backend, masked):
    """With a None mask, shared by rows and layers, and with one of many rows."""
    model, batch = make(family)
    model.set_attn_implementation(backend)
    moments = pid_lens.calibrate(model, [batch])
    inputs = dict(batch.inputs)
    inputs.pop("attention_mask", None)
    if masked:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    nn = Rows(deepcopy(model))
    parts = [{k: v[at] for k, v in inputs.items()} for at in (slice(0, 1), slice(1, 4))]
    own = {name: mask[1:] for name, mask in batch.spans.items()}
    with torch.no_grad(), nn.trace() as tracer:
        with tracer.invoke(**parts[0]):
            first = nn.output.logits.save()
        with tracer.invoke(**parts[1]):
            inside.intervene(nn, *HIDDEN[kind], spans=own, ids=batch.ids[1:], moments=moments)
            stream = inside.readout(
                nn, spans=own, ids=batch.ids[1:], options=batch.options[1:].tolist()
            )
            rest = nn.output.logits.save()
    with torch.no_grad():
        plain = model(**inputs).logits
    whole = replace(batch, inputs=inputs)
    hidden = by_hooks(
        model, whole, *HIDDEN[kind], spans=batch.spans, ids=batch.ids, moments=moments
    )
    equal(first, plain[:1])
    equal(rest, hidden[1:])
    assert not torch.allclose(rest, plain[1:], atol=1e-3)
    answers = hidden[1:, -1].log_softmax(-1).gather(-1, batch.options[1:])
    equal(stream.reads.log_probs[-1, 0], answers)
    assert stream.reads.ids == batch.ids[1:]


@pytest.mark.parametrize("masked", [True, False], ids=["a shared mask", "no mask"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "mistral3"])
def test_attention_is_closed_in_one_layer_and_in_no_other(family, masked):
    """Layers share one mask, or have none: what is closed in one must not show in the next."""
    model, batch = make(family)
    model.set_attn_implementation("eager")
    nn, inputs = in_nnsight(model), dict(batch.inputs)
    inputs.pop("attention_mask", None)
    if masked:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["attention_mask"][:, 0] = 0
    attentions = [
        nn.interleaver.envoys[id(pid_lens.dissect(nn).attention(layer))] for layer in range(4)
    ]
    with torch.no_grad(), nn.trace(**inputs):
        inside.knockout(nn, "image", "question", layers=[1], batch=batch)
        weights = nnsight.save([attention.output[1] for attention in attentions])
    closed = batch.spans["question"][:, :, None] & batch.spans["image"][:, None, :]
    seen = [layer.transpose(0, 1)[:, closed] for layer in weights]
    assert (seen[1] == 0).all()
    for layer in (0, 2, 3):
        assert seen[layer].amax() > 0, layer


def test_an_empty_invoke_has_all_rows(llava_in_nnsight):
    model, _, batch, _ = llava_in_nnsight
    nn = Rows(deepcopy(model))
    parts = [{k: v[at] for k, v in batch.inputs.items()} for at in (slice(0, 2), slice(2, 4))]
    with torch.no_grad(), nn.trace() as tracer:
        with tracer.invoke(**parts[0]):
            one = nn.output.logits.save()
        with tracer.invoke(**parts[1]):
            other = nn.output.logits.save()
        with tracer.invoke():
            inside.knockout(nn, "image", "question", batch=batch)
    expected = by_hooks(model, batch, Knockout("image", "question"), spans=batch.spans)
    assert torch.equal(torch.cat([one, other]), expected)


def test_removal_needs_the_whole_batch(llava_in_nnsight):
    model, nn, batch, _ = llava_in_nnsight
    expected = by_hooks(model, batch, Remove("image"), spans=batch.spans)
    with torch.no_grad(), nn.trace(**batch.inputs):
        inside.intervene(nn, Remove("image"), batch=batch)
        logits = nn.output.logits.save()
    assert torch.equal(logits, expected)
    with pytest.raises(ValueError, match="Remove"):
        removed_in_one_invoke(Rows(deepcopy(model)), batch)


def removed_in_one_invoke(nn, batch):
    parts = [{k: v[at] for k, v in batch.inputs.items()} for at in (slice(0, 2), slice(2, 4))]
    with torch.no_grad(), nn.trace() as tracer:
        with tracer.invoke(**parts[0]):
            inside.intervene(nn, Remove("image"), spans={k: m[:2] for k, m in batch.spans.items()})
        with tracer.invoke(**parts[1]):
            nn.output.save()
