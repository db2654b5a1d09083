"""Attention closed in a bridge, by whichever way a hook point offers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bridges import DELEGATED, both, by, cached, called, equal, intervened, plainly, read_by, run
from pid_lens.adapters import transformer_lens as tl
from tiny import make, padded

from pid_lens import Knockout, Lens
from pid_lens.forward import ForkEditError

SCORES, PATTERN = "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern"


# ---------------------------------------------------------------- hook points that do something


@pytest.mark.parametrize("name", [SCORES, PATTERN])
def test_where_attention_can_be_edited(pair, name):
    model, bridge, _, _ = pair
    assert tl.is_live(bridge, name) is (model.config.model_type not in DELEGATED)


@pytest.mark.parametrize("name", ["embed.hook_in", "embed.hook_out", "blocks.3.hook_resid_post"])
def test_tokens_and_states_can_be_edited(pair, name):
    assert tl.is_live(pair[1], name)


def test_an_edit_does_what_was_said_of_its_hook_point(either):
    _, bridge, batch, _ = either

    def blank(scores, hook):
        scores[:] = 0.0

    moved = not torch.equal(run(bridge, batch, [(SCORES, blank)]), called(bridge, batch))
    assert moved is tl.is_live(bridge, SCORES)


def test_a_hook_point_of_the_vision_tower_needs_an_image(llava_pair):
    _, bridge, batch, _ = llava_pair
    with pytest.raises(ValueError, match=r"never reached by .* with nothing else"):
        tl.is_live(bridge, "vision_projector.hook_out")
    assert tl.is_live(bridge, "vision_projector.hook_out", batch)


def test_hook_points_that_are_not_there_or_switched_off_are_refused(llava_pair):
    _, bridge, _, _ = llava_pair
    with pytest.raises(KeyError, match="does not exist"):
        tl.is_live(bridge, "blocks.0.hook_nothing")
    with pytest.raises(ValueError, match="use_attn_result"):
        tl.is_live(bridge, "blocks.0.attn.hook_result")


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_trying_out_leaves_everything_as_it_was(family):
    """Others' functions, a lens, dropout and the global generator do not notice."""
    _, bridge, batch, moments = both(family)
    seen, before, state = [], called(bridge, batch), torch.get_rng_state()
    lens, model = Lens(bridge, moments=moments), bridge.original_model
    model.train()
    looking = [("blocks.1.hook_in", lambda states, hook: seen.append(states.shape))]
    with bridge.hooks(fwd_hooks=looking):
        assert tl.is_live(bridge, "blocks.1.hook_resid_pre")
        hooks = tl.knockout(bridge, batch, "image", "question")
        tl.noise(bridge, batch, "image", moments)
        assert not seen
        called(bridge, batch)
        assert len(seen) == 1
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    with lens(batch):
        tl.is_live(bridge, "blocks.2.hook_resid_pre")
        assert torch.equal(called(bridge, batch), before)
    assert lens.reads.ids == batch.ids
    assert not torch.equal(run(bridge, batch, hooks), before)


# ---------------------------------------------------------------- knockouts


KNOCKOUTS = {
    "everywhere": {},
    "layers": {"layers": [1, -1]},
    "heads": {"layers": [0, 2], "heads": [0, 3]},
}


@pytest.mark.parametrize("which", KNOCKOUTS)
def test_a_knockout_is_that_of_the_plain_model(pair, which):
    model, bridge, batch, _ = pair
    closed = Knockout("image", "question", **KNOCKOUTS[which])
    found = run(bridge, batch, tl.knockout(bridge, batch, "image", "question", **KNOCKOUTS[which]))
    equal(found, intervened(plainly, model, batch, closed))
    assert not torch.allclose(found, called(bridge, batch), atol=1e-4)


@pytest.mark.parametrize("which", KNOCKOUTS)
def test_masks_close_what_scores_close(computed, which):
    _, bridge, batch, _ = computed
    scores, masks = (
        by(way, bridge, batch, **KNOCKOUTS[which]) for way in ("by_scores", "by_mask")
    )
    assert {name.rpartition(".")[2] for name, _ in scores} == {"hook_attn_scores"}
    assert {name.rpartition(".")[2] for name, _ in masks} == {"hook_in"}
    equal(run(bridge, batch, masks), run(bridge, batch, scores))


