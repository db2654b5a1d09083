"""The same lens around TransformerLens's bridges, and what bridges are built of."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import pytest
import torch
from bridges import after_layer_1, cached, called, equal, plainly, read_by, run, steered
from pid_lens.adapters import transformer_lens as tl
from tiny import make
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

import pid_lens
from pid_lens import Lens
from pid_lens.forward import ForkEditError

# ---------------------------------------------------------------- the lens


@pytest.mark.parametrize("call", [called, run])
def test_the_same_lens_around_a_call(pair, call):
    model, bridge, batch, moments = pair
    plain, logits = read_by(Lens(model, moments=moments), plainly, model, batch)
    found, mine = read_by(Lens(bridge, moments=moments), call, bridge, batch)
    equal(found.log_probs, plain.log_probs)
    equal(mine, logits)
    assert torch.equal(mine, call(bridge, batch))


def test_a_cache_in_a_lens_holds_the_callers_rows(pair):
    _, bridge, batch, moments = pair
    _, plain = cached(bridge, batch)
    _, (_, found) = read_by(Lens(bridge, moments=moments), cached, bridge, batch)
    assert set(found.cache_dict) == set(plain.cache_dict)
    for name, tensor in plain.cache_dict.items():
        equal(found[name], tensor)


def swapped(states, hook=None):
    """An edit that names rows."""
    edited = states.clone()
    edited[1, -1] = states[0, -1]
    return edited


@contextmanager
def editing(model, edit):
    """The edit as a torch hook on the plain model, before any lens is."""

    def hook(module, args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    handle = pid_lens.dissect(model).layers[1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def swapped_in_place(states, hook):
    states[1, -1] = states[0, -1]


@pytest.mark.parametrize("edit", [swapped, swapped_in_place])
def test_an_edit_of_rows_in_a_fork_is_refused(pair, edit):
    _, bridge, batch, moments = pair
    lens = Lens(bridge, moments=moments)
    both_cures = r"(?s)lens\.views\(\).*fork_edits=True"
    with pytest.raises(ForkEditError, match=both_cures), lens(batch):
        run(bridge, batch, after_layer_1(edit))
    assert not torch.equal(run(bridge, batch, after_layer_1(edit)), called(bridge, batch))


def test_an_edit_of_rows_is_right_in_a_replay(pair):
    model, bridge, batch, moments = pair
    plain, lens = Lens(model, moments=moments), Lens(bridge, moments=moments)
    for view in lens.views(batch):
        with view:
            run(bridge, batch, after_layer_1(swapped))
    with editing(model, swapped):
        for view in plain.views(batch):
            with view:
                plainly(model, batch)
    equal(lens.reads.log_probs, plain.reads.log_probs)


def test_steering_reaches_every_condition_of_a_fork(pair):
    model, bridge, batch, moments = pair
    plain, lens = (Lens(one, moments=moments, fork_edits=True) for one in (model, bridge))
    with editing(model, steered):
        expected, _ = read_by(plain, plainly, model, batch)
    found, _ = read_by(lens, partial(run, hooks=after_layer_1(steered)), bridge, batch)
    equal(found.log_probs, expected.log_probs)


# ---------------------------------------------------------------- bridges


def test_a_bridge_around_a_model_in_memory(pair):
    model, bridge, batch, _ = pair
    assert type(bridge.original_model) is type(model)
    equal(called(bridge, batch), plainly(model, batch))
    with pytest.raises(ValueError, match="has a bridge already"):
        tl.bridged(bridge.original_model)


@pytest.mark.parametrize("name", ["Qwen2_5_VL", "Qwen3VL", "Qwen3VLMoe"])
def test_what_a_family_asks_for_is_as_it_was_when_a_bridge_fails(name):
    architecture = f"{name}ForConditionalGeneration"
    adapter = SUPPORTED_ARCHITECTURES[architecture]
    before, own = adapter.required_libraries, "required_libraries" in vars(adapter)
    model, _ = make("qwen2_5_vl")
    model.__class__ = type(architecture, (type(model),), {})
    del model.model.language_model.norm
    with pytest.raises(AttributeError):
        tl.bridged(model)
    assert adapter.required_libraries is before
    assert ("required_libraries" in vars(adapter)) is own


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl", "paligemma", "mllama"])
def test_families_without_a_bridge_are_told_what_there_is(family):
    model, batch = make(family)
    with pytest.raises(ValueError, match=r"(?s)Gemma3, .*Llava, .*pid_lens\.Lens"):
        tl.bridged(model)
    assert plainly(model, batch).isfinite().all()


def test_a_bridge_takes_a_processor_for_its_tokenizer(digits_model):
    model, processor = digits_model
    own, begins = processor.tokenizer, processor.tokenizer.init_kwargs.get("add_bos_token")
    bridge = tl.bridged(deepcopy(model), processor)
    assert bridge.to_tokens("A", prepend_bos=False)[0].tolist() == own("A").input_ids
    assert bridge.tokenizer is not own
    assert own.init_kwargs.get("add_bos_token") == begins


def test_what_is_no_plain_model_is_refused(llava_pair, digits_model):
    with pytest.raises(TypeError, match="are model and tokenizer swapped"):
        tl.bridged(digits_model[1])
    with pytest.raises(ValueError, match="has a bridge already"):
        tl.bridged(llava_pair[1])
    with pytest.raises(TypeError, match="nothing is loaded here; got 'gpt2'"):
        tl.bridged(make("llava")[0], "gpt2")
