"""Half precision, and weights that are elsewhere: nothing leaks there either."""

from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, make

import pid_lens
from pid_lens import Knockout, Lens, check, intervene

OFFLOADED = ("llava", "qwen3_vl", "gemma3", "mllama")


def cast(batch, dtype):
    """The batch with its pixels in another precision."""
    inputs = {
        name: value.to(dtype) if value.is_floating_point() and "mask" not in name else value
        for name, value in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_leaks_in_half_precision(name, dtype):
    model, batch = make(name)
    found = check(model.to(dtype), cast(batch, dtype))
    assert found.ok, str(found)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_knockout_in_half_precision_is_one(dtype, attention):
    """Forbidden scores are the least number of the precision, and attention to them is 0."""
    model, batch = make("llava")
    model.set_attn_implementation("eager")
    given = cast(batch, dtype)
    closed = Knockout("image", "question")
    with torch.no_grad(), intervene(model.to(dtype), closed, spans=batch.spans):
        attentions = model(**given.inputs, output_attentions=True).attentions
        model.set_attn_implementation(attention)
        logits = model(**given.inputs).logits
    pairs = batch.spans["question"][:, None, :, None] & batch.spans["image"][:, None, None]
    assert all((one.masked_select(pairs) == 0).all() for one in attentions)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", OFFLOADED)
def test_weights_that_come_only_when_they_are_needed(name):
    """Decoder and unembedding lie on the meta device, as a device map with offloading has it."""
    accelerate = pytest.importorskip("accelerate")
    plain, batch = make(name)
    model, _ = make(name)
    for part in (model.get_decoder(), model.get_output_embeddings()):
        accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "meta"}
    found = check(model, batch)
    assert found.ok, str(found)
    closed, reads = Knockout("image", "question"), []
    for one in (plain, model):
        lens = Lens(one, conditions={"full": []}, interventions=[closed])
        with torch.no_grad(), lens(batch):
            one(**batch.inputs)
        reads.append(lens.reads.log_probs)
    torch.testing.assert_close(*reads)


def test_a_device_is_one_where_inputs_can_be():
    accelerate = pytest.importorskip("accelerate")
    model, batch = make("llava")
    accelerate.cpu_offload(model.get_decoder(), execution_device=torch.device("cpu"))
    accelerate.cpu_offload(model.model.vision_tower, execution_device=torch.device("cpu"))
    assert pid_lens.dissect(model).device == torch.device("cpu")
    assert set(pid_lens.calibrate(model, [batch])) == {"image", "question"}
