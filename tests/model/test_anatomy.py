"""A model's parts are found, or it is said why not."""

from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, make
from torch import nn

import pid_lens

LAYERS = {"idefics3": "text_model", "blip2": "decoder", "instructblip": "model"}


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


def test_soft_cap_and_scale_by_hand():
    anatomy = pid_lens.dissect(make("llava")[0])
    state = torch.randn(3, 32)
    plain = anatomy.logits(state)
    capped = replace(anatomy, softcap=0.01, scale=2.0).logits(state)
    torch.testing.assert_close(capped, 0.01 * (2 * plain / 0.01).tanh())


def test_models_that_nobody_knows():
    with pytest.raises(TypeError, match=r"anatomy=pid_lens\.Anatomy"):
        pid_lens.dissect(nn.Linear(2, 2))


def test_a_model_without_a_head_is_refused():
    model, _ = make("llava")
    with pytest.raises(ValueError, match="language-modelling head"):
        pid_lens.dissect(model.model)
