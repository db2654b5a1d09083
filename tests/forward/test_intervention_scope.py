"""Interventions around calls: whatever could pass them by is refused, or hidden too."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from tiny import make

import pid_lens
from pid_lens import Batch, Knockout, Lens, Noise, Remove, Spans, Zero, intervene
from pid_lens.forward import InterventionScope, WholeBatch
from pid_lens.inputs import resolve_samples
from pid_lens.interventions import Variation

CLOSED = Knockout("image", "question")
GREEDY = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@torch.no_grad()
def logits(model, batch, *hidden, spans=None, moments=None, **changed):
    with intervene(model, *hidden, spans=spans or batch.spans, ids=batch.ids, moments=moments):
        return model(**{**batch.inputs, **changed}).logits


def other_pixels(batch):
    return {"pixel_values": torch.randn_like(batch.inputs["pixel_values"])}


# ---------------------------------------------------------------- what would not be seen


@pytest.mark.parametrize("part", ["whole", "decoder"])
def test_compiled_code_is_refused(part):
    model, batch = make("llava")
    moments = pid_lens.calibrate(model, [batch])
    (model if part == "whole" else model.get_decoder()).compile(backend="eager")
    for attempt in (
        lambda: logits(model, batch, CLOSED),
        lambda: Lens(model, moments=moments).__enter__(),
        lambda: pid_lens.calibrate(model, [batch]),
    ):
        with pytest.raises(ValueError, match=r"is compiled \(torch\.compile\)"):
            attempt()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_layers_that_run_twice_are_refused():
    model, batch = make("llava")
    model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(ValueError, match="turn gradient checkpointing off"):
        logits(model, batch, CLOSED)
    model.eval()
    assert logits(model, batch, CLOSED).isfinite().all()


def test_a_lens_and_interventions_do_not_mix_unsaid():
    model, batch = make("llava")
    lens = Lens(model, conditions={"full": []})
    with (
        intervene(model, CLOSED, spans=batch.spans),
        pytest.raises(RuntimeError, match="in force"),
    ):
        lens.__enter__()
    with lens, pytest.raises(RuntimeError, match="a lens is open"):
        logits(model, batch, CLOSED)
    closed = Knockout("image", "answer")
    with intervene(model, CLOSED, spans=batch.spans):
        nested = logits(model, batch, closed)
    assert torch.allclose(nested, logits(model, batch, CLOSED, closed), atol=1e-6)


def test_what_a_block_knows_ends_with_the_call():
    model, batch = make("blip2")
    with intervene(model, Zero("image"), spans=batch.spans, ids=batch.ids):
        model(**batch.inputs)
        with pytest.raises(ValueError, match="without the whole model"):
            model.generate(**batch.inputs, max_new_tokens=2)


def test_an_exception_leaves_nothing_in_force():
    model, batch = make("llava")

    def fail(module, args, output):
        raise RuntimeError("on purpose")

    with intervene(model, CLOSED, spans=batch.spans), torch.no_grad():
        hook = model.get_decoder().layers[2].register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            model(**batch.inputs)
        hook.remove()
        text = torch.randint(10, 200, (2, 5))
        with pytest.raises(ValueError, match="without the whole model"):
            model.get_decoder()(input_ids=text)


@pytest.mark.parametrize("cached", [True, False])
def test_an_image_in_a_second_turn_is_not_taken_for_generated_text(cached):
    model, batch = make("llava")
    ids = batch.inputs["input_ids"]
    with torch.no_grad(), intervene(model, Zero("image"), spans=batch.spans, ids=batch.ids):
        out = model(**batch.inputs, use_cache=True)
        if cached:
            with pytest.raises(ValueError, match="another image came in"):
                model(
                    input_ids=ids,
                    pixel_values=batch.inputs["pixel_values"],
                    past_key_values=out.past_key_values,
                )
        else:
            with pytest.raises(ValueError, match="span 'image' must be"):
                model(
                    input_ids=torch.cat([ids, ids], 1),
                    pixel_values=batch.inputs["pixel_values"].repeat(2, 1, 1, 1),
                )


def test_masks_of_some_samples_are_not_stretched_over_others():
    model, batch = make("llava")
    few = {name: mask[:2] for name, mask in batch.spans.items()}
    with pytest.raises(ValueError, match="must be"):
        logits(model, batch, CLOSED, spans=few)


# ---------------------------------------------------------------- generate


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("hidden", [CLOSED, Remove("image")], ids=repr)
def test_a_static_cache_is_as_good_as_another(name, hidden):
    model, batch = make(name)
    more = {"output_logits": True, "return_dict_in_generate": True}
    found = []
    for kind in ("dynamic", "static"):
        with intervene(model, hidden, spans=batch.spans), torch.no_grad():
            out = model.generate(**batch.inputs, cache_implementation=kind, **GREEDY, **more)
        found.append(torch.stack(out.logits))
    torch.testing.assert_close(*found, atol=2e-5, rtol=0)


def test_a_hidden_answer_is_that_of_the_prompt_with_a_cache_or_without():
    model, batch = make("llava")
    more = {"output_logits": True, "return_dict_in_generate": True}
    found = []
    for cached in (True, False):
        with intervene(model, Zero("answer"), spans=batch.spans, ids=batch.ids), torch.no_grad():
            out = model.generate(**batch.inputs, use_cache=cached, **GREEDY, **more)
        found.append(torch.stack(out.logits))
    torch.testing.assert_close(*found, atol=2e-5, rtol=0)


def test_beams_are_no_twins():
    """They have their sample's noise, and nobody warns of them."""
    model, batch = make("llava")
    moments = pid_lens.calibrate(model, [batch])
    noise = Noise("image", moments, seed=0, draws=1)
    with torch.no_grad(), intervene(model, noise, spans=batch.spans, ids=batch.ids):
        found = model.generate(**batch.inputs, num_beams=2, **GREEDY)
        again = model.generate(**{**batch.inputs, **other_pixels(batch)}, num_beams=2, **GREEDY)
    assert torch.equal(found, again)


