"""What hooks of somebody's see of a fork, and that they write nothing there."""

from __future__ import annotations

import pytest
import torch
from tiny import make, read

import pid_lens
from pid_lens import Lens, Zero
from pid_lens.forward import ForkEditError, UserHookGuard


def layer_of(model, at=1):
    return pid_lens.dissect(model).layers[at]


def test_hooks_are_shown_the_callers_rows(family_with_moments):
    model, batch, moments = family_with_moments
    seen = []

    def look(module, args, kwargs, output):
        tensors = [*args, *kwargs.values(), *(output if isinstance(output, tuple) else [output])]
        seen.append([t for t in tensors if isinstance(t, torch.Tensor) and t.ndim == 3])

    handles = [
        module.register_forward_hook(look, with_kwargs=True)
        for module in (layer_of(model), pid_lens.dissect(model).norm)
    ]
    with torch.no_grad():
        model(**batch.inputs, use_cache=False)
    before, seen = seen, []
    lens, _ = read(model, batch, moments)
    assert len(seen) == len(before) == 2
    for one, other in zip(before, seen, strict=True):
        assert [t.shape for t in one] == [t.shape for t in other]
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    for handle in handles:
        handle.remove()
    again, _ = read(model, batch, moments)
    torch.testing.assert_close(again.reads.log_probs, lens.reads.log_probs)


def in_place(module, args, output):
    output[1, -1] = output[0, -1]


def of_a_view(module, args, output):
    output[:1, 3:5].mul_(2)


def of_its_input(module, args, output):
    args[0].add_(1)


def handed_back(module, args, output):
    return output * 2


def of_another_shape(module, args, output):
    return output[:1]


def before_it(module, args):
    return (args[0] + 1, *args[1:])


def before_it_alone(module, args):
    return args[0] + 1


def named(module, args, kwargs):
    return args, {**kwargs, "position_ids": kwargs["position_ids"] + 1}


def named_in_place(module, args, kwargs):
    kwargs["position_ids"].add_(1)


def named_handed_back(module, args, kwargs, output):
    return output * 2


def named_input_in_place(module, args, kwargs, output):
    kwargs["position_ids"].add_(1)


AFTER = [in_place, of_a_view, of_its_input, handed_back, of_another_shape]
BEFORE = [before_it, before_it_alone]
NAMED = [named, named_in_place]
NAMED_AFTER = [named_handed_back, named_input_in_place]


def hook(module, function):
    if function in (*AFTER, *NAMED_AFTER):
        return module.register_forward_hook(function, with_kwargs=function in NAMED_AFTER)
    return module.register_forward_pre_hook(function, with_kwargs=function in NAMED)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "write", [*AFTER, *NAMED_AFTER, *BEFORE, *NAMED], ids=lambda f: f.__name__
)
def test_every_kind_of_write_is_refused(llava, write, mode):
    model, batch, moments = llava
    model.requires_grad_(False)  # or autograd refuses some of them by itself
    handle = hook(layer_of(model), write)
    lens = Lens(model, moments=moments)
    with pytest.raises(ForkEditError, match=r"layers\.1"), mode(), lens(batch):
        model(**batch.inputs)
    handle.remove()
    assert lens.anatomy.decoder._forward_hooks == {}
    clean, _ = read(model, batch, moments)
    assert clean.reads.n == batch.n


@pytest.mark.parametrize(
    "write", [*AFTER[:-1], *NAMED_AFTER, *BEFORE, *NAMED], ids=lambda f: f.__name__
)
def test_writes_are_left_alone_where_nothing_is_forked(llava, write):
    """With one condition there is nothing that an edit could miss."""
    model, batch, _ = llava
    handle = hook(layer_of(model), write)
    with torch.no_grad():
        own = model(**batch.inputs).logits
        with Lens(model, conditions={"full": []}, check=False)(batch):
            logits = model(**batch.inputs).logits
    handle.remove()
    assert torch.equal(logits, own)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("family", ["blip2", "qwen2_vl", "qwen3_vl", "gemma3"])
