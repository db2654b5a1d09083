"""Knockouts: what is closed is closed, all else is open, in every family and backend."""

from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, make, padded

import pid_lens
from pid_lens import Knockout, Lens, Noise, intervene

CLOSED = Knockout("image", "question", layers=[1, 2])


@pytest.fixture(params=FAMILIES)
def family(request):
    return make(request.param)


@pytest.fixture(params=[name for name in FAMILIES if name != "mllama"])
def of_tokens(request):
    """Families whose images are tokens that others look at."""
    return make(request.param)


def switched(model, attention):
    model.set_attn_implementation(attention)
    return model


@torch.no_grad()
def logits(model, batch, *interventions, **more):
    if not interventions:
        return model(**batch.inputs, **more).logits
    with intervene(model, *interventions, spans=batch.spans):
        return model(**batch.inputs, **more).logits


def pairs(batch, source="image", target="question"):
    """Which query must not see which key, [n, 1, queries, keys]."""
    closed = batch.spans[target][:, :, None] & batch.spans[source][:, None, :]
    return closed[:, None]


def answers(logits, batch):
    """Logits at the last attended token."""
    mask = batch.inputs.get("attention_mask", torch.ones_like(batch.inputs["input_ids"]))
    at = (mask * torch.arange(mask.shape[1])).argmax(-1)
    return logits[torch.arange(len(at)), at]


def attentions(output):
    """Of each layer; BLIP-2 keeps its language model's output whole."""
    return getattr(output, "attentions", None) or output.language_model_outputs.attentions


# ---------------------------------------------------------------- what is closed