@pytest.mark.parametrize("way", ["by_scores", "by_mask"])
def test_closed_pairs_are_exactly_0_and_all_else_is_open(computed, way):
    _, bridge, batch, _ = computed
    closed = batch.spans["question"][:, :, None] & batch.spans["image"][:, None, :]
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(4)]
    _, plain = cached(bridge, batch, names_filter=names)
    with bridge.hooks(fwd_hooks=by(way, bridge, batch, layers=[1, 2], heads=[1])):
        _, found = cached(bridge, batch, names_filter=names)
    for layer, name in enumerate(names):
        assert bool((found[name][:, 1][closed] == 0).all()) is (layer in (1, 2))
        equal(found[name].sum(-1), torch.ones(found[name].shape[:-1]))
    assert torch.equal(found[names[0]], plain[names[0]])
    equal(found[names[1]][:, [0, 2, 3]], plain[names[1]][:, [0, 2, 3]])


def test_a_token_sees_itself_when_all_else_is_closed(pair):
    """Then no token tells of another one, but by its position."""
    _, bridge, batch, _ = pair
    spans = batch.spans | {"all": torch.ones_like(batch.spans["image"])}
    batch = replace(batch, spans=spans)
    hooks = tl.knockout(bridge, batch, "all", "all")
    ids = batch.inputs["input_ids"].clone()
    ids[:, -3] += 1
    other = replace(batch, inputs={**batch.inputs, "input_ids": ids})
    one, two = run(bridge, batch, hooks), run(bridge, other, hooks)
    assert one.isfinite().all()
    assert torch.equal(one[:, -1], two[:, -1])
    assert not torch.equal(called(bridge, batch)[:, -1], called(bridge, other)[:, -1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_knockout_beside_padding(either, side):
    model, bridge, batch, _ = either
    batch = padded(batch, side)
    attended = batch.inputs["attention_mask"].bool()
    found = run(bridge, batch, tl.knockout(bridge, batch, "image", "question", layers=1))
    plain = intervened(plainly, model, batch, Knockout("image", "question", layers=[1]))
    equal(found[attended], plain[attended])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_knockout_in_half_precision(family):
    model, batch = make(family)
    bridge = tl.bridged(model.to(torch.bfloat16))
    pixels = batch.inputs["pixel_values"].to(torch.bfloat16)
    batch = replace(batch, inputs={**batch.inputs, "pixel_values": pixels})
    found = run(bridge, batch, tl.knockout(bridge, batch, "image", "question"))
    equal(found, intervened(called, bridge, batch, Knockout("image", "question")), atol=1e-2)
    assert not torch.equal(found, called(bridge, batch))


def test_functions_of_a_batch_run_as_often_as_one_likes(either):
    _, bridge, batch, _ = either
    hooks = tl.knockout(bridge, batch, "image", "question", layers=[1, 2])
    first = run(bridge, batch, hooks)
    with bridge.hooks(fwd_hooks=hooks):
        assert torch.equal(called(bridge, batch), first)
        assert torch.equal(called(bridge, batch), first)


def test_a_pass_that_stops_leaves_nothing_in_force(either):
    _, bridge, batch, _ = either
    before = called(bridge, batch)
    for way in ("by_scores", "by_mask"):
        with bridge.hooks(fwd_hooks=by(way, bridge, batch, layers=[1])):
            called(bridge, batch, stop_at_layer=1)
        assert torch.equal(called(bridge, batch), before)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_what_hides_is_refused_in_a_fork(family, n):
    _, bridge, batch, moments = both(family, n)
    lens = Lens(bridge, moments=moments)
    for hooks in (
        tl.knockout(bridge, batch, "image", "question"),
        tl.noise(bridge, batch, "image", moments),
    ):
        with (
            pytest.raises((ForkEditError, ValueError), match=r"interventions=\[\.\.\.\]"),
            lens(batch),
        ):
            run(bridge, batch, hooks)


def test_a_knockout_in_a_replay_is_that_of_the_lens(either):
    model, bridge, batch, moments = either
    plain = Lens(model, moments=moments, interventions=[Knockout("image", "question")])
    expected, _ = read_by(plain, plainly, model, batch)
    lens, hooks = Lens(bridge, moments=moments), tl.knockout(bridge, batch, "image", "question")
    for view in lens.views(batch):
        with view:
            run(bridge, batch, hooks)
    equal(lens.reads.log_probs, expected.log_probs)