def test_every_module_shows_the_callers_rows(family, n):
    """Flat ones, and positions of several axes, whatever the numbers of rows and axes are."""
    model, batch = make(family, n)
    shapes = []

    def look(module, args, kwargs, output):
        flat = (*args, *kwargs.values(), *(output if isinstance(output, tuple) else [output]))
        shapes.append([tuple(t.shape) for t in flat if isinstance(t, torch.Tensor) and t.ndim > 1])

    decoder = pid_lens.dissect(model).decoder
    for module in decoder.modules():
        if module is not decoder:
            module.register_forward_hook(look, with_kwargs=True)
    with torch.no_grad():
        model(**batch.inputs, use_cache=False)
    plain, shapes = shapes, []
    blank = {"full": [], "vision": [Zero("question")], "language": [Zero("image")]}
    read(model, batch, None, conditions=blank)
    assert len(shapes) == len(plain)
    for one, other in zip(plain, shapes, strict=True):
        assert [s for s in one if s[0] != 1] == [s for s in other if s[0] != 1]


def test_a_hook_on_the_decoder_that_comes_behind_ours_is_watched(llava):
    """One that came before sees the batch before it is forked, so that its edit is in all rows."""
    model, batch, moments = llava
    decoder = pid_lens.dissect(model).decoder

    def swap(module, args, kwargs):
        embeddings = kwargs["inputs_embeds"].clone()
        embeddings[1] = embeddings[0]
        return args, {**kwargs, "inputs_embeds": embeddings}

    before = decoder.register_forward_pre_hook(swap, with_kwargs=True)
    lens, _ = read(model, batch, moments)
    before.remove()
    plain, _ = read(model, batch, moments)
    moved = (lens.reads.log_probs - plain.reads.log_probs).abs().amax((0, 2, 3))
    assert (moved > 1e-4).all()
    with pytest.raises(ForkEditError, match="goes into the decoder"):
        swapped_inside(Lens(model, moments=moments), model, batch, swap)


def swapped_inside(lens, model, batch, swap):
    with torch.no_grad(), lens(batch):
        handle = pid_lens.dissect(model).decoder.register_forward_pre_hook(swap, with_kwargs=True)
        try:
            model(**batch.inputs)
        finally:
            handle.remove()


def test_a_state_that_was_kept_and_is_written_to_later_is_noticed(llava):
    """The residual stream goes on by the very tensor that a hook was shown."""
    model, batch, moments = llava
    kept = []
    first = layer_of(model).register_forward_hook(lambda m, a, out: kept.append(out))

    def late(module, args, output):
        kept[0][1, -1] = kept[0][0, -1]

    attention = pid_lens.dissect(model).attention(2)
    second = attention.o_proj.register_forward_hook(late)
    with pytest.raises(ForkEditError, match="o_proj"):
        read(model, batch, moments)
    first.remove()
    second.remove()


def test_hooks_stay_where_they_were(llava):
    """Order, those that go away by themselves, and the functions themselves."""
    model, batch, moments = llava
    layer, calls = layer_of(model), []
    first = layer.register_forward_hook(lambda *_: calls.append("first"))

    def once(*_):
        calls.append("once")
        handle.remove()

    handle = layer.register_forward_hook(once)
    last = layer.register_forward_hook(lambda *_: calls.append("last"))
    kept = [fn for key, fn in layer._forward_hooks.items() if key != handle.id]
    for _ in range(2):
        read(model, batch, moments)
    assert calls == ["first", "once", "last", "first", "last"]
    assert list(layer._forward_hooks.values()) == kept
    first.remove()
    last.remove()


@pytest.mark.parametrize("edits", [False, True])
@pytest.mark.parametrize("forked", [False, True])
def test_hooks_are_called_as_they_are_registered(llava, forked, edits):
    """With named arguments if they asked for them, however many parameters they take."""
    model, batch, moments = llava
    layer, seen = layer_of(model), []

    def look(*call):
        seen.append([type(one).__name__ for one in call[1:]])

    handles = [
        register(look, with_kwargs=named)
        for register in (layer.register_forward_pre_hook, layer.register_forward_hook)
        for named in (False, True)
    ]
    if forked:
        read(model, batch, moments, fork_edits=edits)
    else:
        with torch.no_grad():
            model(**batch.inputs)
    args, kwargs, output = "tuple", "dict", "Tensor"
    assert seen == [[args], [args, kwargs], [args, output], [args, kwargs, output]]
    for handle in handles:
        handle.remove()
    assert not layer._forward_hooks_with_kwargs
    assert not layer._forward_pre_hooks_with_kwargs


