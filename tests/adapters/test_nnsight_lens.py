"""The same lens around nnsight's traces, and edits in a fork."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from nnsight import NNsight
from tiny import Rows, make, read

import pid_lens
from pid_lens import (
    Lens,
)
from pid_lens.forward import ForkEditError


def equal(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


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


def test_token_embeddings_may_be_edited(llava_in_nnsight):
    """They are looked up before the fork, so that an edit reaches every condition."""
    model, nn, batch, moments = llava_in_nnsight
    words = nn.model.language_model.embed_tokens
    lens = Lens(nn, moments=moments)
    with torch.no_grad(), lens(batch), nn.trace(**batch.inputs):
        h = words.output
        h[1] = h[0]
    plain = Lens(model, moments=moments)
    handle = model.get_input_embeddings().register_forward_hook(lambda m, a, out: swap(out))
    for view in plain.views(batch):
        with torch.no_grad(), view:
            model(**batch.inputs)
    handle.remove()
    equal(lens.reads.log_probs, plain.reads.log_probs)


def swap(embeddings):
    embeddings = embeddings.clone()
    embeddings[1] = embeddings[0]
    return embeddings


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


def test_invokes_do_not_edit_each_others_rows(llava_in_nnsight):
    model, _, batch, moments = llava_in_nnsight
    nn = Rows(deepcopy(model))
    with pytest.raises(ForkEditError, match="several invokes"):
        steered_in_one_invoke(nn, batch, Lens(nn, moments=moments, fork_edits=True))


def steered_in_one_invoke(nn, batch, lens):
    parts = [{k: v[at] for k, v in batch.inputs.items()} for at in (slice(0, 2), slice(2, 4))]
    with lens(batch), torch.no_grad(), nn.trace() as tracer:
        with tracer.invoke(**parts[0]):
            layer = nn.model.language_model.layers[1]
            layer.output = layer.output + 1
        with tracer.invoke(**parts[1]):
            nn.output.save()


def stopped(nn, batch, lens):
    with lens(batch), torch.no_grad(), nn.trace(**batch.inputs) as tracer:
        nn.model.language_model.layers[1].output.save()
        tracer.stop()


def test_a_pass_that_is_stopped_is_not_read_in_silence(llava_in_nnsight):
    _, nn, batch, moments = llava_in_nnsight
    lens = Lens(nn, moments=moments)
    with pytest.warns(UserWarning, match="stopped before their end"):
        stopped(nn, batch, lens)
    with pytest.raises(ValueError, match="no sample was read yet"):
        lens.reads  # noqa: B018
    with torch.no_grad(), lens(batch), nn.trace(**batch.inputs):
        nn.output.save()
    assert lens.reads.n == batch.n


def test_a_lens_waits_for_weights(llava):
    model, batch, _ = llava
    nn = NNsight(deepcopy(model).to("meta"))
    lens = Lens(nn, conditions={"full": []})
    with pytest.raises(ValueError, match=r"not loaded yet.*dispatch=True"), lens(batch):
        pass
