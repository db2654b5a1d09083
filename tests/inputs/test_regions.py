"""Regions: the tokens that cover a box are those whose features the box's pixels change."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from PIL import Image
from tiny import CLIP, IMAGE, TEXT, VISION

import pid_lens
from pid_lens.inputs import Batch, Spans, region
from pid_lens.inputs.regions.families import GEOMETRIES, REFUSED

NEAREST = Image.Resampling.NEAREST
BREAK = 280


def llava(vision=None, patch=14):
    vision = vision or hf.CLIPVisionConfig(**{**CLIP, "image_size": 56, "patch_size": patch})
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=vision,
        image_token_index=IMAGE,
        vision_feature_select_strategy="default" if vision.model_type != "pixtral" else "full",
    )
    return hf.LlavaForConditionalGeneration(config)


def llava_of_pixtral():
    return llava(hf.PixtralVisionConfig(**{**VISION, "image_size": 112}))


def gemma3():
    config = tiny.gemma3(1)[0].config
    config.vision_config.image_size, config.mm_tokens_per_image = 112, 16
    model = hf.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model


def paligemma():
    config = tiny.paligemma(1)[0].config
    config.vision_config.image_size = 56
    return hf.PaliGemmaForConditionalGeneration(config)


def internvl():
    config = tiny.internvl(1)[0].config
    config.vision_config.image_size = [112, 112]
    return hf.InternVLForConditionalGeneration(config)


def idefics3():
    config = tiny.idefics3(1)[0].config
    config.vision_config.image_size = 112
    return hf.Idefics3ForConditionalGeneration(config)


def mistral3():
    config = tiny.mistral3(1)[0].config
    config.vision_config.image_size = 112
    return hf.Mistral3ForConditionalGeneration(config)


def of_tiny(family):
    return lambda: getattr(tiny, family)(1)[0]


def fuyu_processor(**more):
    size, patch = {"height": 70, "width": 84}, {"height": 14, "width": 14}
    return hf.FuyuImageProcessorPil(size=size, patch_size=patch, **more)


def square(side, **more):
    return {"size": {"height": side, "width": side}, "resample": NEAREST, **more}


CROP = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
NEAR_CROP = {**CROP, "resample": NEAREST}
QWEN = hf.Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 10**6})
SPLITLESS = {"do_image_splitting": False, "max_image_size": {"longest_edge": 112}}
PIXTRAL = hf.PixtralImageProcessorPil
CASES = {
    # model, image processor, (width, height) of the original, pixels of a token in the original
    "llava crops": (llava, hf.CLIPImageProcessorPil(**CROP), (112, 56), (14, 14)),
    "llava crops upright": (llava, hf.CLIPImageProcessorPil(**CROP), (56, 84), (14, 14)),
    "llava scales": (llava, hf.CLIPImageProcessorPil(**NEAR_CROP), (56, 28), (7, 7)),
    "llava stretches": (
        llava,
        hf.CLIPImageProcessorPil(**square(56, do_center_crop=False)),
        (28, 112),
        (7, 28),
    ),
    "llava pads to a square": (
        llava,
        hf.LlavaImageProcessorPil(**NEAR_CROP, do_pad=True),
        (112, 56),
        (28, 28),
    ),
    **{
        f"llava pads {size} to a square": (
            llava,
            hf.LlavaImageProcessorPil(**NEAR_CROP, do_pad=True),
            size,
            (token, token),
        )
        for size, token in [((112, 57), 28), ((57, 112), 28), ((28, 27), 7), ((27, 28), 7)]
    },
    "llava with rows of any length": (
        llava_of_pixtral,
        PIXTRAL(patch_size={"height": 14, "width": 14}),
        (70, 42),
        (14, 14),
    ),
    "mistral3": (mistral3, PIXTRAL(patch_size={"height": 28, "width": 28}), (112, 84), (28, 28)),
    "qwen2_vl": (of_tiny("qwen2_vl"), QWEN, (84, 56), (28, 28)),
    "qwen2_5_vl": (of_tiny("qwen2_5_vl"), QWEN, (112, 140), (28, 28)),
    "qwen3_vl": (of_tiny("qwen3_vl"), QWEN, (84, 140), (28, 28)),
    "internvl": (internvl, hf.GotOcr2ImageProcessorPil(**square(112)), (56, 112), (14, 28)),
    "gemma3": (gemma3, hf.Gemma3ImageProcessorPil(**square(112)), (112, 56), (28, 14)),
    "paligemma": (paligemma, hf.SiglipImageProcessorPil(**square(56)), (28, 56), (7, 14)),
    "idefics3": (
        idefics3,
        hf.Idefics3ImageProcessorPil(size={"longest_edge": 112}, resample=NEAREST, **SPLITLESS),
        (112, 56),
        (28, 14),
    ),
    "fuyu": (of_tiny("fuyu"), fuyu_processor(), (60, 40), (14, 14)),
    "fuyu shrinks": (of_tiny("fuyu"), fuyu_processor(resample=NEAREST), (168, 84), (28, 28)),
}


def prompt(rows, columns, broken, images=1):
    """Some text, images row by row (with breaks, if they have them), a question."""
    row = [IMAGE] * columns + [BREAK] * broken
    picture = [*(row * rows)[: -1 if broken else None], 281]
    return torch.tensor([[11, 12, *(picture * images), 20, 21, 22, 7]])


def fuyu_patches(processor, pixels):
    made = processor(pixels, return_tensors="pt")
    wide, high = (
        int(made["image_unpadded_widths"][0][0]),
        int(made["image_unpadded_heights"][0][0]),
    )
    rows, columns = -(-high // 14), -(-wide // 14)
    image = made["images"][0][0][..., : rows * 14, : columns * 14]
    patches = torch.as_tensor(processor.patchify_image(np.asarray(image)))
    return {"pixel_values": patches.reshape(1, rows * columns, -1).float()}, rows, columns


def inputs_of(model, processor, pixels):
    """The model's inputs for one image, its tokens laid out by the pixels that came out."""
    if model.config.model_type == "fuyu":
        made, rows, columns = fuyu_patches(processor, pixels)
        return {"input_ids": prompt(rows, columns, True), **made}
    made = processor(pixels, return_tensors="pt")
    kept = {k: made[k] for k in ("pixel_values", "image_grid_thw", "image_sizes") if k in made}
    grid = next(GEOMETRIES[model.config.model_type].grids(model.config, kept, None))
    ids = prompt(grid.rows, grid.columns, "image_sizes" in kept)
    if "image_grid_thw" in kept or model.config.model_type == "gemma3":
        name = "mm_token_type_ids" if "image_grid_thw" in kept else "token_type_ids"
        kept[name] = (ids == IMAGE).long()
    return {"input_ids": ids, **kept}