def test_a_hook_that_removes_itself_stays_away(llava):
    model, batch, moments = llava
    layer, calls = layer_of(model), []

    def once(*call):
        calls.append(len(call))
        for handle in handles:
            handle.remove()

    handles = [
        layer.register_forward_pre_hook(once, with_kwargs=True),
        layer.register_forward_hook(once, with_kwargs=True),
    ]
    for _ in range(2):
        read(model, batch, moments)
    assert calls == [3]
    assert layer._forward_hooks == layer._forward_pre_hooks == {}


def test_handing_back_what_came_is_no_write(llava):
    model, batch, moments = llava
    untouched, logits = read(model, batch, moments)
    same = [
        lambda m, a, out: out,
        lambda m, a, out: out.clone(),
        lambda m, a, out: out.view(*out.shape),
        lambda m, a, out: None,
    ]
    handles = [layer_of(model).register_forward_hook(one) for one in same]
    handles.append(layer_of(model).register_forward_pre_hook(lambda m, a: a))
    handles.append(layer_of(model).register_forward_pre_hook(lambda m, a: a[0]))
    handles += [
        layer_of(model).register_forward_pre_hook(lambda m, a, k: (a, k), with_kwargs=True),
        layer_of(model).register_forward_hook(lambda m, a, k, out: out, with_kwargs=True),
    ]
    lens, again = read(model, batch, moments)
    assert torch.equal(again, logits)
    assert torch.equal(lens.reads.log_probs, untouched.reads.log_probs)
    for one in handles:
        one.remove()


@pytest.mark.parametrize("edit", ["steered", "named", "as a pre-hook", "as a named pre-hook"])
def test_an_edit_that_is_meant_for_every_row_is_in_the_spectrum(family_with_moments, edit):
    """The same as three passes of the caller's own, each with the edit in it."""
    model, batch, moments = family_with_moments
    layer = layer_of(model)
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def steer(module, args, output):
        if isinstance(output, tuple):
            return (output[0] + vector, *output[1:])
        return output + vector

    def steer_named(module, args, kwargs, output):
        return steer(module, args, output)

    def before(module, args):
        return args[0] + vector if len(args) == 1 else (args[0] + vector, *args[1:])

    def before_named(module, args, kwargs):
        if args:
            return (args[0] + vector, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + vector}

    handle = {
        "steered": lambda: layer.register_forward_hook(steer),
        "named": lambda: layer.register_forward_hook(steer_named, with_kwargs=True),
        "as a pre-hook": lambda: layer.register_forward_pre_hook(before),
        "as a named pre-hook": lambda: layer.register_forward_pre_hook(
            before_named, with_kwargs=True
        ),
    }[edit]()
    forked, _ = read(model, batch, moments, fork_edits=True)
    replayed = Lens(model, moments=moments)
    for view in replayed.views(batch):
        with torch.no_grad(), view:
            model(**batch.inputs)
    handle.remove()
    torch.testing.assert_close(forked.reads.log_probs, replayed.reads.log_probs, atol=1e-5, rtol=0)
    plain, _ = read(model, batch, moments)
    assert not torch.allclose(plain.reads.log_probs, forked.reads.log_probs, atol=1e-3)


def test_with_edits_meant_for_every_row_hooks_see_them_all(llava):
    model, batch, moments = llava
    lens, rows = Lens(model, moments=moments, fork_edits=True), []
    handle = layer_of(model).register_forward_hook(lambda m, a, out: rows.append(len(out)))
    with torch.no_grad(), lens(batch):
        model(**batch.inputs)
    handle.remove()
    assert rows == [batch.n * len(lens.rows)]


def test_an_edit_of_some_conditions_is_warned_of(llava):
    """Meant for every row, it names rows after all."""
    model, batch, moments = llava
    handle = layer_of(model).register_forward_hook(in_place)
    said = r"changed the rows of block \[0\] of 3"
    with pytest.warns(UserWarning, match=said):
        read(model, batch, moments, fork_edits=True)
    handle.remove()


def test_a_guard_compares_nan_as_a_number():
    nan = torch.full((2, 3), torch.nan)
    UserHookGuard(n=1, rows=2).call(lambda shown: shown.clone(), nan[:1], "a state")
    with pytest.raises(ForkEditError, match="a state was written to"):
        UserHookGuard(n=1, rows=2).call(lambda shown: shown.nan_to_num(), nan[:1], "a state")
