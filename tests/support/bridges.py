"""Bridges of TransformerLens around tiny models, and its ways of calling them."""

from copy import deepcopy

import torch
from pid_lens.adapters.transformer_lens import bridged
from pid_lens.adapters.transformer_lens.attention import KnockoutHooks
from tiny import make

import pid_lens
from pid_lens import Knockout
from pid_lens.inputs import resolve_samples

COMPUTED = ("llava", "llava_next", "llava_onevision", "gemma3", "idefics3", "mistral3")
"""Families whose attention a bridge computes itself."""
DELEGATED = ("qwen2_5_vl", "qwen3_vl")
"""Families whose attention it leaves to the model."""


def both(family, n=4):
    """A plain tiny model, a bridge around its copy, a batch, and moments of the plain one."""
    model, batch = make(family, n)
    return model, bridged(deepcopy(model)), batch, pid_lens.calibrate(model, [batch])


def parts(batch):
    """Token ids, and the rest of a batch's inputs."""
    rest = dict(batch.inputs)
    return rest.pop("input_ids"), rest


@torch.no_grad()
def plainly(model, batch):
    return model(**batch.inputs).logits


@torch.no_grad()
def called(bridge, batch, **more):
    ids, rest = parts(batch)
    return bridge(ids, **rest, **more)


@torch.no_grad()
def run(bridge, batch, hooks=(), **more):
    ids, rest = parts(batch)
    return bridge.run_with_hooks(ids, fwd_hooks=list(hooks), **rest, **more)


@torch.no_grad()
def cached(bridge, batch, **more):
    ids, rest = parts(batch)
    return bridge.run_with_cache(ids, **rest, **more)


def intervened(call, model, batch, *interventions):
    """What a call answers under interventions of pid_lens."""
    with pid_lens.intervene(model, *interventions, spans=batch.spans, ids=batch.ids):
        return call(model, batch)


def read_by(lens, call, model, batch):
    """What a lens reads of a call, and what the caller gets."""
    with lens(batch):
        found = call(model, batch)
    return lens.reads, found


def equal(one, other, atol=1e-5):
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def after_layer_1(edit):
    return [("blocks.1.hook_resid_post", edit)]


def steered(states, hook=None):
    """An edit that is meant for every row."""
    return states + torch.linspace(-1, 1, states.shape[-1])


def by(method, bridge, batch, **where):
    """Functions that close attention one way, whichever the bridge would take."""
    anatomy = pid_lens.dissect(bridge)
    closed = Knockout("image", "question", **where)
    hooks = KnockoutHooks(anatomy, closed, resolve_samples(batch, None, anatomy.image_token))
    return [getattr(hooks, method)(layer) for layer in hooks.layers]
