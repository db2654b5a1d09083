"""Whose spans and whose name a row of a call has, inside a block of interventions."""

import pytest
import torch
from tiny import make

import pid_lens
from pid_lens import Batch
from pid_lens.forward import WholeBatch


def resolve(model, inputs, by_content=False, **said):
    known = Batch(inputs={}, **said)
    resolver = WholeBatch(pid_lens.dissect(model), known, by_content=by_content)
    return resolver(inputs["input_ids"], inputs)


@pytest.mark.parametrize("times", [1, 3])
def test_beams_have_the_spans_and_the_name_of_their_prompt(times):
    model, batch = make("llava")
    inputs = {name: one.repeat_interleave(times, 0) for name, one in batch.inputs.items()}
    found = resolve(model, inputs, spans=batch.spans, ids=batch.ids)
    assert found.ids == tuple(name for name in batch.ids for _ in range(times))
    for name, mask in batch.spans.items():
        assert torch.equal(found.spans[name], mask.repeat_interleave(times, 0))


@pytest.mark.parametrize("by_content", [True, False])
def test_prompts_without_ids_are_named_by_their_content_where_noise_needs_it(by_content):
    model, batch = make("llava")
    names = resolve(model, batch.inputs, by_content, spans=batch.spans).ids
    assert (names == ("0", "1", "2", "3")) is not by_content
    assert len(set(names)) == batch.n
