"""Whole options: scored on shared keys and values, as if each had run with its prompt."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import FAMILIES, make, padded

import pid_lens
from pid_lens import Knockout, Noise, intervene
from pid_lens.inputs import attended_tokens, find_answer
from pid_lens.scoring import OptionScores, score_options

OPTIONS = [[3, 4], [3, 5, 6], [8], [9, 10, 11, 12]]
CLOSED = Knockout("image", "question", layers=[1, 2])
ALONE = ("blip2", "instructblip")
"""Families that give no keys and values."""
SOME = ["llava", "qwen2_5_vl", "gemma3", "paligemma", "mistral3", "mllama", "blip2"]
TYPES = {"paligemma": 1}
"""What follows a prompt is of another type in PaliGemma, lest the prompt look ahead at it."""


def followed(batch, family, option):
    """The inputs with an option behind every prompt, made by hand."""
    ids = batch.inputs["input_ids"]
    n, k = len(ids), len(option)
    more = {
        "input_ids": torch.tensor(option).expand(n, k),
        "attention_mask": torch.ones(n, k).long(),
        "token_type_ids": torch.full((n, k), TYPES.get(family, 0)),
        "image_patches_indices": torch.full((n, k), -1),
        "mm_token_type_ids": torch.zeros(n, k).long(),
    }
    if "cross_attention_mask" in batch.inputs:
        last = batch.inputs["cross_attention_mask"][:, -1:]
        more["cross_attention_mask"] = last.expand(-1, k, -1, -1)
    return {
        name: torch.cat([value, more[name]], 1) if name in more else value
        for name, value in batch.inputs.items()
    }


@torch.no_grad()
def by_hand(model, batch, family, *interventions):
    """Log-probabilities [n, answers] of whole sequences without a cache, one option at a time."""
    found, start = [], batch.inputs["input_ids"].shape[1]
    spans = {"answer": find_answer(attended_tokens(batch.inputs)), **batch.spans}
    for option in OPTIONS:
        inputs = followed(batch, family, option)
        if interventions:
            more = {k: F.pad(m, (0, len(option)), value=k == "answer") for k, m in spans.items()}
            with intervene(model, *interventions, spans=more):
                logits = model(**inputs).logits
        else:
            logits = model(**inputs, use_cache=False).logits
        behind = logits[:, start - 1 : -1].log_softmax(-1)
        tokens = inputs["input_ids"][:, start:]
        found.append(behind.gather(-1, tokens[..., None])[..., 0].sum(-1))
    return torch.stack(found, 1)


def close(one, other, atol=1e-4):
    return torch.allclose(one, other, atol=atol, rtol=0)


# ---------------------------------------------------------------- what is scored


@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_whole_sequences_without_a_cache(family):
    model, batch = make(family)
    found = score_options(model, batch, OPTIONS)
    assert close(found.log_probs, by_hand(model, batch, family))
    assert found.shared == (family not in ALONE)
    assert found.log_probs.std(0).min() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_one(family):
    model, batch = make(family, n=1)
    found = score_options(model, batch, OPTIONS)
    assert close(found.log_probs, by_hand(model, batch, family))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "fuyu"])
def test_it_is_the_probability_with_which_generate_says_it(family):
    """But for Fuyu, whose ``generate`` refuses its own inputs."""
    model, batch = make(family)
    with torch.no_grad():
        out = model.generate(
            **batch.inputs,
            max_new_tokens=3,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    said, logits = out.sequences[:, -3:], torch.stack(out.logits, 1)
    steps = logits.log_softmax(-1).gather(-1, said[..., None])[..., 0]
    found = score_options(model, batch, [[row] for row in said.tolist()])
    assert close(found.log_probs[:, 0], steps.sum(-1))
    assert close(found.first[:, 0], steps[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(family, side):
    model, batch = make(family)
    plain = score_options(model, batch, OPTIONS)
    assert close(score_options(model, padded(batch, side), OPTIONS).log_probs, plain.log_probs)


@pytest.mark.parametrize("family", [name for name in SOME if name != "mllama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_knockouts_hold_for_prompt_and_options(family, attention):
    model, batch = make(family)
    model.set_attn_implementation(attention)
    for closed in (CLOSED, Knockout("image", "answer")):
        found = score_options(model, batch, OPTIONS, interventions=[closed])
        expected = by_hand(model, batch, family, closed)
        plain = score_options(model, batch, OPTIONS)
        assert close(found.log_probs, expected)
        assert not close(found.log_probs, plain.log_probs)


@pytest.mark.parametrize("family", ["llava", "gemma3", "mistral3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths_do_not_matter_to_one_another(family, side):
    model, batch = make(family, n=2)
    short = {k: v[:1] for k, v in batch.inputs.items()}
    ids = batch.inputs["input_ids"]
    keep = [at for at in range(ids.shape[1]) if at not in (9, 10, 11)]
    alone = {k: v[:, keep] if v.shape == ids[:1].shape else v for k, v in short.items()}
    alone = score_options(model, alone, OPTIONS).log_probs[0]
    order = [*keep, 9, 10, 11] if side == "right" else [9, 10, 11, *keep]
    mixed = {k: v.clone() for k, v in batch.inputs.items()}
    mixed["attention_mask"] = torch.ones_like(ids)
    for value in mixed.values():
        if value.shape == ids.shape:
            value[0] = value[0, order]
    mixed["attention_mask"][0, slice(-3, None) if side == "right" else slice(3)] = 0
    found = score_options(model, mixed, OPTIONS).log_probs
    assert close(found[0], alone)
    assert close(found[1], score_options(model, batch, OPTIONS).log_probs[1])


def test_spans_and_a_mapping_do_as_well_as_a_batch():
    model, batch = make("llava")
    one = score_options(model, batch, OPTIONS, interventions=[CLOSED])
    other = score_options(
        model, batch.inputs, OPTIONS, interventions=[CLOSED], spans=batch.spans, share=True
    )
    assert torch.equal(one.log_probs, other.log_probs)
    assert one.ids == batch.ids
    assert other.ids is None


def test_noise_hides_the_image_from_the_options_too():
    model, batch = make("llava")
    moments = pid_lens.calibrate(model, [batch])
    swapped = {**batch.inputs, "pixel_values": torch.randn(4, 3, 28, 28)}
    noised, other = (
        score_options(model, given, OPTIONS, interventions=[Noise("image")], moments=moments)
        for given in (batch, replace(batch, inputs=swapped))
    )
    assert torch.equal(noised.log_probs, other.log_probs)
    seen = score_options(model, replace(batch, inputs=swapped), OPTIONS)
    assert not close(seen.log_probs, score_options(model, batch, OPTIONS).log_probs)


@pytest.mark.parametrize("family", SOME)
def test_samples_may_have_options_of_their_own(family):
    model, batch = make(family)
    own = [OPTIONS, OPTIONS[:1], OPTIONS[2:], [[7], *OPTIONS[:2]]]
    found, whole = (score_options(model, batch, one) for one in (own, OPTIONS))
    assert found.tokens.tolist() == [[2, 3, 1, 4], [2, 0, 0, 0], [1, 4, 0, 0], [1, 2, 3, 0]]
    assert (found.log_probs[found.tokens == 0] == -math.inf).all()
    assert (found.mean[found.tokens == 0] == -math.inf).all()
    assert close(found.log_probs[0], whole.log_probs[0])
    assert close(found.log_probs[2, :2], whole.log_probs[2, 2:])
    assert close(found.log_probs[3, 1:3], whole.log_probs[3, :2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model, batch = make("qwen2_5_vl")
    plain = score_options(model, batch, OPTIONS)
    half = score_options(model.to(dtype), batch, OPTIONS)
    assert half.log_probs.dtype == torch.float32
    assert close(half.log_probs, plain.log_probs, atol=0.02)


# ---------------------------------------------------------------- which way


def slipped(model, behind=0):
    """A model whose keys and values are not to be trusted, from a token of the options on."""

    def slip(module, args, kwargs):
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            states = kwargs["inputs_embeds"].clone()
            states[:, behind:] += 1
            kwargs["inputs_embeds"] = states
        return args, kwargs

    model.get_decoder().register_forward_pre_hook(slip, with_kwargs=True)
    return model


def test_a_model_whose_cache_lies_runs_the_plain_way():
    model, batch = make("llava")
    honest = score_options(model, batch, OPTIONS)
    model, _ = make("llava")
    found = score_options(slipped(model), batch, OPTIONS)
    assert not found.shared
    assert close(found.log_probs, honest.log_probs)
    assert "ran again with every option" in repr(found)
    assert not close(score_options(model, batch, OPTIONS, share=True).log_probs, honest.log_probs)


def test_sharing_can_be_settled():
    model, batch = make("gemma3")
    one, other = (score_options(model, batch, OPTIONS, share=share) for share in (True, False))
    assert (one.shared, other.shared) == (True, False)
    assert close(one.log_probs, other.log_probs)
    model, batch = make("blip2")
    with pytest.raises(ValueError, match="no keys and values"):
        score_options(model, batch, OPTIONS, share=True)


def test_the_prompt_runs_once_and_all_options_in_one_call():
    model, batch = make("llava")
    score_options(model, batch, OPTIONS)
    rows = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    score_options(model, batch, OPTIONS)
    hook.remove()
    assert rows == [(4, 14), (16, 3)]


def test_it_is_tested_again_with_longer_options():
    """A cache that goes wrong in the third token alone is found once there are such options."""
    model, batch = make("llava")
    honest = score_options(model, batch, OPTIONS)
    model, _ = make("llava")
    score_options(slipped(model, behind=2), batch, OPTIONS[:2])
    found = score_options(model, batch, OPTIONS)
    assert not found.shared
    assert close(found.log_probs, honest.log_probs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cache_that_lies_a_little_is_seen_in_every_precision(dtype):
    model, batch = make("llava")
    model.to(dtype)
    honest = score_options(model, batch, OPTIONS, share=True)
    slipped(model)
    lied, found = (score_options(model, batch, OPTIONS, share=share) for share in (True, None))
    assert 0.1 < (lied.log_probs - honest.log_probs).abs().max() < 0.3
    assert not found.shared
    assert close(found.log_probs, honest.log_probs, atol=0.05)


def test_another_kind_of_attention_is_tested_for_itself():
    model, batch = make("llava")
    assert score_options(model, batch, OPTIONS).shared
    slipped(model)
    model.set_attn_implementation("eager")
    assert not score_options(model, batch, OPTIONS).shared


def test_training_mode_is_warned_of_and_settles_nothing():
    model, batch = make("llava")
    model.train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    with pytest.warns(UserWarning, match=r"model\.eval"):
        blurred = score_options(model, batch, OPTIONS)
    assert not blurred.shared
    assert score_options(model.eval(), batch, OPTIONS).shared


@pytest.mark.parametrize("rows", [1, 4, 8, 12, 100])
def test_rows_of_a_call_are_bounded_and_change_nothing(rows):
    model, batch = make("qwen2_5_vl")
    whole = score_options(model, batch, OPTIONS)
    seen = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = score_options(model, batch, OPTIONS, rows=rows)
    hook.remove()
    assert max(seen) == max(4, min(rows, 16))
    assert close(found.log_probs, whole.log_probs, atol=1e-5)


@pytest.mark.parametrize("share", [None, True, False])
@pytest.mark.parametrize("late", [False, True])
def test_an_answer_that_is_no_number_is_refused(share, late):
    model, batch = make("llava")
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        words[OPTIONS[3][2] if late else batch.inputs["input_ids"][1, -1]] = math.nan
    with pytest.raises(ValueError, match=r"not finite in samples \[.*1"):
        score_options(model, batch, OPTIONS, share=share)


# ---------------------------------------------------------------- the record


def record(**changed):
    known = {
        "log_probs": torch.tensor([[-2.0, -3.0, -6.0]]),
        "first": torch.tensor([[-2.0, -1.0, -1.0]]),
        "tokens": torch.tensor([[1, 2, 6]]),
        "names": (("no", "not so", "not in the least so"),),
        "collisions": ((("not so", "not in the least so"),),),
        "shared": True,
    }
    return OptionScores(**{**known, **changed})


def test_rules():
    found = record()
    assert found.mean.tolist() == [[-2.0, -1.5, -1.0]]
    assert [found.best(rule).item() for rule in ("whole", "mean", "first")] == [0, 2, -1]
    tied = record(log_probs=torch.tensor([[-2.0, -2.0, -9.0]]))
    assert [tied.best(rule).item() for rule in ("whole", "mean")] == [-1, 1]
    assert record(first=torch.tensor([[-1.0, -2.0, -2.0]])).best("first").item() == 0
    with pytest.raises(ValueError, match="whole, mean, first"):
        found.best("longest")


def test_the_first_token_is_what_a_lens_reads(digits_model):
    model, processor = digits_model
    (batch,) = pid_lens.demo.batches("vision", n=16)
    found = score_options(model, batch, ("A", "B", "A ."), processor=processor)
    lens = pid_lens.Lens(model, processor, conditions={"full": []})
    with torch.no_grad(), lens(batch):
        model(**batch.inputs)
    assert close(found.first[:, :2], lens.reads.log_probs[-1, 0], atol=1e-5)
    assert close(found.log_probs[:, :2], found.first[:, :2], atol=0)
    assert found.names[0] == ("A", "B", "A .")
    assert found.collisions == ((("A", "A ."),),) * 16
    assert (found.best("whole") == batch.labels).all()


def test_repr_and_hooks():
    model, batch = make("llava")
    before = sum(len(m._forward_pre_hooks) for m in model.modules())
    assert repr(score_options(model, batch, OPTIONS)) == (
        "OptionScores(4 samples, 4 options of 1 to 4 tokens, first tokens collide in 4 samples, "
        "keys and values of the prompt shared)"
    )
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == before


# ---------------------------------------------------------------- refusals


WRONG = {
    "no token of the model": ({"options": [[3, 300]]}, "300 is not a token id"),
    "no rows": ({"settings": {"rows": 0}}, "rows must be at least 1"),
    "text alone": ({"options": ["A"]}, "hand over the processor"),
    "positions": ({"more": {"position_ids": torch.zeros(4, 14).long()}}, "leave position_ids out"),
    "a mask of pairs": ({"more": {"attention_mask": torch.zeros(4, 1, 14, 14)}}, r"\[n, tokens\]"),
}


@pytest.mark.parametrize(("changed", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(changed, words):
    model, batch = make("llava")
    given = replace(batch, inputs={**batch.inputs, **changed.get("more", {})})
    with pytest.raises(ValueError, match=words):
        score_options(model, given, changed.get("options", OPTIONS), **changed.get("settings", {}))


def test_no_samples_are_refused():
    model, batch = make("llava")
    with pytest.raises(ValueError, match="no samples"):
        score_options(model, {k: v[:0] for k, v in batch.inputs.items()}, OPTIONS)
