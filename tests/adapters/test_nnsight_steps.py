"""Knockouts in the steps of a generation, and what is said of misuse."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from nnsight import NNsight
from pid_lens.adapters.nnsight import in_trace as inside
from tiny import make

from pid_lens import (
    Knockout,
    Lens,
    intervene,
)


def equal(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "mllama"])
def test_a_knockout_in_every_step_of_a_generation(family, cached):
    model, batch = make(family)
    nn = NNsight(deepcopy(model))
    how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "use_cache": cached}
    told = {"output_logits": True, "return_dict_in_generate": True}
    closed = Knockout("image", "answer")
    with torch.no_grad(), intervene(model, closed, spans=batch.spans):
        expected = model.generate(**batch.inputs, **how, **told)
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, **how, **told, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[:3]:
            inside.knockout(nn, "image", "answer", batch=batch)
            nn.lm_head.output.sum().save()
        found = tracer.result.save()
    for one, other in zip(found.logits, expected.logits, strict=True):
        equal(one, other)
    plain = model.generate(**batch.inputs, **how, **told)
    assert not torch.allclose(found.logits[0], plain.logits[0], atol=1e-4)


def generated(nn, batch, steps, layers=None, **more):
    """Logits of three steps, with a knockout in some of them."""
    how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, **more}
    told = {"output_logits": True, "return_dict_in_generate": True}
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, **how, **told, fn=nn._module.generate) as tracer,
    ):
        for step in tracer.iter[:3]:
            if step in steps:
                inside.knockout(nn, "image", "answer", layers=layers, batch=batch)
            nn.lm_head.output.sum().save()
        found = tracer.result.save()
    return found.logits


def test_a_knockout_holds_in_its_own_step_alone(llava_in_nnsight):
    _, nn, batch, _ = llava_in_nnsight
    plain, first, second = (generated(nn, batch, steps) for steps in ([], [0], [1]))
    assert not torch.equal(first[0], plain[0])
    assert torch.equal(second[0], plain[0])
    assert not torch.equal(second[1], plain[1])
    with torch.no_grad(), nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate):
        inside.knockout(nn, "image", "answer", batch=batch)
    assert torch.equal(generated(nn, batch, [])[0], plain[0])


@pytest.mark.parametrize("step", [0, 1])
def test_a_knockout_of_a_step_is_over_in_the_next(llava_in_nnsight, step):
    """In the last layer it changes no keys and values, so later steps are as they were."""
    _, nn, batch, _ = llava_in_nnsight
    how = {"layers": -1, "prefix_allowed_tokens_fn": lambda row, ids: [7]}
    plain, found = (generated(nn, batch, steps, **how) for steps in ([], [step]))
    for at, (one, other) in enumerate(zip(found, plain, strict=True)):
        assert torch.equal(one, other) is (at != step)


def test_a_loop_that_reads_nothing_ends(llava_in_nnsight):
    """Without anything to wait for, an open loop over tracer.iter would never come to an end."""
    _, nn, batch, _ = llava_in_nnsight
    with pytest.warns(UserWarning, match="was never reached"):
        openly(nn, batch)


def openly(nn, batch):
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[:]:
            inside.knockout(nn, "image", "answer", batch=batch)


def reading_first(nn, batch):
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[1:3]:
            nn.model.language_model.layers[0].input.save()
            inside.knockout(nn, "image", "answer", layers=[2, 3], batch=batch)


def readout_of_a_step(nn, batch):
    with (
        torch.no_grad(),
        nn.trace(**batch.inputs, max_new_tokens=3, fn=nn._module.generate) as tracer,
    ):
        for _ in tracer.iter[1]:
            inside.readout(nn, batch=batch)


def with_beams(nn, batch):
    how = {"max_new_tokens": 3, "num_beams": 2, "fn": nn._module.generate}
    with torch.no_grad(), nn.trace(**batch.inputs, **how) as tracer:
        for _ in tracer.iter[1]:
            inside.knockout(nn, "image", "answer", batch=batch)


def outside(nn, batch):
    inside.knockout(nn, "image", "answer", batch=batch)


def beside_invokes(nn, batch):
    with nn.trace() as tracer:
        inside.readout(nn, batch=batch)
        with tracer.invoke(**batch.inputs):
            nn.output.save()


def of_the_plain_model(nn, batch):
    with nn.trace(**batch.inputs):
        inside.readout(nn._module, batch=batch)


def of_another_batch(nn, batch):
    ids = batch.inputs["input_ids"].clone()
    ids[:, 0] += 1
    with nn.trace(**{**batch.inputs, "input_ids": ids}):
        inside.readout(nn, batch=batch)


def in_a_lens(nn, batch):
    with Lens(nn, conditions={"full": []})(batch), torch.no_grad(), nn.trace(**batch.inputs):
        inside.knockout(nn, "image", "answer", batch=batch)


def without_options(nn, batch):
    with nn.trace(**batch.inputs):
        inside.readout(nn, spans=batch.spans)


def without_a_question(nn, batch):
    with nn.trace(**batch.inputs):
        inside.knockout(nn, "image", "question")


def asked_too_early(nn, batch):
    with nn.trace(**batch.inputs):
        inside.readout(nn, batch=batch).reads  # noqa: B018


WRONG = {
    reading_first: "before the loop's own reads",
    readout_of_a_step: "readout reads prompts",
    with_beams: "a beam search cannot be matched to prompts",
    outside: "belongs in a trace's own block",
    beside_invokes: "into one of them",
    of_the_plain_model: "needs the nnsight model that is traced",
    of_another_batch: "not the inputs of the batch that was described",
    in_a_lens: r"Lens\(..., interventions=\[...\]\)",
    without_options: "no options",
    without_a_question: "without a processor the question cannot be found",
    asked_too_early: r"layers \[0, 1, 2, 3\] were not read",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_errors_say_what_to_do(llava_in_nnsight, wrong):
    model, nn, batch, _ = llava_in_nnsight
    with pytest.raises((ValueError, TypeError, RuntimeError), match=WRONG[wrong]):
        wrong(nn, batch)
    with torch.no_grad(), nn.trace(**batch.inputs):
        logits = nn.output.logits.save()
    assert torch.equal(logits, model(**batch.inputs).logits), "nothing stays behind"
