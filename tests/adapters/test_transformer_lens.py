"""pid_lens's own functions at TransformerLens's hook points, and caches."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from bridges import (
    COMPUTED,
    DELEGATED,
    after_layer_1,
    both,
    by,
    cached,
    called,
    equal,
    intervened,
    parts,
    plainly,
    read_by,
    run,
    steered,
)
from pid_lens.adapters import transformer_lens as tl
from tiny import described, gemma4, make, padded, qwen3_vl

import pid_lens
from pid_lens import Knockout, Lens, LogitLens, Noise, Pooled, Reads

SCORES, PATTERN = "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern"
PLAIN = {"full": []}


# ---------------------------------------------------------------- noise and readouts


HIDDEN = {"full": None, "vision": "question", "language": "image"}
UNLEAKING = [family for family in (*COMPUTED, *DELEGATED) if family != "qwen3_vl"]


def streams(bridge, batch, moments, **more):
    """A pass under each condition, read by functions at hook points."""
    found = {}
    for name, span in HIDDEN.items():
        hooks = [] if span is None else tl.noise(bridge, batch, span, moments, **more)
        found[name] = tl.readout(bridge, batch)
        run(bridge, batch, hooks + found[name])
    return found


@pytest.mark.parametrize("family", UNLEAKING)
def test_three_passes_are_the_conditions_of_a_lens(family):
    model, bridge, batch, moments = both(family)
    plain, _ = read_by(Lens(model, moments=moments, seed=3), plainly, model, batch)
    found = streams(bridge, batch, moments, seed=3)
    joined = Reads.join(**{name: one.reads for name, one in found.items()})
    equal(joined.log_probs, plain.log_probs)
    assert (joined.ids, joined.contents) == (plain.ids, plain.contents)
    assert joined.settings["model"] == plain.settings["model"]


def test_three_passes_make_the_spectrum_of_a_lens(digits_model, digits_moments):
    model, _ = digits_model
    bridge, moments = tl.bridged(deepcopy(model)), digits_moments["language"]
    batch = next(iter(pid_lens.demo.batches("language", n=32)))
    lens = Lens(model, moments=moments)
    read_by(lens, plainly, model, batch)
    expected, found = lens.spectrum(), pid_lens.decompose(**streams(bridge, batch, moments))
    assert found.unique_language[-1] > 0.5
    for atom in ("redundancy", "unique_vision", "unique_language", "synergy"):
        equal(getattr(found, atom), getattr(expected, atom), atol=1e-4)


@pytest.mark.parametrize("span", ["image", "question"])
def test_noise_is_that_of_the_plain_model(either, span):
    model, bridge, batch, moments = either
    with bridge.hooks(fwd_hooks=tl.noise(bridge, batch, span, moments, seed=5)):
        logits, cache = cached(bridge, batch, names_filter="blocks.0.hook_resid_pre")
    _, plain = cached(bridge, batch, names_filter="blocks.0.hook_resid_pre")
    hidden = Noise(span, moments, seed=5)
    equal(logits, intervened(plainly, model, batch, hidden))
    changed = cache["blocks.0.hook_resid_pre"] != plain["blocks.0.hook_resid_pre"]
    assert torch.equal(changed.any(-1), batch.spans[span])


def test_each_draw_is_one_of_a_lens(either):
    _, bridge, batch, moments = either
    hidden = {**PLAIN, "hidden": [Noise("image", draws=3)]}
    lens = Lens(bridge, conditions=hidden, moments=moments, seed=5)
    expected = {}
    for view in lens.views(batch):
        with view:
            expected[view.condition, view.variation.draw] = called(bridge, batch)
    for draw in range(3):
        found = run(bridge, batch, tl.noise(bridge, batch, "image", moments, seed=5, draw=draw))
        equal(found, expected["hidden", draw])
    assert not torch.allclose(expected["hidden", 0], expected["hidden", 1], atol=1e-4)


def test_moments_of_the_bridge_are_those_of_its_model(pair):
    _, bridge, batch, moments = pair
    own = pid_lens.calibrate(bridge, [batch])
    assert (own.model, own.site) == (moments.model, moments.site)
    equal(own["image"].mean, moments["image"].mean)


@pytest.mark.parametrize("kind", ["hooks", "run_with_hooks", "run_with_cache", "in a lens"])
def test_a_readout_in_each_kind_of_call(pair, kind):
    model, bridge, batch, moments = pair
    states = (Pooled("image"), Pooled("question"))
    plain, _ = read_by(Lens(model, conditions=PLAIN, states=states), plainly, model, batch)
    read = tl.readout(bridge, batch, states=states)
    if kind == "run_with_hooks":
        run(bridge, batch, read)
    elif kind == "in a lens":
        read_by(Lens(bridge, moments=moments), partial(run, hooks=read), bridge, batch)
    else:
        with bridge.hooks(fwd_hooks=read):
            if kind == "hooks":
                called(bridge, batch)
            else:
                assert list(cached(bridge, batch, names_filter=PATTERN)[1].keys()) == [PATTERN]
    equal(read.reads.log_probs, plain.log_probs)
    for name in ("image", "question"):
        equal(read.reads.states[name], plain.states[name], atol=2e-3)


def test_a_readout_holds_the_pass_that_came_last(llava_pair):
    _, bridge, batch, moments = llava_pair
    read, again = (tl.readout(bridge, batch, layers=[0, 3]) for _ in range(2))
    run(bridge, batch, tl.noise(bridge, batch, "image", moments) + read)
    noised = read.reads
    run(bridge, batch, read)
    run(bridge, batch, again)
    assert torch.equal(read.reads.log_probs, again.reads.log_probs)
    assert not torch.equal(noised.log_probs, again.reads.log_probs)
    with bridge.hooks(fwd_hooks=read):
        called(bridge, batch, stop_at_layer=2)
    assert repr(read) == "ReadingHooks(4 samples, 1 of 2 layers read)"
    with pytest.raises(ValueError, match=r"layers \[3\] were not read"):
        _ = read.reads


def test_a_readout_sees_the_edits_that_were_added_before_it(llava_pair):
    _, bridge, batch, _ = llava_pair
    edit = after_layer_1(steered)
    before, after, plain = (tl.readout(bridge, batch) for _ in range(3))
    run(bridge, batch, plain)
    run(bridge, batch, edit + after)
    run(bridge, batch, before + edit)
    one, other, none = (read.reads.log_probs for read in (before, after, plain))
    assert torch.equal(one[1], none[1])
    assert not torch.allclose(other[1], none[1], atol=1e-4)
    assert torch.equal(one[2:], other[2:])


def test_inputs_by_themselves_are_understood_with_a_processor(digits_model):
    model, processor = digits_model
    bridge, batch = tl.bridged(deepcopy(model)), next(iter(pid_lens.demo.batches("vision", n=4)))
    moments = pid_lens.calibrate(bridge, [batch])
    more, bare = {"processor": processor}, replace(batch, ids=None)
    for mine, said in (
        (
            tl.knockout(bridge, batch.inputs, "image", "question", **more),
            tl.knockout(bridge, bare, "image", "question"),
        ),
        (
            tl.noise(bridge, batch.inputs, "question", moments, **more),
            tl.noise(bridge, bare, "question", moments),
        ),
    ):
        assert torch.equal(run(bridge, batch, mine), run(bridge, batch, said))
    read, told = tl.readout(bridge, batch.inputs, ("A", "B"), **more), tl.readout(bridge, bare)
    run(bridge, batch, read + told)
    assert torch.equal(read.reads.log_probs, told.reads.log_probs)
    assert read.reads.ids == told.reads.ids


def test_functions_do_the_same_in_compatibility_mode():
    _, bridge, batch, _ = both("llava")
    bridge.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    read = tl.readout(bridge, batch)
    run(bridge, batch, read)
    plain, _ = read_by(Lens(bridge, conditions=PLAIN), called, bridge, batch)
    equal(read.reads.log_probs, plain.log_probs)
    expected = intervened(called, bridge, batch, Knockout("image", "question"))
    for way in ("by_scores", "by_mask"):
        equal(run(bridge, batch, by(way, bridge, batch)), expected)


# ---------------------------------------------------------------- caches


FILTERS = {
    "everything": None,
    "aliases": lambda name: name.endswith("hook_resid_post"),
    "hook_out": lambda name: name.endswith("hook_out"),
    "names": [f"blocks.{layer}.hook_resid_post" for layer in range(4)],
}


@pytest.mark.parametrize("names", FILTERS)
def test_a_cache_is_read_as_the_pass_was(llava_pair, names):
    _, bridge, batch, _ = llava_pair
    read = tl.readout(bridge, batch, states=[Pooled("image")])
    with bridge.hooks(fwd_hooks=read):
        _, cache = cached(bridge, batch, names_filter=FILTERS[names])
    found = tl.read_cache(bridge, cache, batch, states=[Pooled("image")])
    assert torch.equal(found.log_probs, read.reads.log_probs)
    assert torch.equal(found.states["image"], read.reads.states["image"])
    last = tl.read_cache(bridge, cache.cache_dict, batch, layers=-1)
    assert torch.equal(last.log_probs[0], found.log_probs[-1])


def test_the_last_layer_of_a_cache_is_the_models_answer(pair):
    _, bridge, batch, _ = pair
    logits, cache = cached(bridge, batch)
    found = tl.read_cache(bridge, cache, replace(batch, options=None), choices=[5, 6])
    equal(found.log_probs[-1, 0], logits[:, -1].log_softmax(-1)[:, [5, 6]])


def test_a_cache_of_one_sample_without_its_batch_axis():
    _, bridge, batch, _ = both("llava", 1)
    _, whole = cached(bridge, batch)
    _, bare = cached(bridge, batch, remove_batch_dim=True)
    assert bare["blocks.0.hook_out"].ndim == 2
    expected = tl.read_cache(bridge, whole, batch).log_probs
    assert torch.equal(tl.read_cache(bridge, bare, batch).log_probs, expected)


def test_caches_that_cannot_be_read_are_refused(llava_pair):
    _, bridge, batch, _ = llava_pair
    answer = cached(bridge, batch, names_filter="blocks.1.hook_resid_post")
    with pytest.raises(TypeError, match="got a tuple"):
        tl.read_cache(bridge, answer, batch)
    with pytest.raises(ValueError, match=r"\[0, 2, 3\] are not in this cache.*names_filter"):
        tl.read_cache(bridge, answer[1], batch)
    assert tl.read_cache(bridge, answer[1], batch, layers=1).layers == (1,)
    _, sliced = cached(bridge, batch, pos_slice=-1)
    with pytest.raises(ValueError, match="the cache of layer 0 got"):
        tl.read_cache(bridge, sliced, batch)
    with pytest.raises(ValueError, match=r"\[3, 14\].*got \[4, 14\]"):
        tl.read_cache(bridge, answer[1], make("llava", 3)[1], layers=1)


# ---------------------------------------------------------------- what is refused


def made(name, bridge, batch, moments):
    return {
        "knockout": lambda: tl.knockout(bridge, batch, "image", "question", layers=[1]),
        "noise": lambda: tl.noise(bridge, batch, "image", moments),
        "readout": lambda: tl.readout(bridge, batch),
    }[name]()


@pytest.mark.parametrize("name", ["knockout", "noise", "readout"])
@pytest.mark.parametrize("other", ["fewer samples", "more tokens"])
def test_functions_belong_to_one_batch(either, name, other):
    model, bridge, batch, moments = either
    hooks = made(name, bridge, batch, moments)
    more = make(model.config.model_type, 3)[1]
    with pytest.raises(ValueError, match="make them anew for each batch"):
        run(bridge, more if other == "fewer samples" else padded(batch, "right"), hooks)
    assert called(bridge, batch).isfinite().all()


def test_a_prompt_behind_another_one_is_refused(either):
    _, bridge, batch, _ = either
    hooks, (ids, _) = tl.knockout(bridge, batch, "image", "question", layers=[1]), parts(batch)
    _, cache = called(bridge, batch, return_type="logits_and_cache", use_cache=True)
    with torch.no_grad(), pytest.raises(ValueError, match="the keys of attention in layer 1"):
        bridge.run_with_hooks(ids, fwd_hooks=hooks, past_key_values=cache)


@pytest.mark.parametrize("name", ["knockout", "noise", "readout"])
def test_functions_need_a_bridge_and_a_batch(llava_pair, name):
    model, bridge, batch, moments = llava_pair
    with pytest.raises(TypeError, match="expected a TransformerBridge"):
        made(name, model, batch, moments)
    with pytest.raises(TypeError, match="a batch must be"):
        made(name, bridge, batch.inputs["input_ids"], moments)


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ({"source": "sky"}, "no span 'sky'"),
        ({"target": "sky"}, "no span 'sky'"),
        ({"layers": [4]}, r"layers must lie in 0\.\.3"),
        ({"heads": [4]}, r"heads must lie in 0\.\.3"),
        ({"layers": []}, "at least one"),
    ],
)
def test_knockouts_of_what_is_not_there_are_refused(either, where, complaint):
    _, bridge, batch, _ = either
    with pytest.raises((ValueError, TypeError), match=complaint):
        tl.knockout(bridge, batch, **{"source": "image", "target": "question", **where})


def test_noise_of_another_model_or_span_is_refused(llava_pair):
    _, bridge, batch, moments = llava_pair
    other = pid_lens.calibrate(make("llava", seed=1)[0], [batch])
    with pytest.raises(ValueError, match="these moments belong to model"):
        tl.noise(bridge, batch, "image", other)
    with pytest.raises(ValueError, match="no moments for span 'sky'"):
        tl.noise(bridge, batch, "sky", moments)
    with pytest.raises(TypeError, match="must be Moments"):
        tl.noise(bridge, batch, "image", "moments")


@pytest.mark.filterwarnings("ignore:every embedding of span 'image' is the same:UserWarning")
@pytest.mark.parametrize(
    ("family", "complaint"),
    [(qwen3_vl, r"deepstack_visual_embeds.*pid_lens\.Lens"), (gemma4, "per_layer_inputs")],
)
def test_noise_that_would_leak_is_refused(family, complaint):
    model, inputs = family(4)
    bridge, batch = tl.bridged(model.eval()), described(inputs)
    moments = pid_lens.calibrate(bridge, [batch])
    with pytest.raises(ValueError, match=complaint):
        tl.noise(bridge, batch, "image", moments)


@pytest.mark.parametrize(
    ("asked", "error", "complaint"),
    [
        ({"layers": [9]}, ValueError, r"layers must lie in 0\.\.3"),
        ({"readout": LogitLens}, TypeError, "must be an instance"),
        ({"states": [Pooled("image", token="last")]}, ValueError, "one pass cannot prove"),
    ],
)
def test_readouts_of_what_is_not_there_are_refused(llava_pair, asked, error, complaint):
    _, bridge, batch, _ = llava_pair
    with pytest.raises(error, match=complaint):
        tl.readout(bridge, batch, **asked)


def test_a_readout_without_options_or_without_a_pass_is_refused(llava_pair):
    _, bridge, batch, _ = llava_pair
    with pytest.raises(ValueError, match="no options"):
        tl.readout(bridge, replace(batch, options=None))
    with pytest.raises(ValueError, match="were not read"):
        _ = tl.readout(bridge, batch).reads