# ---------------------------------------------------------------- scopes of a framework's own


def scope_of(model, hidden, resolve, **how):
    return InterventionScope(pid_lens.dissect(model), Variation("", 0, (hidden,)), resolve, **how)


def whole(model, batch, **how):
    said = Batch(inputs={}, spans=batch.spans, ids=batch.ids)
    return WholeBatch(pid_lens.dissect(model), said, **how)


@pytest.mark.parametrize("hidden", [CLOSED, Zero("image"), Remove("image")], ids=repr)
@pytest.mark.parametrize("passes", [1, 2])
def test_a_scope_holds_in_so_many_passes(hidden, passes):
    model, batch = make("llava")
    expected = logits(model, batch, hidden)
    scope, found = scope_of(model, hidden, whole(model, batch), passes=passes), []
    with torch.no_grad(), scope.in_force():
        for _ in range(3):
            found.append(model(**batch.inputs).logits)
    plain = model(**batch.inputs).logits
    assert not torch.equal(plain, expected)
    for at, one in enumerate(found):
        assert torch.equal(one, expected if at < passes else plain)


def test_a_scope_that_has_not_begun_leaves_the_decoder_alone():
    model, batch = make("llava")
    text = torch.randint(10, 200, (2, 5))
    decoder, scope = model.get_decoder(), scope_of(model, CLOSED, whole(model, batch), passes=1)
    with torch.no_grad(), scope.in_force():
        decoder(input_ids=text)
        found = model(**batch.inputs).logits
    assert torch.equal(found, logits(model, batch, CLOSED))


