"""The same lens, and pid_lens's own functions, in traces of nnsight."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import nnsight
import pytest
import torch
from nnsight import NNsight
from pid_lens.adapters import nnsight as inside
from tiny import FAMILIES, in_nnsight, make, read

import pid_lens
from pid_lens import Knockout, Lens, LogitLens, Noise, Pooled, Remove, Zero, intervene
from pid_lens.watching import ForkEditError


@pytest.fixture(params=FAMILIES)
def traced(request):
    """A tiny model of each family and the same in nnsight, a batch, and moments of both."""
    model, batch = make(request.param)
    moments = pid_lens.calibrate(model, [batch])
    return model, in_nnsight(model), batch, moments


@pytest.fixture
def llava_in_nnsight(llava):
    model, batch, moments = llava
    return model, NNsight(deepcopy(model)), batch, moments


def equal(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def decoder_of(nn, model):
    """The envoy of a model's decoder."""
    return nn.interleaver.envoys[id(pid_lens.dissect(nn).decoder)]


# ---------------------------------------------------------------- the lens


def test_the_same_lens_around_a_trace(traced):
    model, nn, batch, moments = traced
    plain, logits = read(model, batch, moments)
    lens = Lens(nn, moments=moments)
    with torch.no_grad(), lens(batch), nn.trace(**batch.inputs):
        mine = nn.output.logits.save()
    equal(lens.reads.log_probs, plain.reads.log_probs)
    assert torch.equal(mine, logits)


def test_the_same_lens_by_views(traced):
    model, nn, batch, moments = traced
    plain, logits = read(model, batch, moments)
    lens = Lens(nn, moments=moments)
    for view in lens.views(batch):
        with torch.no_grad(), view, nn.trace(**batch.inputs):
            mine = nn.output.logits.save()
        assert view.condition != "full" or torch.equal(mine, logits)
    equal(lens.reads.log_probs, plain.reads.log_probs)


def test_what_a_block_reads_is_what_it_read_without_a_lens(traced):
    """The lens calls the norm and the unembedding, too, which is no visit of the model's."""
    _, nn, batch, moments = traced
    anatomy = pid_lens.dissect(nn)
    layer, norm, unembed = (
        nn.interleaver.envoys[id(module)]
        for module in (anatomy.layers[1], anatomy.norm, anatomy.unembed)
    )

    def block():
        with torch.no_grad(), nn.trace(**batch.inputs):
            entering = layer.inputs.save()
            state = layer.output.save()
            normed = norm.output.save()
            logits = unembed.output.save()
        return (
            entering[0][0] if entering[0] else entering[1]["hidden_states"],
            state,
            normed,
            logits,
        )

    before = block()
    lens = Lens(nn, moments=moments)
    with lens(batch):
        during = block()
    assert lens.reads.n == batch.n
    for one, other in zip(before, during, strict=True):
        one, other = (x[0] if isinstance(x, tuple) else x for x in (one, other))
        assert one.shape == other.shape
        equal(one, other)


def test_a_cache_during_a_fork_has_the_callers_rows(llava_in_nnsight):
    _, nn, batch, moments = llava_in_nnsight
    layers = nn.model.language_model.layers

    def cached():
        with torch.no_grad(), nn.trace(**batch.inputs) as tracer:
            cache = tracer.cache(modules=[layers[2]])
        return cache["model.model.language_model.layers.2"].output

    before = cached()
    with Lens(nn, moments=moments)(batch):
        equal(cached(), before)


def test_several_invokes_read_their_own_rows_during_a_fork(llava_in_nnsight):
    _, _, batch, moments = llava_in_nnsight
    nn = Rows(deepcopy(make("llava")[0]))
    halves = [{k: v[at] for k, v in batch.inputs.items()} for at in (slice(0, 1), slice(1, 4))]

    def block():
        found = []
        with torch.no_grad(), nn.trace() as tracer:
            with tracer.invoke(**halves[0]):
                one = nn.model.language_model.layers[1].output.save()
            with tracer.invoke(**halves[1]):
                other = nn.model.language_model.layers[1].output.save()
        found += [one, other]
        return found

    before = block()
    lens = Lens(nn, moments=moments)
    with lens(batch):
        during = block()
    assert [len(x) for x in before] == [len(x) for x in during] == [1, 3]
    for one, other in zip(before, during, strict=True):
        equal(one, other)
    equal(lens.reads.log_probs, read(make("llava")[0], batch, moments)[0].reads.log_probs)


