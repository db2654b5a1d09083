"""The laws of an instrumented forward pass."""

import math
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from tiny import padded, read
from transformers import DynamicCache

import pid_lens
from pid_lens import Lens, Noise, Pooled, Reads


def rows(batch, keep):
    """Some rows of a batch."""
    keep = torch.as_tensor(keep)
    return pid_lens.Batch(
        inputs={name: value[keep] for name, value in batch.inputs.items()},
        spans={name: mask[keep] for name, mask in batch.spans.items()},
        options=batch.options[keep],
        labels=batch.labels[keep],
        ids=tuple(batch.ids[row] for row in keep),
    )


def test_last_layer_is_the_models_own_answer(family_with_moments):
    model, batch, moments = family_with_moments
    lens, logits = read(model, batch, moments)
    own = logits[:, -1].log_softmax(-1).gather(-1, batch.options)
    torch.testing.assert_close(lens.reads.log_probs[-1, 0], own, atol=1e-5, rtol=0)


def test_fork_gives_back_the_users_logits(family_with_moments):
    model, batch, moments = family_with_moments
    with torch.no_grad():
        plain = model(**batch.inputs).logits
    _, logits = read(model, batch, moments)
    assert logits.shape == plain.shape
    torch.testing.assert_close(logits, plain, atol=1e-5, rtol=0)


def test_fork_equals_replay_and_replay_leaves_logits_alone(family_with_moments):
    model, batch, moments = family_with_moments
    fork, _ = read(model, batch, moments, draws=2)
    replay = Lens(model, moments=moments, draws=2)
    with torch.no_grad():
        plain = model(**batch.inputs).logits
        for view in replay.views(batch):
            with view:
                logits = model(**batch.inputs).logits
            if view.condition == "full":
                assert torch.equal(logits, plain)
            else:
                assert not torch.equal(logits, plain)
    torch.testing.assert_close(fork.reads.log_probs, replay.reads.log_probs, atol=1e-5, rtol=0)
    assert fork.reads.settings == replay.reads.settings