def test_who_resolves_prompts_says_what_is_hidden():
    """The spans of a resolver of one's own are those that count, and it is asked once a prompt."""
    model, batch = make("llava")
    other = Spans(**{**batch.spans, "image": batch.spans["question"]})
    asked = []

    def resolve(ids, arguments):
        asked.append(ids)
        return resolve_samples(Batch(inputs=arguments, spans=other, ids=batch.ids))

    hidden = Zero("image")
    with torch.no_grad(), scope_of(model, hidden, resolve).in_force():
        found = model(**batch.inputs).logits
        model.generate(**batch.inputs, **GREEDY)
    assert torch.equal(found, logits(model, batch, Zero("question")))
    assert [ids.shape for ids in asked] == [batch.inputs["input_ids"].shape] * 2


@pytest.mark.parametrize("decoding", [False, True])
def test_a_pass_that_has_begun_is_joined(decoding):
    """By a hook that runs when the model, or its decoder, is at work already."""
    model, batch = make("llava")
    scope, stack = scope_of(model, CLOSED, whole(model, batch), passes=1), ExitStack()

    def join(module, args):
        stack.enter_context(scope.in_force())
        scope.resume(batch.inputs, batch.inputs, decoding=decoding)

    part = model.get_decoder().layers[0] if decoding else model.get_input_embeddings()
    handle = part.register_forward_pre_hook(join)
    with torch.no_grad(), stack:
        found = model(**batch.inputs).logits
        handle.remove()
        plain = model(**batch.inputs).logits
    assert torch.equal(found, logits(model, batch, CLOSED))
    assert torch.equal(plain, model(**batch.inputs).logits)


def test_an_input_of_a_decoder_that_runs_is_not_edited_any_more():
    model, batch = make("llava")
    scope = scope_of(model, Zero("image"), whole(model, batch), passes=1)
    with scope.in_force(), pytest.raises(ValueError, match="the decoder runs already"):
        scope.resume(batch.inputs, batch.inputs, decoding=True)


# ---------------------------------------------------------------- other names, parts


