"""The self-check: it holds for every family, and fails where something leaks."""

from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, make

import pid_lens
from pid_lens import check


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes(name):
    model, batch = make(name)
    found = check(model, batch)
    assert found.ok, str(found)
    assert "9 of 9 properties hold" in str(found)


LEAKS = {
    "DeepStack": ("qwen3_vl", {"image"}),
    "cross-attention": ("mllama", {"image"}),
    "a Q-Former that reads": ("instructblip", {"question"}),
}


@pytest.mark.parametrize(("name", "leaking"), LEAKS.values(), ids=LEAKS)
def test_another_entrance_that_nobody_knows_of_is_noticed(name, leaking):
    model, batch = make(name)
    anatomy = replace(pid_lens.dissect(model), entrances=(), question_aware=None)
    found = check(None, batch, anatomy=anatomy)
    assert leaking <= set(found.failed)
    assert not found.ok


def failing(change, name="llava"):
    """The properties that fail in a model that is changed so."""
    model, batch = make(name)
    anatomy = change(model)
    return set(check(model if anatomy is None else None, batch, anatomy=anatomy).failed)


def test_a_blind_model_proves_nothing():
    def blind(model):
        model.model.multi_modal_projector.linear_2.weight.data.zero_()

    assert "sighted" in failing(blind)


def test_a_leak_behind_the_decoders_input_is_noticed():
    """A number made of the pixels is added in the second layer."""

    def leak(model):
        seen = {}
        model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
        )

        def add(module, args, output):
            pixels = seen["pixel_values"].flatten(1)[:, ::97].mean(1)
            times = len(output) // len(pixels)
            return output + pixels.repeat(times)[:, None, None]

        model.model.language_model.layers[1].register_forward_hook(add)

    assert {"image", "knockout"} <= failing(leak)


def test_a_wrong_last_step_is_noticed():
    assert "lens" in failing(lambda model: replace(pid_lens.dissect(model), scale=3.0))


def test_samples_that_see_each_other_are_noticed():
    def mix(model):
        layer = model.model.language_model.layers[1]
        layer.register_forward_hook(lambda module, args, output: output + output.mean(0))

    assert "batch" in failing(mix)


def test_what_cannot_be_measured_has_failed_and_says_why():
    model, batch = make("llava")
    one = replace(
        batch,
        inputs={k: v[:1] for k, v in batch.inputs.items()},
        spans={k: m[:1] for k, m in batch.spans.items()},
        options=batch.options[:1],
        labels=None,
        ids=None,
    )
    found = check(model, one)
    assert found.failed == ("batch",)
    assert "FAILED batch: needs two samples" in str(found)
    with pytest.raises(TypeError, match="check needs inputs"):
        check(model)


def test_the_check_leaves_the_model_as_it_was():
    model, batch = make("qwen2_5_vl")
    with torch.no_grad():
        before = model(**batch.inputs).logits
        check(model, batch)
        assert torch.equal(model(**batch.inputs).logits, before)