def test_noised_modality_no_longer_matters(family_with_moments):
    """With the image noised its pixels change nothing; with the question noised its words."""
    model, batch, moments = family_with_moments
    lens, _ = read(model, batch, moments)
    pixels = next(name for name in ("pixel_values", "image_patches") if name in batch.inputs)
    other = {**batch.inputs, pixels: torch.randn_like(batch.inputs[pixels])}
    words = {"input_ids": batch.inputs["input_ids"].where(~batch.spans["question"], 222)}
    if "qformer_input_ids" in batch.inputs:
        words["qformer_input_ids"] = torch.full_like(batch.inputs["qformer_input_ids"], 222)
    swapped_image, _ = read(model, replace(batch, inputs=other), moments)
    swapped_words, _ = read(model, replace(batch, inputs={**batch.inputs, **words}), moments)
    before, image = lens.reads.log_probs, swapped_image.reads.log_probs
    words = swapped_words.reads.log_probs
    assert torch.equal(before[:, 2], image[:, 2])
    assert torch.equal(before[:, 1], words[:, 1])
    assert not torch.allclose(before[:, 0], image[:, 0], atol=1e-4)
    assert not torch.allclose(before[:, 0], words[:, 0], atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(family_with_moments, side, attention):
    model, batch, moments = family_with_moments
    model.set_attn_implementation(attention)
    plain, _ = read(model, batch, moments)
    wide, _ = read(model, padded(batch, side), moments)
    torch.testing.assert_close(plain.reads.log_probs, wide.reads.log_probs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_size_and_order_change_nothing(digits_model, digits_moments, size):
    model, processor = digits_model
    whole = Lens(model, processor, moments=digits_moments["synergy"])
    parts = Lens(model, processor, moments=digits_moments["synergy"])
    (batch,) = pid_lens.demo.batches("synergy", n=64, batch_size=64)
    with torch.no_grad():
        with whole(batch):
            model(**batch.inputs)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(size))
        for keep in order.split(size):
            with parts(rows(batch, keep)):
                model(**rows(batch, keep).inputs)
    shuffled = parts.reads.rows(map(parts.reads.ids.index, whole.reads.ids))
    torch.testing.assert_close(shuffled.log_probs, whole.reads.log_probs, atol=1e-5, rtol=1e-5)
    one, other = whole.spectrum(), parts.spectrum()
    steady = (whole.reads.mass - 0.3).abs().amin((1, 2)) > 1e-4
    assert steady[-1]
    for atom in ("redundancy", "unique_vision", "unique_language", "synergy"):
        change = (getattr(one, atom) - getattr(other, atom)).abs()[steady]
        assert change.max() < 1e-4


def test_plain_calls_find_spans_and_ids(digits_model, digits_moments):
    """`with lens: model(**inputs)` reads the same as with everything said."""
    model, processor = digits_model
    moments = digits_moments["synergy"]
    (batch,) = pid_lens.demo.batches("synergy", n=16)
    plain = Lens(model, processor, choices=("A", "B"), moments=moments)
    with plain, torch.no_grad():
        model(**batch.inputs)
    said = Lens(model, moments=moments)
    with said(replace(batch, ids=None)), torch.no_grad():
        model(**batch.inputs)
    assert plain.reads.ids == said.reads.ids
    assert torch.equal(plain.reads.log_probs, said.reads.log_probs)
    assert (plain.reads.labels == -1).all()


def test_positional_arguments(llava):
    model, batch, moments = llava
    by_name, _ = read(model, batch, moments)
    lens = Lens(model, moments=moments)
    with lens(batch), torch.no_grad():
        model(batch.inputs["input_ids"], batch.inputs["pixel_values"])
    assert torch.equal(lens.reads.log_probs, by_name.reads.log_probs)


def test_reading_twice_changes_nothing(llava):
    model, batch, moments = llava
    lens, _ = read(model, batch, moments)
    before = lens.reads
    with lens(batch), torch.no_grad():
        model(**batch.inputs)
    assert lens.reads.n == before.n
    assert torch.equal(lens.reads.log_probs, before.log_probs)


def test_draws_are_averaged_as_probabilities(llava):
    model, batch, moments = llava
    both, _ = read(model, batch, moments, draws=2)
    conditions = {"0": [Noise("image", draws=1)], "all": [Noise("image", draws=2)]}
    apart, _ = read(model, batch, moments, conditions=conditions)
    torch.testing.assert_close(
        apart.reads.log_probs[:, 1], both.reads.log_probs[:, 2], atol=1e-6, rtol=0
    )
    assert not torch.allclose(apart.reads.log_probs[:, 0], apart.reads.log_probs[:, 1])


def test_conditions_of_ones_own_leave_the_users_rows_untouched(llava):
    model, batch, moments = llava
    with torch.no_grad():
        plain = model(**batch.inputs).logits
    conditions = {"blind": [Noise("image")], "nothing": [Noise("image"), Noise("question")]}
    lens, logits = read(model, batch, moments, conditions=conditions)
    assert lens.reads.conditions == ("blind", "nothing")
    assert lens.rows == ("", "blind", "nothing")
    torch.testing.assert_close(logits, plain, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="full"):
        lens.spectrum()


@dataclass(frozen=True)
class Zero:
    """A user's own intervention."""

    span: str
    draws: int = 1

    def complete(self, *, moments, seed, draws):
        return self

    def edit(self, embeddings, samples, draw):
        return embeddings * ~samples.spans[self.span][..., None]


def test_an_intervention_of_ones_own(llava):
    model, batch, _ = llava
    conditions = {"full": [], "vision": [Zero("question")], "language": [Zero("image")]}
    lens, _ = read(model, batch, None, conditions=conditions)
    black = {**batch.inputs, "pixel_values": torch.zeros_like(batch.inputs["pixel_values"])}
    other, _ = read(model, replace(batch, inputs=black), None, conditions=conditions)
    assert torch.equal(lens.reads.log_probs[:, 2], other.reads.log_probs[:, 2])
    assert lens.spectrum().n == batch.n


@dataclass(frozen=True)
class InPlace(Zero):
    """One that does not know better."""

    def edit(self, embeddings, samples, draw):
        embeddings[samples.spans[self.span]] = 0
        return embeddings


def test_editing_in_place_harms_nobody(llava):
    model, batch, _ = llava
    with torch.no_grad():
        plain = model(**batch.inputs).logits
    found = []
    for kind in (Zero, InPlace):
        conditions = {"full": [], "vision": [kind("question")], "language": [kind("image")]}
        lens, logits = read(model, batch, None, conditions=conditions)
        torch.testing.assert_close(logits, plain, atol=1e-5, rtol=0)
        found.append(lens.reads.log_probs)
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)


def test_a_sample_read_by_either_name_counts_once(digits_model, digits_moments):
    model, processor = digits_model
    lens = Lens(model, processor, choices=("A", "B"), moments=digits_moments["synergy"])
    batches = pid_lens.demo.batches("synergy", n=20, batch_size=8)
    with torch.no_grad():
        with lens:
            for batch in batches:
                model(**batch.inputs)
        for batch in batches:
            with lens(batch):
                model(**batch.inputs)
    assert lens.reads.n == 20
    assert set(lens.reads.ids) == {name for batch in batches for name in batch.ids}
    assert lens.reads.accuracy() > 0.9