@pytest.mark.parametrize(("name", "span"), [("mllama", "image"), ("instructblip", "question")])
@pytest.mark.parametrize("kind", [Zero, Remove])
def test_another_name_for_the_whole_is_as_good(name, span, kind):
    """What reaches the decoder in a second way is hidden there too, whatever it is called."""
    model, batch = make(name)
    spans = batch.spans | {"mine": batch.spans[span]}
    if span == "image":
        change = other_pixels(batch)
    else:
        words = batch.inputs["input_ids"].where(~batch.spans["question"], 222)
        change = {"input_ids": words, "qformer_input_ids": batch.inputs["qformer_input_ids"] + 1}
    found = [
        logits(model, batch, kind("mine"), spans=spans, **more)[:, -1] for more in ({}, change)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", [Zero, Remove])
def test_a_part_of_what_has_no_parts_is_refused(kind):
    model, batch = make("instructblip")
    part = batch.spans["question"].clone()
    part[:, part[0].nonzero()[0]] = False
    with pytest.raises(ValueError, match="'mine' is a part of the question"):
        logits(model, batch, kind("mine"), spans=batch.spans | {"mine": part})


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_removed_question_is_a_prompt_without_it(name):
    """The image stays, and its positions on the grid with it."""
    model, batch = make(name)
    keep = ~batch.spans["question"]
    inputs = {
        key: value[keep].view(len(value), -1) if value.shape == keep.shape else value
        for key, value in batch.inputs.items()
    }
    with torch.no_grad():
        expected = model(**inputs).logits[:, -1]
    found = logits(model, batch, Remove("question"))[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_part_of_an_image_on_a_grid_cannot_be_removed():
    model, batch = make("qwen2_5_vl")
    spans = batch.spans | {"patch": batch.spans.pick("image", [1])}
    with pytest.raises(ValueError, match="positions on a grid"):
        logits(model, batch, Remove("patch"), spans=spans)


# ---------------------------------------------------------------- who is who


def test_masks_of_pairs_say_who_is_attended():
    model, batch = make("llava")
    wide = replace(batch, inputs={**batch.inputs, "attention_mask": torch.ones(4, 14).long()})
    wide.inputs["attention_mask"][:, -2:] = 0
    pairs = torch.ones(14, 14).tril().bool() & wide.inputs["attention_mask"][0].bool()
    reads = []
    for mask in (wide.inputs["attention_mask"], pairs.expand(4, 1, 14, 14)):
        lens = Lens(model, conditions={"full": []})
        given = replace(batch, inputs={**batch.inputs, "attention_mask": mask}, spans=None)
        spans = {name: batch.spans[name] for name in ("image", "question")}
        with torch.no_grad(), lens(replace(given, spans=spans)):
            model(**given.inputs)
        reads.append(lens.reads.log_probs)
    torch.testing.assert_close(*reads, atol=1e-5, rtol=0)


def test_offloaded_models_are_told_apart():
    accelerate = pytest.importorskip("accelerate")
    prints = []
    for seed in (0, 0, 1):
        model, _ = make("llava", seed=seed)
        whole = pid_lens.dissect(model).fingerprint()
        accelerate.cpu_offload(model.get_decoder(), execution_device=torch.device("cpu"))
        prints.append(pid_lens.dissect(model).fingerprint())
        assert prints[-1] == whole
    assert prints[0] == prints[1] != prints[2]


def test_other_last_steps_are_other_settings():
    model, batch = make("llava")
    anatomy = pid_lens.dissect(model)
    found = [
        Lens(anatomy=one, conditions={"full": []}, check=False)
        for one in (anatomy, replace(anatomy, softcap=9.0))
    ]
    for lens in found:
        with torch.no_grad(), lens(batch):
            model(**batch.inputs)
    with pytest.raises(ValueError, match="differ in their settings"):
        pid_lens.Reads.concat([lens.reads for lens in found])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: intervene(None, CLOSED), "no model"),
        (lambda model: intervene(model, Zero("image"), moments="x"), "moments must be Moments"),
    ],
)
def test_what_is_no_model_or_no_moments_is_an_error(call, words):
    model, _ = make("llava")
    with pytest.raises(TypeError, match=words), call(model):
        pass


def test_spans_of_ones_own_have_an_intervention_of_their_own():
    model, batch = make("llava")
    spans = Spans(image=batch.spans["image"], patch=batch.spans.pick("image", [0, 3]))
    one = logits(model, batch, Zero("patch"), spans=spans)
    assert not torch.allclose(one, logits(model, batch, Zero("image"), spans=spans), atol=1e-4)


def test_tiles_of_padding_are_no_image():
    """Nobody looks at them, so they are neither measured nor given."""
    model, batch = make("mllama")
    whole = pid_lens.calibrate(model, [batch])["image@cross_attention_states"]
    seen = batch.inputs["cross_attention_mask"].clone()
    seen[..., 1] = 0
    padded = replace(batch, inputs={**batch.inputs, "cross_attention_mask": seen})
    half = pid_lens.calibrate(model, [padded])["image@cross_attention_states"]
    assert half.count == whole.count / 2


def test_an_anatomy_by_hand_has_all_interventions():
    model, batch = make("llava")
    decoder = model.model.language_model
    anatomy = pid_lens.Anatomy(
        model=model,
        decoder=decoder,
        layers=decoder.layers,
        norm=decoder.norm,
        unembed=model.lm_head,
        attentions=[layer.self_attn for layer in decoder.layers],
        image_token=290,
    )
    assert pid_lens.check(None, batch, anatomy=anatomy).ok
    with torch.no_grad(), intervene(None, CLOSED, spans=batch.spans, anatomy=anatomy):
        found = model(**batch.inputs).logits
    assert torch.equal(found, logits(model, batch, CLOSED))
