"""The self-check: it holds for every family, and fails where something leaks."""

from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, IMAGE, described, make

import pid_lens
from pid_lens import check


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes(name):
    model, batch = make(name)
    found = check(model, batch)
    assert found.ok, str(found)
    assert "9 of 9 properties hold" in str(found)


LEAKS = {
    "DeepStack": ("qwen3_vl", {"image"}),
    "cross-attention": ("mllama", {"image"}),
    "a Q-Former that reads": ("instructblip", {"question"}),
}


@pytest.mark.parametrize(("name", "leaking"), LEAKS.values(), ids=LEAKS)
def test_another_entrance_that_nobody_knows_of_is_noticed(name, leaking):
    model, batch = make(name)
    anatomy = replace(pid_lens.dissect(model), entrances=(), question_aware=None)
    found = check(None, batch, anatomy=anatomy)
    assert leaking <= set(found.failed)
    assert not found.ok


def failing(change, name="llava"):
    """The properties that fail in a model that is changed so."""
    model, batch = make(name)
    anatomy = change(model)
    return set(check(model if anatomy is None else None, batch, anatomy=anatomy).failed)


def test_a_blind_model_proves_nothing():
    def blind(model):
        model.model.multi_modal_projector.linear_2.weight.data.zero_()

    assert "sighted" in failing(blind)


def test_a_leak_behind_the_decoders_input_is_noticed():
    """A number made of the pixels is added in the second layer."""

    def leak(model):
        seen = {}
        model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
        )

        def add(module, args, output):
            pixels = seen["pixel_values"].flatten(1)[:, ::97].mean(1)
            times = len(output) // len(pixels)
            return output + pixels.repeat(times)[:, None, None]

        model.model.language_model.layers[1].register_forward_hook(add)

    assert {"image", "knockout"} <= failing(leak)


def test_a_wrong_last_step_is_noticed():
    assert "lens" in failing(lambda model: replace(pid_lens.dissect(model), scale=3.0))


def test_samples_that_see_each_other_are_noticed():
    def mix(model):
        layer = model.model.language_model.layers[1]
        layer.register_forward_hook(lambda module, args, output: output + output.mean(0))

    assert "batch" in failing(mix)


def add_if(condition, number):
    """A hook that adds a number to a layer's output where a condition holds of it."""
    return lambda module, args, output: output + number * condition(module, output)


@pytest.mark.parametrize("options", [((290, 291),), None], ids=["unlikely", "none"])
def test_a_model_that_behaves_otherwise_in_a_fork_is_noticed(options):
    """For more rows than the batch has a layer adds a number."""
    model, batch = make("llava")
    options = None if options is None else torch.tensor(options).expand(4, -1)
    batch = replace(batch, options=options)
    assert check(model, batch).ok
    layer = model.model.language_model.layers[1]
    layer.register_forward_hook(add_if(lambda module, output: len(output) > 4, 0.001))
    assert check(model, batch).failed == ("fork",)


def test_a_model_that_notices_the_lens_is_noticed():
    """The first layer adds a number if it has more hooks than this one."""

    def notice(model):
        layer = model.model.language_model.layers[0]
        layer.register_forward_hook(
            add_if(lambda module, output: len(module._forward_hooks) > 1, 0.001)
        )

    assert failing(notice) == {"untouched"}


def test_a_hook_that_was_left_behind_is_noticed():
    def leave(model):
        def hook(module, args, output):
            return None

        hook.__module__ = "pid_lens.model.hooks"
        model.model.language_model.layers[0].register_forward_hook(hook)

    assert failing(leave) == {"hooks"}


def test_a_hook_of_somebody_elses_is_not_ours():
    def leave(model):
        def hook(module, args, output):
            return None

        hook.__module__ = "not_pid_lens.hooks"
        model.model.language_model.layers[0].register_forward_hook(hook)

    assert failing(leave) == set()


@pytest.mark.parametrize("by", [100, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tolerances_go_with_the_size_of_the_logits(by, dtype):
    """Rounding passes, a tenth of the largest logit does not, however large logits are."""
    model, batch = make("llava")
    model.lm_head.weight.data *= by
    model = model.to(dtype)
    batch = replace(batch, inputs=in_precision(batch.inputs, dtype))
    assert check(model, batch).ok
    anatomy = replace(pid_lens.dissect(model), scale=1.1)
    assert "lens" in check(None, batch, anatomy=anatomy).failed


def in_precision(inputs, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


UNEQUAL = {
    "of one image each": [[(4, 4)], [(4, 12)]],
    "of one image and two": [[(4, 12)], [(4, 4), (8, 4)]],
    "of two images and one": [[(4, 4), (8, 4)], [(4, 12)]],
}


def unequal(samples):
    """Samples of the same words behind images of these sizes in patches, padded on the left."""
    model, _ = make("qwen2_vl")
    rows = [
        [5, 6, *(t for h, w in grids for t in (292, *[IMAGE] * (h * w // 4), 293)), *WORDS[row]]
        for row, grids in enumerate(samples)
    ]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    grids = [(1, *grid) for sample in samples for grid in sample]
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.randn(sum(h * w for _, h, w in grids), 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor(grids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "attention_mask": (ids > 0).long(),
    }
    return model, described(inputs)


WORDS = [[20, 30, 40, 50, 60, 7], [21, 31, 41, 51, 61, 7]]


@pytest.mark.parametrize("samples", UNEQUAL.values(), ids=UNEQUAL)
def test_samples_of_unequal_images_pass(samples):
    found = check(*unequal(samples))
    assert "9 of 9 properties hold" in str(found)


def test_positions_of_three_axes_are_shared_out_too():
    model, batch = make("qwen2_vl")
    at = torch.arange(batch.inputs["input_ids"].shape[1]).expand(3, batch.n, -1)
    found = check(model, replace(batch, inputs={**batch.inputs, "position_ids": at}))
    assert found.ok, str(found)


def test_where_the_first_samples_pixels_cannot_be_told_the_check_says_so():
    """The image's span runs over the tokens between two images as well."""
    model, batch = unequal(UNEQUAL["of two images and one"])
    image, ids = batch.spans["image"].clone(), batch.inputs["input_ids"]
    between = int((ids[0] == 293).nonzero()[0])
    image[0, between : between + 2] = True
    found = check(model, replace(batch, spans={**batch.spans, "image": image}))
    assert found.ok
    assert "untold batch: cannot tell how many of the" in str(found)
    assert "8 of 9 properties hold" in str(found)


def test_options_may_be_text():
    model, processor = pid_lens.demo.load()
    batch = next(iter(pid_lens.demo.batches("synergy", n=4)))
    found = check(model, replace(batch, options=("A", "B")), processor=processor)
    assert found.ok, str(found)


def test_what_cannot_be_measured_has_failed_and_says_why():
    model, batch = make("llava")
    one = replace(
        batch,
        inputs={k: v[:1] for k, v in batch.inputs.items()},
        spans={k: m[:1] for k, m in batch.spans.items()},
        options=batch.options[:1],
        labels=None,
        ids=None,
    )
    found = check(model, one)
    assert found.failed == ("batch",)
    assert "FAILED batch: needs two samples" in str(found)
    with pytest.raises(TypeError, match="check needs inputs"):
        check(model)


def test_the_check_leaves_the_model_as_it_was():
    model, batch = make("qwen2_5_vl")
    with torch.no_grad():
        before = model(**batch.inputs).logits
        check(model, batch)
        assert torch.equal(model(**batch.inputs).logits, before)