def test_options_differ_from_sample_to_sample(llava):
    model, batch, moments = llava
    options = torch.tensor([[3, 4, -1], [5, 6, 7], [3, 4, -1], [5, 6, 8]])
    lens, logits = read(model, replace(batch, options=options), moments)
    own = logits[:, -1].log_softmax(-1).gather(-1, options.clamp(min=0))
    last = lens.reads.log_probs[-1, 0]
    assert (last[options < 0] == -math.inf).all()
    torch.testing.assert_close(last[options >= 0], own[options >= 0], atol=1e-5, rtol=0)


def test_some_layers(llava):
    model, batch, moments = llava
    every, _ = read(model, batch, moments)
    some, _ = read(model, batch, moments, layers=[-1, 1])
    assert some.reads.layers == (1, 3)
    assert torch.equal(some.reads.log_probs, every.reads.log_probs[[1, 3]])


def test_pooled_states(llava):
    model, batch, moments = llava
    states = [Pooled("image", dtype="float32"), Pooled("answer")]
    lens, _ = read(model, batch, moments, states=states)
    with torch.no_grad():
        hidden = model(**batch.inputs, output_hidden_states=True).hidden_states
    image = hidden[2][batch.spans["image"]].view(batch.n, -1, 32).mean(1)
    torch.testing.assert_close(lens.reads.states["image"][1], image, atol=1e-5, rtol=0)
    assert torch.equal(lens.reads.states["answer"][1], hidden[2][:, -1].half())
    with pytest.raises(ValueError, match="dtype must be"):
        Pooled("image", dtype="bfloat16")


def test_estimators_run_inline(llava):
    model, batch, moments = llava
    inline = pid_lens.BROJA()
    lens, _ = read(model, batch, moments, estimators=[inline])
    assert torch.equal(inline.result().synergy, lens.spectrum().synergy)


def test_every_tensor_of_the_output_has_the_users_rows(llava):
    model, batch, moments = llava
    model.set_attn_implementation("eager")
    with Lens(model, moments=moments)(batch), torch.no_grad():
        out = model(**batch.inputs, output_hidden_states=True, output_attentions=True)
    assert {len(t) for t in (*out.hidden_states, *out.attentions, out.logits)} == {batch.n}
    assert out.past_key_values is None


def test_a_fresh_cache_keeps_the_users_rows_only(llava):
    model, batch, moments = llava
    plain, forked = DynamicCache(), DynamicCache()
    with torch.no_grad():
        model(**batch.inputs, past_key_values=plain)
        with Lens(model, moments=moments)(batch):
            model(**batch.inputs, past_key_values=forked)
    torch.testing.assert_close(forked.layers[2].keys, plain.layers[2].keys, atol=1e-5, rtol=0)


def test_gradients_flow_through_a_fork(llava):
    model, batch, moments = llava
    pixels = batch.inputs["pixel_values"].clone().requires_grad_()
    with Lens(model, moments=moments)(batch):
        logits = model(input_ids=batch.inputs["input_ids"], pixel_values=pixels).logits
    (forked,) = torch.autograd.grad(logits[:, -1].logsumexp(-1).sum(), pixels)
    logits = model(input_ids=batch.inputs["input_ids"], pixel_values=pixels).logits
    (plain,) = torch.autograd.grad(logits[:, -1].logsumexp(-1).sum(), pixels)
    assert plain.abs().max() > 0
    torch.testing.assert_close(forked, plain, atol=1e-6, rtol=1e-4)


def test_half_precision(llava):
    model, batch, _ = llava
    model = model.to(torch.bfloat16)
    moments = pid_lens.calibrate(model, [batch])
    lens, logits = read(model, batch, moments)
    own = logits[:, -1].float().log_softmax(-1).gather(-1, batch.options)
    assert lens.reads.log_probs.dtype == torch.float32
    torch.testing.assert_close(lens.reads.log_probs[-1, 0], own, atol=0.02, rtol=0)


def test_an_anatomy_by_hand(llava):
    model, batch, moments = llava
    known = pid_lens.dissect(model)
    by_hand = pid_lens.Anatomy(
        model=known.model,
        decoder=known.decoder,
        layers=list(known.layers),
        norm=known.norm,
        unembed=known.unembed,
    )
    lens = Lens(anatomy=by_hand, moments=moments)
    with lens(batch), torch.no_grad():
        model(**batch.inputs)
    assert torch.equal(lens.reads.log_probs, read(model, batch, moments)[0].reads.log_probs)


