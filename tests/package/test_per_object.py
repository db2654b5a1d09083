"""What is kept per model is kept by identity, and no longer than the model lives."""

from __future__ import annotations

import gc
import importlib
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pid_lens.adapters import transformer_lens as tl
from processors import byte_level, picture, processor_of
from tiny import make

import pid_lens
from pid_lens import Knockout, intervene
from pid_lens.inputs.prompts.token_spans import find_question
from pid_lens.per_object import PerObject
from pid_lens.scoring import score_options


class Equal:
    """Equal to all others of its class, with one hash."""

    def __eq__(self, other):
        return isinstance(other, Equal)

    def __hash__(self):
        return 0


class Unhashable:
    """Equal to all others of its class, without a hash."""

    def __eq__(self, other):
        return isinstance(other, Unhashable)

    __hash__ = None


class Tensorwise(torch.nn.Module):
    """A module whose comparison is no truth value."""

    def __eq__(self, other):
        return torch.ones(2) == 1

    __hash__ = torch.nn.Module.__hash__


KINDS = [Equal, Unhashable, Tensorwise, torch.nn.Identity]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_objects_have_a_value_each(kind):
    known, one, other = PerObject(list), kind(), kind()
    known.of(one).append("one")
    assert known.of(one) == ["one"]
    assert known.of(other) == []
    assert known.of(one) is known.of(one)
    assert len(known) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_outlives_its_object(kind):
    known, one, other = PerObject(dict), kind(), kind()
    value = known.of(one)
    known.of(other)
    seen = weakref.ref(one)
    del one
    gc.collect()
    assert seen() is None
    assert value == {}
    assert len(known) == 1


def test_an_object_in_a_cycle_goes_when_the_collector_comes():
    known, one = PerObject(dict), Unhashable()
    one.itself = one
    known.of(one)["found"] = True
    del one
    gc.collect()
    assert len(known) == 0


def test_an_object_at_the_same_address_begins_anew():
    """Addresses are used again: of a thousand objects in a row each is forgotten."""
    known, addresses = PerObject(list), set()
    for _ in range(1000):
        one = Unhashable()
        addresses.add(id(one))
        assert known.of(one) == []
        known.of(one).append(id(one))
        del one
    assert len(addresses) < 1000
    assert len(known) == 0


def test_a_memory_goes_before_its_objects():
    known, one = PerObject(dict), Equal()
    known.of(one)
    seen = weakref.ref(known)
    del known
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("thing", [3, "name", (1, 2), None, type("Slim", (), {"__slots__": ()})()])
def test_what_cannot_be_weakly_referenced_is_refused(thing):
    with pytest.raises(TypeError, match=f"nothing can be remembered of a {type(thing).__name__}"):
        PerObject(dict).of(thing)


# ---------------------------------------------------------------- the places that use it


HOMES = {
    "forward.occupancy": "_OPEN",
    "scoring.cache_sharing": "_VERDICTS",
    "inputs.prompts.token_spans": "_FRAMES",
    "adapters.transformer_lens.hook_points": "_LIVE",
    "adapters.transformer_lens.attention": "_METHODS",
    "adapters.transformer_lens.liveness": "_SEALED",
}


def memory(home):
    """What is kept there."""
    module = importlib.import_module(f"pid_lens.{home}")
    return getattr(module, HOMES[home])


@pytest.mark.parametrize("home", HOMES)
def test_whatever_is_kept_of_objects_is_kept_here(home):
    assert isinstance(memory(home), PerObject)


def test_a_model_dies_with_all_that_was_found_of_it():
    """Interventions, whole options, and the bridge around it leave nothing behind."""
    gc.collect()
    before = {home: len(memory(home)) for home in HOMES}
    model, batch = make("llava")
    with torch.no_grad(), intervene(model, Knockout("image", "answer"), spans=batch.spans):
        model(**batch.inputs)
    score_options(model, batch, [[5, 6, 7], [8, 9]])
    bridge = tl.bridged(model)
    moments = pid_lens.calibrate(bridge, [batch])
    assert tl.is_live(bridge, "blocks.1.hook_in")
    tl.knockout(bridge, batch, "image", "question")
    tl.noise(bridge, batch, "image", moments)
    grown = [home for home in HOMES if len(memory(home)) > before[home]]
    assert grown == [home for home in HOMES if home != "inputs.prompts.token_spans"]
    seen = weakref.ref(model)
    del model, bridge
    gc.collect()
    assert seen() is None
    assert {home: len(memory(home)) for home in HOMES} == before


def prompt_of(processor):
    """A prompt in the processor's own words."""
    return pid_lens.batch(processor, images=[picture()], questions=["why?"], options=("A", "B"))


def find(processor, prompt):
    ids = prompt.inputs["input_ids"]
    return find_question(processor, ids, torch.ones_like(ids).bool(), processor.image_token_id)


def test_a_processor_dies_with_what_was_found_of_its_template():
    gc.collect()
    kept = memory("inputs.prompts.token_spans")
    before, processor = len(kept), processor_of(byte_level)
    find(processor, prompt_of(processor))
    assert len(kept) == before + 1
    seen = weakref.ref(processor)
    del processor
    gc.collect()
    assert seen() is None
    assert len(kept) == before


class Counting:
    """Stands for a processor, and counts what it is asked to make."""

    __slots__ = ()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *args, **kwargs):
        self.made += 1
        return self.inner(*args, **kwargs)


@dataclass
class ByValue(Counting):
    """Equal to another of the same processor, and without a hash."""

    inner: Any
    made: int = 0


@dataclass(slots=True)
class Slotted(Counting):
    """One that cannot be weakly referenced."""

    inner: Any
    made: int = 0


@pytest.mark.parametrize(("kind", "times"), [(ByValue, 1), (Slotted, 3)])
def test_a_template_is_tried_out_once_a_processor_that_can_be_remembered(kind, times):
    inner = processor_of(byte_level)
    one, other, prompt = kind(inner), kind(inner), prompt_of(inner)
    for _ in range(3):
        assert torch.equal(find(one, prompt), prompt.spans["question"])
    assert (one.made, other.made) == (times, 0)
    find(other, prompt)
    assert (one.made, other.made) == (times, 1)


def test_another_template_of_the_same_processor_is_tried_out_anew():
    one = ByValue(processor_of(byte_level))
    find(one, prompt_of(one.inner))
    one.inner.chat_template = one.inner.chat_template.replace("ASSISTANT:", "MODEL:")
    prompt = prompt_of(one.inner)
    assert torch.equal(find(one, prompt), prompt.spans["question"])
    assert one.made == 2