def test_forbidden_attention_is_exactly_0_and_no_other_layer_is_touched(of_tokens):
    model, batch = of_tokens
    switched(model, "eager")
    with intervene(model, CLOSED, spans=batch.spans), torch.no_grad():
        found = attentions(model(**batch.inputs, output_attentions=True))
    with torch.no_grad():
        plain = attentions(model(**batch.inputs, output_attentions=True))
    closed = pairs(batch)
    for layer, attention in enumerate(found):
        inside = attention.masked_select(closed)
        if layer in CLOSED.layers:
            assert (inside == 0).all()
            assert torch.allclose(attention.sum(-1), torch.ones(()), atol=1e-5)
        else:
            assert inside.max() > 1e-4
    assert torch.equal(found[0], plain[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_image_closed_to_everybody_is_seen_by_nobody(family, attention):
    model, batch = family
    switched(model, attention)
    pixels = next(name for name in ("pixel_values", "image_patches") if name in batch.inputs)
    other = {**batch.inputs, pixels: torch.randn_like(batch.inputs[pixels])}
    spans = pid_lens.Spans(image=batch.spans["image"], rest=~batch.spans["image"])
    found = []
    for inputs in (batch.inputs, other):
        with intervene(model, Knockout("image", "rest"), spans=spans), torch.no_grad():
            found.append(model(**inputs).logits[:, -1])
    assert torch.equal(*found)
    swapped = replace(batch, inputs=other)
    assert not torch.allclose(
        logits(model, batch)[:, -1], logits(model, swapped)[:, -1], atol=1e-4
    )


def test_cross_attention_is_closed_at_its_targets_and_layers_alone():
    model, batch = make("mllama")
    layers, seen = model.get_decoder().layers, {}

    def keep(layer):
        def hook(module, args, output):
            seen[layer] = output[0]

        return hook

    with intervene(model, Knockout("image", "question", layers=[0, 1]), spans=batch.spans):
        kept = [layers[at].cross_attn.register_forward_hook(keep(at)) for at in (1, 3)]
        model(**batch.inputs)
        for hook in kept:
            hook.remove()
    question = batch.spans["question"]
    assert (seen[1][question] == 0).all()
    assert (seen[1][:, -1] != 0).any()
    assert (seen[3][question] != 0).any()
    with pytest.raises(ValueError, match=r"layer 1 .*cross-attention.*leave heads out"):
        logits(model, batch, Knockout("image", "question", heads=[0]))


def test_backends_agree(family):
    model, batch = family
    found = [logits(switched(model, kind), batch, CLOSED) for kind in ("sdpa", "eager")]
    plain = logits(model, batch)
    assert torch.allclose(*found, atol=1e-5)
    assert not torch.allclose(found[1], plain, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing(family, side, attention):
    model, batch = family
    switched(model, attention)
    plain = answers(logits(model, batch, CLOSED), batch)
    wide = padded(batch, side)
    assert torch.allclose(answers(logits(model, wide, CLOSED), wide), plain, atol=2e-5)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_equals_a_mask_made_by_hand(name, attention):
    """The mask that the model itself makes under eager attention, minus the pairs."""
    model, batch = make(name)
    layers = model.get_decoder().layers
    seen = {}

    def keep(layer):
        def hook(module, args, kwargs):
            seen[layer] = kwargs["attention_mask"].clone()

        return hook

    switched(model, "eager")
    kept = [
        layer.self_attn.register_forward_pre_hook(keep(at), with_kwargs=True)
        for at, layer in enumerate(layers)
    ]
    logits(model, batch)
    for hook in kept:
        hook.remove()

    def by_hand(layer):
        def hook(module, args, kwargs):
            mask = seen[layer].masked_fill(pairs(batch), torch.finfo(torch.float32).min)
            return args, {**kwargs, "attention_mask": mask}

        return hook

    switched(model, attention)
    made = [
        layers[at].self_attn.register_forward_pre_hook(by_hand(at), with_kwargs=True)
        for at in CLOSED.layers
    ]
    expected = logits(model, batch)
    for hook in made:
        hook.remove()
    assert torch.allclose(logits(model, batch, CLOSED), expected, atol=1e-5)
    assert not torch.allclose(logits(model, batch), expected, atol=1e-5)


def test_some_heads_alone():
    model, batch = make("llava")
    switched(model, "eager")
    with intervene(model, Knockout("image", "question", heads=[1, -1]), spans=batch.spans):
        found = model(**batch.inputs, output_attentions=True).attentions
    for attention in found:
        inside = attention.masked_fill(~pairs(batch), 0).sum((0, 2, 3))
        assert (inside > 0).tolist() == [True, False, True, False]
    parts = [
        logits(model, batch, *[Knockout("image", "question", heads=[h]) for h in heads])
        for heads in ([0, 2], [2, 0])
    ]
    whole = logits(model, batch, Knockout("image", "question", heads=[0, 2]))
    assert torch.allclose(parts[0], whole, atol=1e-6)
    assert torch.equal(*parts)


def test_every_head_is_all_heads_and_every_layer_all_layers():
    model, batch = make("qwen2_5_vl")
    one = logits(model, batch, Knockout("image", "question"))
    other = logits(model, batch, Knockout("image", "question", layers=range(4), heads=range(4)))
    last = logits(model, batch, Knockout("image", "answer", layers=[-1]))
    same = logits(model, batch, Knockout("image", "answer", layers=[3]))
    assert torch.allclose(one, other, atol=1e-6)
    assert torch.equal(last, same)


def test_a_token_sees_itself():
    model, batch = make("llava")
    switched(model, "eager")
    everything = Knockout("question", "question")
    with intervene(model, everything, spans=batch.spans), torch.no_grad():
        found = model(**batch.inputs, output_attentions=True).attentions
    inside = found[0].masked_fill(~pairs(batch, "question"), 0)
    assert torch.equal(inside.triu(1) + inside.tril(-1), torch.zeros_like(inside))
    assert (
        inside.diagonal(dim1=-2, dim2=-1)[batch.spans["question"][:, None].expand(-1, 4, -1)] > 0
    ).all()


def test_closing_all_that_a_token_sees_is_finite():
    model, batch = make("llava")
    n, tokens = batch.inputs["input_ids"].shape
    first = torch.zeros(n, tokens).bool()
    first[:, :3] = True
    spans = pid_lens.Spans(image=first, question=first)
    for kind in ("sdpa", "eager"):
        with intervene(switched(model, kind), Knockout("image", "question"), spans=spans):
            assert model(**batch.inputs).logits.isfinite().all()


class Blind(list):
    """An intervention of one's own: what it hides is a list, which cannot be hashed."""

    draws, layers, heads = 1, None, None

    def complete(self, **_):
        return self

    def ends(self, samples):
        hidden = torch.zeros_like(samples.spans["image"])
        hidden[:, list(self)] = True
        return samples.spans["question"], hidden


def test_an_intervention_of_ones_own():
    model, batch = make("llava")
    places = batch.spans["image"][0].nonzero().flatten().tolist()
    own = logits(model, batch, Blind(places))
    assert torch.equal(own, logits(model, batch, Knockout("image", "question")))


@pytest.mark.parametrize("keep", [[0], [2, 1]])
def test_batches_do_not_matter(keep):
    model, batch = make("llava")
    one = logits(model, batch, CLOSED)[keep]
    inputs = {k: v[keep] for k, v in batch.inputs.items()}
    few = replace(batch, inputs=inputs, spans={k: m[keep] for k, m in batch.spans.items()})
    assert torch.allclose(logits(model, few, CLOSED), one, atol=1e-5)


# ---------------------------------------------------------------- generate


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "mistral3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("target", ["question", "answer"])
def test_generate_with_a_cache_without_and_step_by_step(name, attention, target):
    model, batch = make(name)
    switched(model, attention)
    closed = Knockout("image", target)
    ids = batch.inputs["input_ids"]
    greedy = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with intervene(model, closed, spans=batch.spans), torch.no_grad():
        cached = model.generate(**batch.inputs, **greedy)
        plain = model.generate(**batch.inputs, use_cache=False, **greedy)
    assert torch.equal(cached, plain)
    assert cached.shape[1] == ids.shape[1] + 4
    with intervene(model, closed, spans=batch.spans), torch.no_grad():
        scores = model.generate(
            **batch.inputs, output_logits=True, return_dict_in_generate=True, **greedy
        ).logits
    first = answers(logits(model, batch, closed), batch)
    assert torch.allclose(scores[0], first, atol=1e-5)
    grown = replace(
        batch,
        spans=pid_lens.Spans(
            image=torch.nn.functional.pad(batch.spans["image"], (0, 1)),
            question=torch.nn.functional.pad(
                batch.spans["question"] if target == "question" else ids != ids, (0, 1)
            )
            | _generated(ids, target),
        ),
        inputs=_with_one_more(batch.inputs, cached[:, ids.shape[1]]),
    )
    second = logits(model, grown, Knockout("image", "question"))[:, -1]
    assert torch.allclose(scores[1], second, atol=1e-5)


def _generated(ids, target):
    """The answer position and what continues it, where the answer is the target."""
    mask = torch.zeros(len(ids), ids.shape[1] + 1).bool()
    mask[:, -2:] = target == "answer"
    return mask


def _with_one_more(inputs, token):
    """The inputs with a generated token at the end."""
    shape = inputs["input_ids"].shape
    last = {"input_ids": token, "attention_mask": torch.ones_like(token)}
    return {
        k: torch.cat([v, last.get(k, torch.zeros_like(token))[:, None]], 1)
        if v.shape == shape
        else v
        for k, v in inputs.items()
    }


def test_generate_with_beams():
    model, batch = make("llava")
    options = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, "pad_token_id": 0}
    alone = []
    with torch.no_grad():
        with intervene(model, CLOSED, spans=batch.spans):
            found = model.generate(**batch.inputs, **options)
        for row in range(4):
            inputs = {k: v[[row]] for k, v in batch.inputs.items()}
            spans = {k: m[[row]] for k, m in batch.spans.items()}
            with intervene(model, CLOSED, spans=spans):
                alone.append(model.generate(**inputs, **options)[0])
    assert torch.equal(found, torch.stack(alone))


def hooks(model):
    """How many there are; transformers has some of its own."""
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_the_block_ends():
    model, batch = make("llava")
    before = logits(model, batch)
    own = hooks(model)
    logits(model, batch, CLOSED)
    assert torch.equal(logits(model, batch), before)
    with pytest.raises(RuntimeError), intervene(model, CLOSED, spans=batch.spans):
        raise RuntimeError
    assert torch.equal(logits(model, batch), before)
    assert hooks(model) == own


# ---------------------------------------------------------------- under a lens


def test_a_lens_reads_the_model_under_its_interventions(family):
    model, batch = family
    moments = pid_lens.calibrate(model, [batch])
    lens = Lens(model, moments=moments, interventions=[CLOSED])
    with torch.no_grad(), lens(batch):
        seen = model(**batch.inputs).logits
    assert torch.allclose(seen, logits(model, batch, CLOSED), atol=1e-5)
    noised = Lens(model, moments=moments, conditions={"full": [Noise("question"), CLOSED]})
    with torch.no_grad(), noised(batch):
        plain = model(**batch.inputs).logits
    assert torch.allclose(plain, logits(model, batch), atol=1e-5)
    vision, expected = (one.reads.log_probs[:, index] for one, index in ((lens, 1), (noised, 0)))
    assert torch.allclose(vision, expected, atol=1e-4)


def test_replay_equals_fork(family):
    model, batch = family
    moments = pid_lens.calibrate(model, [batch])
    fork, replay = (Lens(model, moments=moments, interventions=[CLOSED]) for _ in range(2))
    with torch.no_grad():
        with fork(batch):
            model(**batch.inputs)
        for view in replay.views(batch):
            with view:
                model(**batch.inputs)
    assert torch.allclose(fork.reads.log_probs, replay.reads.log_probs, atol=1e-5)


def test_reads_with_and_without_do_not_mix():
    model, batch = make("llava")
    moments = pid_lens.calibrate(model, [batch])
    found = []
    for more in ([], [CLOSED]):
        lens = Lens(model, moments=moments, interventions=more)
        with torch.no_grad(), lens(batch):
            model(**batch.inputs)
        found.append(lens.reads)
    with pytest.raises(ValueError, match="settings"):
        pid_lens.Reads.concat(found)


@pytest.mark.parametrize(
    ("layer", "width", "layers"),
    [(0, 3, (0, 1)), (3, 4, (2, 3, 4, 5)), (5, 9, (1, 2, 3, 4, 5)), (2, 1, (2,))],
)
def test_a_window_has_the_layers_that_there_are(layer, width, layers):
    assert Knockout.window("image", "question", layer, of=6, width=width).layers == layers


@pytest.mark.parametrize("wrong", [{"layer": 6}, {"layer": -1}, {"width": 0}])
def test_a_window_around_no_layer_is_refused(wrong):
    with pytest.raises(ValueError, match=r"middle in 0\.\.5"):
        Knockout.window("image", "question", **{"layer": 0, "of": 6, **wrong})


# ---------------------------------------------------------------- refusals


WRONG = {
    "no layer": (lambda: Knockout("image", "question", layers=[4]), ValueError, "layers must lie"),
    "no head": (lambda: Knockout("image", "question", heads=[-5]), ValueError, "heads must lie"),
    "no span": (lambda: Knockout("car", "question"), ValueError, "no span 'car'"),
    "a number": (lambda: Knockout("image", "question", layers=3), TypeError, "list of numbers"),
    "nothing": (lambda: Knockout("image", "question", layers=[]), TypeError, "at least one"),
    "a class": (lambda: Knockout, TypeError, "must be an instance"),
}


@pytest.mark.parametrize(("make_it", "error", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused(make_it, error, words):
    model, batch = make("llava")
    with pytest.raises(error, match=words):
        logits(model, batch, make_it())


@pytest.mark.parametrize("kind", ["flash_attention_2", "flex_attention"])
def test_attention_without_masks_is_refused(kind):
    model, batch = make("llava")
    model.get_decoder().config._attn_implementation = kind
    with pytest.raises(ValueError, match=rf"{kind} takes no mask.*sdpa"):
        logits(model, batch, CLOSED)


def test_a_cache_of_before_is_refused():
    model, batch = make("llava")
    with torch.no_grad():
        cache = model(**batch.inputs, use_cache=True).past_key_values
    with intervene(model, CLOSED, spans=batch.spans), pytest.raises(ValueError, match="before"):
        model(input_ids=batch.inputs["input_ids"][:, -1:], past_key_values=cache)


def test_no_intervention_is_an_error():
    model, _ = make("llava")
    with pytest.raises(ValueError, match="no intervention"), intervene(model):
        pass