@pytest.mark.parametrize("plain", [True, False])
def test_fork_equals_replay_in_any_order_of_conditions(llava, plain):
    model, batch, moments = llava
    conditions = {"blind": [Noise("image")], "full": [], "deaf": [Noise("question")]}
    if not plain:
        del conditions["full"]
    fork, _ = read(model, batch, moments, conditions=conditions, states=[Pooled("image")])
    replay = Lens(model, moments=moments, conditions=conditions, states=[Pooled("image")])
    for view in replay.views(batch):
        with view, torch.no_grad():
            model(**batch.inputs)
    assert fork.reads.conditions == replay.reads.conditions == tuple(conditions)
    torch.testing.assert_close(fork.reads.log_probs, replay.reads.log_probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        fork.reads.states["image"], replay.reads.states["image"], atol=1e-5, rtol=0
    )
    assert Reads.concat([fork.reads, replay.reads]).n == batch.n


def test_several_batches_in_a_view(digits_model, digits_moments):
    model, processor = digits_model
    lenses = [
        Lens(model, processor, choices=("A", "B"), moments=digits_moments["synergy"])
        for _ in range(2)
    ]
    batches = pid_lens.demo.batches("synergy", n=20, batch_size=7)
    with lenses[0], torch.no_grad():
        for batch in batches:
            model(**batch.inputs)
    for view in lenses[1].views():
        with view, torch.no_grad():
            for batch in batches:
                model(**batch.inputs)
    fork, replay = (lens.reads for lens in lenses)
    assert fork.ids == replay.ids
    torch.testing.assert_close(fork.log_probs, replay.log_probs, atol=1e-5, rtol=0)


def test_spans_said_in_part_are_completed(llava):
    model, batch, moments = llava
    every, _ = read(model, batch, moments)
    lens = Lens(model, moments=moments, choices=torch.tensor([3, 4]))
    question = batch.spans["question"].numpy()
    with torch.no_grad(), lens(ids=torch.arange(4), spans={"question": question}):
        model(**batch.inputs)
    assert lens.reads.ids == ("0", "1", "2", "3")
    assert torch.equal(lens.reads.log_probs[:, 0], every.reads.log_probs[:, 0])


def test_options_with_holes_keep_their_places(llava):
    model, batch, moments = llava
    holes = torch.tensor([[3, -1, 5]]).expand(4, -1)
    lens, logits = read(model, replace(batch, options=holes, labels=torch.full((4,), 2)), moments)
    own = logits[:, -1].log_softmax(-1)
    torch.testing.assert_close(lens.reads.log_probs[-1, 0, :, 2], own[:, 5], atol=1e-5, rtol=0)
    assert lens.reads.accuracy() == (own[:, 5] > own[:, 3]).double().mean()


def test_settings_say_the_draws(llava):
    model, batch, moments = llava
    conditions = {"full": [], "vision": [Noise("question", draws=3)], "language": [Noise("image")]}
    lens, _ = read(model, batch, moments, conditions=conditions)
    assert lens.spectrum().settings["draws"] == 3
    assert lens.rows == ("full", "vision", "vision", "vision", "language")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("more", [{"return_dict": False}, {"use_cache": True}], ids=str)
def test_other_ways_to_call(llava, mode, more):
    model, batch, moments = llava
    plain, _ = read(model, batch, moments)
    lens = Lens(model, moments=moments)
    with mode(), lens(batch):
        logits = model(**batch.inputs, **more)[0]
    assert len(logits) == batch.n
    assert torch.equal(lens.reads.log_probs, plain.reads.log_probs)


def test_results_can_be_pickled(llava):
    lens, _ = read(*llava)
    again = pickle.loads(pickle.dumps((lens.reads, lens.spectrum())))
    assert torch.equal(again[0].log_probs, lens.reads.log_probs)
    assert repr(again[1]) == repr(lens.spectrum())


def test_reads_beyond_the_memory_go_to_disk(digits_model, digits_moments):
    model, processor = digits_model
    small = Lens(model, processor, moments=digits_moments["synergy"], memory=5_000)
    large = Lens(model, processor, moments=digits_moments["synergy"])
    for lens in (small, large):
        for batch in pid_lens.demo.batches("synergy", n=96, batch_size=16):
            with lens(batch), torch.no_grad():
                model(**batch.inputs)
    assert sum(part.on_disk for part in small._buffer.parts) >= 2
    assert small.reads.ids == large.reads.ids
    assert torch.equal(small.reads.log_probs, large.reads.log_probs)
    assert torch.equal(small.spectrum().synergy, large.spectrum().synergy)