class Rows(NNsight):
    """Puts the inputs of several invokes together, row by row."""

    def _batch_size(self, *inputs, **kwargs):
        return len(kwargs["input_ids"]) if "input_ids" in kwargs else 0

    def _batch(self, invokes, fn):
        parts = [kwargs for _, kwargs in invokes]
        return (), {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


# ---------------------------------------------------------------- edits in a fork


def patch(h):
    h[1, -1] = h[0, -1]
    return h


EDITS = {
    "in place": lambda layer: patch(layer.output),
    "another value": lambda layer: setattr(layer, "output", layer.output * 2),
    "its input": lambda layer: setattr(layer, "input", layer.input + 1),
    "skipped": lambda layer: layer.skip(layer.input),
    "within it": lambda layer: setattr(layer.mlp, "output", layer.mlp.output * 2),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_write_in_a_fork_is_refused(llava_in_nnsight, edit):
    _, nn, batch, moments = llava_in_nnsight
    layer = nn.model.language_model.layers[1]
    with (
        pytest.raises(ForkEditError, match=r"lens.views\(\).*fork_edits=True"),
        torch.no_grad(),
        Lens(nn, moments=moments)(batch),
        nn.trace(**batch.inputs),
    ):
        EDITS[edit](layer)
    plain, _ = read(make("llava")[0], batch, moments)
    equal(read(nn._module, batch, moments)[0].reads.log_probs, plain.reads.log_probs)


def test_a_write_outside_the_decoder_is_nobodys_business(llava_in_nnsight):
    model, nn, batch, moments = llava_in_nnsight
    lens = Lens(nn, moments=moments, check=False)
    with torch.no_grad(), lens(batch), nn.trace(**batch.inputs):
        nn.lm_head.output = nn.lm_head.output * 2
        logits = nn.output.logits.save()
    equal(logits, 2 * model(**batch.inputs).logits)


def hooked_patch(model, layer):
    """The patch as a plain hook."""
    return model.model.language_model.layers[layer].register_forward_hook(
        lambda module, args, output: patch(output.clone())
    )


def test_a_patch_that_names_rows_is_right_in_replay(llava_in_nnsight):
    model, nn, batch, moments = llava_in_nnsight
    lens = Lens(nn, moments=moments, check=False)
    for view in lens.views(batch):
        with torch.no_grad(), view, nn.trace(**batch.inputs):
            h = nn.model.language_model.layers[1].output
            h[1, -1] = h[0, -1]
    plain = Lens(model, moments=moments, check=False)
    handle = hooked_patch(model, 1)
    for view in plain.views(batch):
        with torch.no_grad(), view:
            model(**batch.inputs)
    handle.remove()
    equal(lens.reads.log_probs, plain.reads.log_probs)
    untouched = read(model, batch, moments)[0].reads.log_probs
    assert not torch.allclose(plain.reads.log_probs, untouched, atol=1e-3)


def test_steering_is_the_same_in_a_trace_and_by_a_hook(traced):
    model, nn, batch, moments = traced
    layer = pid_lens.dissect(nn).layers[1]
    envoy = nn.interleaver.envoys[id(layer)]
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))

    def steered(output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    lens = Lens(nn, moments=moments, fork_edits=True)
    with torch.no_grad(), lens(batch), nn.trace(**batch.inputs):
        envoy.output = steered(envoy.output)
    plain = Lens(model, moments=moments, fork_edits=True)
    handle = (
        pid_lens.dissect(model).layers[1].register_forward_hook(lambda m, a, out: steered(out))
    )
    with torch.no_grad(), plain(batch):
        model(**batch.inputs)
    handle.remove()
    equal(lens.reads.log_probs, plain.reads.log_probs)
    untouched = read(model, batch, moments)[0].reads.log_probs
    assert not torch.allclose(plain.reads.log_probs, untouched, atol=1e-3)


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


# ---------------------------------------------------------------- edits, sessions, invokes, steps


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


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "mllama"])
def test_a_knockout_in_every_step_of_a_generation(family, cached):
    model, batch = make(family)
    nn = NNsight(deepcopy(model))
    how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "use_cache": cached}
    told = {"output_logits": True, "return_dict_in_generate": True}
    closed = Knockout("image", "answer")
    with torch.no_grad(), intervene(model, closed, spans=batch.spans):
        expected = model.generate(**batch.inputs, **how, **told)
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, **how, **told, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[:3]:
            inside.knockout(nn, "image", "answer", batch=batch)
            nn.lm_head.output.sum().save()
        found = tracer.result.save()
    for one, other in zip(found.logits, expected.logits, strict=True):
        equal(one, other)
    plain = model.generate(**batch.inputs, **how, **told)
    assert not torch.allclose(found.logits[0], plain.logits[0], atol=1e-4)