def kept_apart(model):
    """The model with vision attention that returns nothing: no patch sees another."""

    def nothing(module, args, output):
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    towers = [
        module
        for name, module in model.named_modules()
        if "vis" in name and type(module).__name__.endswith("Attention")
    ]
    assert towers or model.config.model_type == "fuyu"
    for module in towers:
        module.register_forward_hook(nothing)
    return model.eval()


def embedded(model, inputs):
    """What the decoder is given."""
    seen = []
    decoder = model.model.get_decoder()
    keep = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].clone()), with_kwargs=True
    )
    with torch.no_grad(), keep:
        model(**inputs)
    return seen[0]


def repainted(pixels, box):
    x0, y0, x1, y1 = box
    other = pixels.copy()
    other[y0:y1, x0:x1] = 255 - other[y0:y1, x0:x1]
    return other


def boxes(size, token):
    """Boxes along the tokens' borders: single tokens, a row, a column, a block."""
    (width, height), (across, down) = size, token
    columns, rows = width // across, height // down
    found = [(0, 0, 1, 1), (columns - 1, 0, columns, 1), (0, rows - 1, 1, rows)]
    found += [(0, 0, columns, 1), (0, 0, 1, rows), (1, 1, columns, rows), (0, 0, columns, rows)]
    return [(a * across, b * down, c * across, d * down) for a, b, c, d in found]


