"""A model's parts are found, or it is said why not."""

import pytest
import torch
import transformers as hf
from pid_lens.adapters.transformers import LEAKS
from tiny import FAMILIES, TEXT, VISION, make
from torch import nn

import pid_lens

LAYERS = {"idefics3": "text_model", "blip2": "decoder"}


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_the_models_own(family):
    model, batch = make(family)
    anatomy = pid_lens.dissect(model)
    assert len(anatomy.layers) == 4
    assert anatomy.image_token == 290
    assert anatomy.site.split(".")[-2] == LAYERS.get(family, "language_model")
    with torch.no_grad():
        out = model(**batch.inputs, output_hidden_states=True)
    raw = []
    with anatomy.layers[-1].register_forward_hook(lambda m, a, o: raw.append(o)), torch.no_grad():
        model(**batch.inputs)
    state = raw[0][0] if isinstance(raw[0], tuple) else raw[0]
    torch.testing.assert_close(anatomy.logits(state), out.logits, atol=1e-5, rtol=0)


def test_soft_capping_is_kept():
    model, _ = make("gemma3")
    anatomy = pid_lens.dissect(model)
    model.config.text_config.final_logit_softcapping = 0.01
    capped = pid_lens.dissect(model)
    state = torch.randn(3, 32)
    expected = 0.01 * (anatomy.logits(state) / 0.01).tanh()
    torch.testing.assert_close(capped.logits(state), expected)
    assert capped.logits(state).abs().max() <= 0.01


def test_leaking_families_are_refused_by_name():
    vision = hf.Blip2VisionConfig(**VISION).to_dict()
    config = hf.InstructBlipConfig(
        vision_config=vision,
        qformer_config={"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1},
        text_config=hf.LlamaConfig(**TEXT).to_dict(),
        num_query_tokens=4,
    )
    with pytest.raises(ValueError, match=r"instructblip.*Q-Former.*leak"):
        pid_lens.dissect(hf.InstructBlipForConditionalGeneration(config))
    assert {"qwen3_vl", "mllama", "instructblip"} <= set(LEAKS)


def test_models_that_nobody_knows():
    with pytest.raises(TypeError, match=r"anatomy=pid_lens\.Anatomy"):
        pid_lens.dissect(nn.Linear(2, 2))


def test_a_model_without_a_head_is_refused():
    model, _ = make("llava")
    with pytest.raises(ValueError, match="language-modelling head"):
        pid_lens.dissect(model.model)