def generated(nn, batch, steps):
    """Logits of three steps, with a knockout in some of them."""
    how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    told = {"output_logits": True, "return_dict_in_generate": True}
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, **how, **told, fn=nn._module.generate) as tracer,
    ):
        for step in tracer.iter[:3]:
            if step in steps:
                inside.knockout(nn, "image", "answer", batch=batch)
            nn.lm_head.output.sum().save()
        found = tracer.result.save()
    return found.logits


def test_a_knockout_holds_in_its_own_step_alone(llava_in_nnsight):
    _, nn, batch, _ = llava_in_nnsight
    plain, first, second = (generated(nn, batch, steps) for steps in ([], [0], [1]))
    assert not torch.equal(first[0], plain[0])
    assert torch.equal(second[0], plain[0])
    assert not torch.equal(second[1], plain[1])
    with torch.no_grad(), nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate):
        inside.knockout(nn, "image", "answer", batch=batch)
    assert torch.equal(generated(nn, batch, [])[0], plain[0])


def test_a_loop_that_reads_nothing_ends(llava_in_nnsight):
    """Without anything to wait for, an open loop over tracer.iter would never come to an end."""
    _, nn, batch, _ = llava_in_nnsight
    with pytest.warns(UserWarning, match="was never reached"):
        openly(nn, batch)


def openly(nn, batch):
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[:]:
            inside.knockout(nn, "image", "answer", batch=batch)


def reading_first(nn, batch):
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[1:3]:
            nn.model.language_model.layers[0].input.save()
            inside.knockout(nn, "image", "answer", layers=[2, 3], batch=batch)


def readout_of_a_step(nn, batch):
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[1]:
            inside.readout(nn, batch=batch)


def with_beams(nn, batch):
    how = {"max_new_tokens": 3, "num_beams": 2, "fn": nn._module.generate}
    with torch.no_grad(), nn.trace(**batch.inputs, **how) as tracer:
        for _ in tracer.iter[1]:
            inside.knockout(nn, "image", "answer", batch=batch)


def outside(nn, batch):
    inside.knockout(nn, "image", "answer", batch=batch)


def beside_invokes(nn, batch):
    with nn.trace() as tracer:
        inside.readout(nn, batch=batch)
        with tracer.invoke(**batch.inputs):
            nn.output.save()


def of_the_plain_model(nn, batch):
    with nn.trace(**batch.inputs):
        inside.readout(nn._module, batch=batch)


def of_another_batch(nn, batch):
    ids = batch.inputs["input_ids"].clone()
    ids[:, 0] += 1
    with nn.trace(**{**batch.inputs, "input_ids": ids}):
        inside.readout(nn, batch=batch)


def in_a_lens(nn, batch):
    with Lens(nn, conditions={"full": []})(batch), torch.no_grad(), nn.trace(**batch.inputs):
        inside.knockout(nn, "image", "answer", batch=batch)


def without_options(nn, batch):
    with nn.trace(**batch.inputs):
        inside.readout(nn, spans=batch.spans)


def without_a_question(nn, batch):
    with nn.trace(**batch.inputs):
        inside.knockout(nn, "image", "question")


def asked_too_early(nn, batch):
    with nn.trace(**batch.inputs):
        inside.readout(nn, batch=batch).reads  # noqa: B018


WRONG = {
    reading_first: "before the loop's own reads",
    readout_of_a_step: "readout reads prompts",
    with_beams: "a beam search cannot be told apart",
    outside: "belongs into a trace's own block",
    beside_invokes: "into one of them",
    of_the_plain_model: "needs the nnsight model that is traced",
    of_another_batch: "not the inputs of the batch that was described",
    in_a_lens: r"Lens\(..., interventions=\[...\]\)",
    without_options: "no options",
    without_a_question: "without a processor the question cannot be found",
    asked_too_early: r"layers \[0, 1, 2, 3\] were not read",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_errors_say_what_to_do(llava_in_nnsight, wrong):
    model, nn, batch, _ = llava_in_nnsight
    with pytest.raises((ValueError, TypeError, RuntimeError), match=WRONG[wrong]):
        wrong(nn, batch)
    with torch.no_grad(), nn.trace(**batch.inputs):
        logits = nn.output.logits.save()
    assert torch.equal(logits, model(**batch.inputs).logits), "nothing stays behind"
