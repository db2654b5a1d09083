"""What each family can do: measured on tiny models, and the table of the README is that one.

``PYTHONPATH=tests/support python tests/model/test_families.py`` prints the table as it should be.
"""

from dataclasses import replace

import pytest
import torch
from paths import README
from tiny import FAMILIES, make

import pid_lens
from pid_lens import Knockout, Lens, Pooled, Remove, Spans, intervene
from pid_lens.scoring import score_options

GREEDY = {
    "max_new_tokens": 2,
    "do_sample": False,
    "pad_token_id": 0,
    "output_logits": True,
    "return_dict_in_generate": True,
}
UNTRIED = {("fuyu", "in `generate`")}
"""Fuyu's own ``generate`` does not take the places of its patches."""


def answers(model, batch, *interventions, spans=None):
    """Logits at the prompts' ends."""
    if not interventions:
        return model(**batch.inputs).logits[:, -1]
    with intervene(model, *interventions, spans=spans or batch.spans):
        return answers(model, batch)


def other_pixels(batch):
    """The batch with its samples' pixels upside down."""
    changed = {
        name: -value
        for name, value in batch.inputs.items()
        if value.is_floating_point() and "mask" not in name
    }
    assert changed
    return replace(batch, inputs={**batch.inputs, **changed})


def differ(one, other):
    """Whether every sample's logits differ by more than rounding."""
    return bool(((one - other).abs().amax(-1) > 1e-5).all())


def noise(model, batch):
    found = pid_lens.check(model, batch)
    assert "9 of 9 properties hold" in str(found), str(found)


def knockout(model, batch):
    plain, other = answers(model, batch), other_pixels(batch)
    assert differ(answers(model, other), plain)
    assert differ(answers(model, batch, Knockout("image", "question")), plain)
    image = batch.spans["image"]
    closed = {"spans": Spans(image=image, rest=~image)}
    blind = answers(model, batch, Knockout("image", "rest"), **closed)
    assert torch.equal(answers(model, other, Knockout("image", "rest"), **closed), blind)


def heads(model, batch):
    some = answers(model, batch, Knockout("image", "question", heads=[0]))
    assert differ(some, answers(model, batch))
    assert differ(some, answers(model, batch, Knockout("image", "question")))


def removal(model, batch):
    blind = answers(model, batch, Remove("image"))
    assert differ(blind, answers(model, batch))
    assert torch.equal(answers(model, other_pixels(batch), Remove("image")), blind)


def generate(model, batch):
    closed = Knockout("image", "question")
    with intervene(model, closed, spans=batch.spans):
        first = model.generate(**batch.inputs, **GREEDY).logits[0]
    assert differ(first, model.generate(**batch.inputs, **GREEDY).logits[0])
    torch.testing.assert_close(first, answers(model, batch, closed), rtol=0, atol=1e-5)


def image_only(model, batch):
    lens = Lens(model, conditions={"full": []}, states=[Pooled("image", token="last")])
    with lens(batch):
        model(**batch.inputs)
    (states,) = lens.reads.states.values()
    assert states.shape[:2] == (len(lens.anatomy.layers), batch.n)
    assert differ(states[-1, :1], states[-1, 1:])


def regions(model, batch):
    corner = pid_lens.region(model, batch, cells=(0, 0, 1, 1))
    assert torch.equal(corner.sum(-1), torch.ones(batch.n).long())
    assert bool(batch.spans["image"][corner].all())


def shared(model, batch):
    found = score_options(model, batch, [[3], [4, 5]])
    if not found.shared:
        raise ValueError("the prompt's keys and values cannot be shared")


FEATURES = {
    "noise, lens, check": noise,
    "knockout": knockout,
    "of some heads": heads,
    "removal": removal,
    "in `generate`": generate,
    "image-only state": image_only,
    "regions": regions,
    "options share the prompt": shared,
}
REASONS = {
    ("mllama", "of some heads"): "cross-attention",
    ("blip2", "in `generate`"): "BLIP-2's generate",
    ("instructblip", "in `generate`"): "BLIP-2's generate",
    ("paligemma", "image-only state"): "image tokens depend on the text",
    ("instructblip", "image-only state"): "image tokens depend on the text",
    ("llava_next", "regions"): "llava_next",
    ("llava_onevision", "regions"): "llava_onevision",
    ("mllama", "regions"): "mllama",
    ("blip2", "regions"): "blip",
    ("instructblip", "regions"): "instructblip",
    ("blip2", "options share the prompt"): "cannot be shared",
    ("instructblip", "options share the prompt"): "cannot be shared",
}
"""What is refused, and words of the reason."""


@torch.no_grad()
def refusal(family, feature):
    """Why a family cannot have a feature; None if it can."""
    model, batch = make(family)
    try:
        FEATURES[feature](model, batch)
    except ValueError as error:
        return str(error)
    return None


def table():
    """The table of the README."""
    lines = ["| | " + " | ".join(FEATURES) + " |", "|---" * (len(FEATURES) + 1) + "|"]
    for family in FAMILIES:
        cells = [_said(family, feature) for feature in FEATURES]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _said(family, feature):
    known = "no" if (family, feature) in REASONS else "yes"
    return "untried" if (family, feature) in UNTRIED else known


TRIED = [(family, f) for family in FAMILIES for f in FEATURES if (family, f) not in UNTRIED]


@pytest.mark.parametrize(("family", "feature"), TRIED)
def test_what_a_family_cannot_have_is_refused_with_the_reason(family, feature):
    said, reason = refusal(family, feature), REASONS.get((family, feature))
    assert (said is None) == (reason is None), said
    assert reason is None or reason in said


def test_the_readmes_table_is_what_was_measured():
    if not README.exists():
        pytest.skip("needs the checkout")
    assert table() in README.read_text()


if __name__ == "__main__":
    print(table())