@pytest.mark.filterwarnings("ignore:part of box:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_pixels_of_a_box_change_exactly_its_tokens(case):
    make, processor, size, token = CASES[case]
    torch.manual_seed(0)
    model = kept_apart(make())
    pixels = np.random.default_rng(0).integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    inputs = inputs_of(model, processor, pixels)
    before = embedded(model, inputs)
    seen = set()
    for box in boxes(size, token):
        after = embedded(model, inputs_of(model, processor, repainted(pixels, box)))
        changed = (before != after).any(-1)
        if not changed.any():
            with pytest.raises(ValueError, match="cropped away"):
                region(model, inputs, box=box, sizes=size, processor=processor)
            continue
        found = region(model, inputs, box=box, sizes=size, processor=processor)
        assert torch.equal(found, changed), box
        seen.add(int(found.sum()))
    assert len(seen) > 2


def test_a_box_across_tokens_has_them_all():
    torch.manual_seed(0)
    model, size = kept_apart(tiny.qwen2_vl(1)[0]), (140, 84)
    pixels = np.random.default_rng(1).integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    inputs = inputs_of(model, QWEN, pixels)
    before = embedded(model, inputs)
    for box in [(27, 27, 29, 29), (28, 28, 56, 57), (0, 55, 140, 56), (139, 83, 140, 84)]:
        after = embedded(model, inputs_of(model, QWEN, repainted(pixels, box)))
        found = region(model, inputs, box=box, sizes=size, processor=QWEN)
        assert torch.equal(found, (before != after).any(-1)), box


def ranks(mask, ids):
    """The ranks of each sample's chosen tokens among its image tokens."""
    pairs = zip(mask, ids == IMAGE, strict=True)
    return [row[image].nonzero().flatten().tolist() for row, image in pairs]


def test_cells_are_rows_and_columns_of_the_token_grid():
    model = of_tiny("qwen2_vl")()
    ids = torch.cat([prompt(2, 3, False), prompt(3, 2, False)])
    inputs = {"input_ids": ids, "image_grid_thw": torch.tensor([[1, 4, 6], [1, 6, 4]])}
    found = region(model, inputs, cells=[(0, 1, 2, 3), (2, 0, 3, 2)])
    assert ranks(found, ids) == [[1, 2, 4, 5], [4, 5]]
    assert ranks(region(model.config, inputs, cells=(1, 0, 2, 1)), ids) == [[3], [2]]


def test_each_sample_may_have_its_box_and_size():
    model = of_tiny("qwen2_vl")()
    ids = torch.cat([prompt(2, 3, False), prompt(3, 2, False)])
    inputs = {"input_ids": ids, "image_grid_thw": torch.tensor([[1, 4, 6], [1, 6, 4]])}
    where = torch.tensor([[0, 0, 100, 1], [1, 0, 2, 9]])
    found = region(model, inputs, box=where, sizes=[(300, 200), (2, 9)], processor=QWEN)
    assert ranks(found, ids) == [[0], [1, 3, 5]]


def test_numbers_may_be_numpys():
    model = of_tiny("qwen2_vl")()
    inputs = {"input_ids": prompt(2, 3, False), "image_grid_thw": torch.tensor([[1, 4, 6]])}
    cells = tuple(np.array([1, 0, 2, 1]))
    assert ranks(region(model, inputs, cells=cells), inputs["input_ids"]) == [[3]]
    box, size = tuple(np.array([0, 0, 1, 1], dtype=np.float32)), tuple(np.array([3, 2]))
    found = region(model, inputs, box=box, sizes=size, processor=QWEN)
    assert ranks(found, inputs["input_ids"]) == [[0]]


def two_images(**spans):
    ids = prompt(2, 2, False, images=2).repeat(2, 1)
    inputs = {"input_ids": ids, "image_grid_thw": torch.tensor([[1, 4, 4]] * 4)}
    places = (ids == IMAGE).cumsum(-1) * (ids == IMAGE)
    split = {"image_0": (places > 0) & (places < 5), "image_1": places > 4}
    return Batch(inputs=inputs, spans=Spans(**(spans or split)))


def test_one_of_several_images():
    model, batch = of_tiny("qwen2_vl")(), two_images()
    for image, expected in ((0, [1, 3]), (1, [5, 7])):
        found = region(model, batch, cells=(0, 1, 2, 2), image=image)
        assert ranks(found, batch.inputs["input_ids"]) == [expected] * 2


def test_tiles_and_images_that_nobody_told_apart_are_refused():
    model, batch = of_tiny("qwen2_vl")(), two_images()
    with pytest.raises(ValueError, match="several images or tiles"):
        region(model, batch.inputs, cells=(0, 0, 1, 1))
    with pytest.raises(ValueError, match="image 2 of sample 0 is ambiguous"):
        region(model, batch, cells=(0, 0, 1, 1), image=2)
    whole = batch.inputs["input_ids"] == IMAGE
    with pytest.raises(ValueError, match="several tiles"):
        region(model, two_images(image_0=whole), cells=(0, 0, 1, 1))
    model, inputs = tiny.internvl(2)
    inputs["input_ids"] = prompt(2, 2, False, images=3).repeat(2, 1)
    with pytest.raises(ValueError, match="turn them off in the processor"):
        region(model, inputs, cells=(0, 0, 1, 1))


def test_tokens_beyond_the_grid_are_refused():
    """A class token among the image's, say."""
    model, inputs = tiny.llava(2)
    inputs["input_ids"] = prompt(1, 5, False).repeat(2, 1)
    with pytest.raises(ValueError, match="5 image tokens, which its images' grids"):
        region(model, inputs, cells=(0, 0, 1, 1))


def test_what_is_cropped_away_is_said():
    torch.manual_seed(0)
    make, processor, size, _ = CASES["llava crops"]
    model = make()
    inputs = inputs_of(model, processor, np.zeros((size[1], size[0], 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="x from 28 to 84 and y from 0 to 56"):
        region(model, inputs, box=(0, 0, 28, 56), sizes=size, processor=processor)
    with pytest.warns(UserWarning, match=r"part of box .* x from 28 to 84"):
        found = region(model, inputs, box=(20, 0, 30, 1), sizes=size, processor=processor)
    assert ranks(found, inputs["input_ids"]) == [[0]]


@pytest.mark.parametrize("family", sorted({*tiny.FAMILIES} - {*GEOMETRIES}))
def test_families_without_a_grid_say_why(family):
    model, batch = tiny.make(family)
    assert model.config.model_type in REFUSED
    with pytest.raises(ValueError, match=f"{model.config.model_type} has no image regions"):
        region(model, batch, cells=(0, 0, 1, 1))


def test_unknown_families_are_refused():
    config = hf.LlamaConfig()
    with pytest.raises(ValueError, match="no layout of its image tokens"):
        region(config, {"input_ids": prompt(1, 1, False)}, cells=(0, 0, 1, 1))


SIZED = {"sizes": (56, 56), "processor": QWEN}
WRONG = {
    "nothing": ({}, ValueError, "either box="),
    "both": ({"box": (0, 0, 1, 1), "cells": (0, 0, 1, 1)}, ValueError, "either box="),
    "no processor": ({"box": (0, 0, 1, 1), "sizes": (56, 56)}, ValueError, "needs processor="),
    "no sizes": ({"box": (0, 0, 1, 1), "processor": QWEN}, ValueError, "needs processor="),
    "an empty box": ({"box": (1, 1, 1, 2), **SIZED}, ValueError, "does not lie in an image"),
    "a box outside": ({"box": (0, 0, 57, 2), **SIZED}, ValueError, "does not lie in an image"),
    "three numbers": ({"box": (0, 0, 1), **SIZED}, TypeError, "box must be 4 numbers"),
    "words": ({"cells": "abcd"}, TypeError, "cells must be 4 numbers"),
    "boxes of others": ({"box": [(0, 0, 1, 1)] * 3, **SIZED}, TypeError, "or 2 times as many"),
    "cells outside": ({"cells": (0, 0, 3, 1)}, ValueError, "grid of 2 rows x 2 columns"),
    "half a cell": ({"cells": (0, 0, 0.5, 1)}, ValueError, "grid of 2 rows x 2 columns"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_say_what_to_do(case):
    said, error, message = WRONG[case]
    model, inputs = tiny.qwen2_vl(2)
    with pytest.raises(error, match=message):
        region(model, inputs, **said)


@pytest.mark.parametrize("case", ["llava crops", "fuyu"])
def test_another_processor_than_the_inputs_is_refused(case):
    make, _, size, _ = CASES[case]
    model, processor = make(), CASES[case][1]
    inputs = inputs_of(model, processor, np.zeros((size[1], size[0], 3), dtype=np.uint8))
    other = type(processor)(
        size={"height": 28, "width": 28}, crop_size={"height": 28, "width": 28}
    )
    with pytest.raises(ValueError, match="hand over the processor"):
        region(model, inputs, box=(0, 0, 1, 1), sizes=size, processor=other)


def test_videos_are_refused():
    model, inputs = tiny.qwen2_vl(2)
    with pytest.raises(ValueError, match="a video came"):
        region(model, {**inputs, "pixel_values_videos": torch.zeros(1)}, cells=(0, 0, 1, 1))


def test_a_region_is_a_span_of_a_batch(digits_model):
    model, processor = digits_model
    digit = pid_lens.demo.digits("test").images[0]
    batch = pid_lens.batch(
        processor, images=[digit] * 2, questions=["is it even ?"] * 2, options=("A", "B"), ids="ab"
    )
    half = region(model, batch, box=(0, 0, 8, 4), sizes=digit.size, processor=processor)
    assert torch.equal(half, batch.spans.pick("image", range(8)))
    spans = batch.spans | {"top": half, "bottom": batch.spans["image"] & ~half}
    lens = pid_lens.Lens(
        model, conditions={"full": ()}, states=[pid_lens.Pooled("top"), pid_lens.Pooled("bottom")]
    )
    batch = replace(batch, spans=spans)
    with torch.no_grad(), lens(batch):
        model(**batch.inputs)
    top, bottom = (lens.reads.states[name] for name in ("top", "bottom"))
    assert top.shape == bottom.shape
    assert not torch.equal(top, bottom)
