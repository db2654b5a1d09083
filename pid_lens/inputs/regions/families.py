"""Families: the patch grid on which each model family's image tokens lie, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from math import isqrt
from typing import TYPE_CHECKING, Any

from pid_lens.inputs.regions.grid import Grid, Size
from pid_lens.inputs.regions.placement import Placement, place_cropped, place_fitted

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

Grids = Callable[[Any, Mapping[str, Any], "Bool[Tensor, 'n tokens']"], Iterator[Grid]]
"""(config, inputs, image tokens) -> the images' grids, in the order of the batch."""


@dataclass(frozen=True)
class Geometry:
    """How a family lays an image on tokens: the grid of patches, and resizing and cropping.

    Attributes:
        grids: (config, inputs, image tokens) -> the images' grids, in the order of the batch.
        placed: (image processor, size of the original, grid) -> where the original's pixels went.
    """

    grids: Grids
    placed: Callable[[Any, Size, Grid], Placement] = place_cropped


def _by_pixels(side: Callable[[Any], float]) -> Grids:
    """Make a grid function for square patches: sizes by ``image_sizes`` or the pixels' shape."""

    def grids(
        config: Any, inputs: Mapping[str, Any], image: Bool[Tensor, "n tokens"]
    ) -> Iterator[Grid]:
        sizes = inputs.get("image_sizes")
        known = [inputs["pixel_values"].shape[-2:]] if sizes is None else sizes.tolist()
        length = _whole(side(config))
        found = [
            Grid(high // length, wide // length, length, (wide, high)) for high, wide in known
        ]
        return cycle(found) if sizes is None else iter(found)

    return grids


def _by_thw(
    config: Any, inputs: Mapping[str, Any], image: Bool[Tensor, "n tokens"]
) -> Iterator[Grid]:
    """Yield Qwen's grids: ``image_grid_thw`` counts patches, squares of which merge to a token."""
    patch, merge = config.vision_config.patch_size, config.vision_config.spatial_merge_size
    for _, high, wide in inputs["image_grid_thw"].tolist():
        yield Grid(high // merge, wide // merge, patch * merge, (wide * patch, high * patch))


def _by_rows(
    config: Any, inputs: Mapping[str, Any], image: Bool[Tensor, "n tokens"]
) -> Iterator[Grid]:
    """Yield Fuyu's grids: one image per sample; a newline token ends each row of patches."""
    side = config.patch_size
    for mask in image:
        places = mask.nonzero().flatten()
        rows = places.tensor_split((places.diff() > 1).nonzero().flatten().cpu() + 1)
        columns = len(rows[0])
        if {len(row) for row in rows} != {columns}:
            raise ValueError(
                f"the rows of an image have {[len(row) for row in rows]} tokens: a grid has rows "
                "of one length"
            )
        yield Grid(len(rows), columns, side, (columns * side, len(rows) * side))


def _whole(side: Any) -> int:
    """Return a token's side in whole pixels."""
    if side != int(side):
        raise ValueError(f"tokens {side} pixels wide do not lie on whole patches")
    return int(side)


def _patch(config: Any) -> int:
    patch = config.vision_config.patch_size
    sides = set(patch) if isinstance(patch, list | tuple) else {patch}
    if len(sides) > 1:
        raise ValueError(f"patches of {patch} pixels are not square: pick tokens by rank")
    return sides.pop()


def _pooled_side(config: Any) -> int:
    """Compute Gemma 3's token side: patches are averaged until mm_tokens_per_image are left."""
    patch, image = _patch(config), config.vision_config.image_size
    return patch * (image // patch // isqrt(config.mm_tokens_per_image))


SQUARES = _by_pixels(lambda config: _patch(config) * getattr(config, "spatial_merge_size", 1))
GEOMETRIES = {
    "llava": Geometry(SQUARES),
    "paligemma": Geometry(SQUARES),
    "mistral3": Geometry(SQUARES),
    "gemma3": Geometry(_by_pixels(_pooled_side)),
    "idefics3": Geometry(_by_pixels(lambda config: _patch(config) * config.scale_factor)),
    "internvl": Geometry(_by_pixels(lambda config: _patch(config) / config.downsample_ratio)),
    "qwen2_vl": Geometry(_by_thw),
    "qwen2_5_vl": Geometry(_by_thw),
    "qwen3_vl": Geometry(_by_thw),
    "fuyu": Geometry(_by_rows, place_fitted),
}
"""Families whose image tokens lie on one grid, by the ``model_type`` of their configuration."""
ANYRES = (
    "the image comes several times, whole and in tiles, with rows cut off and newline tokens "
    "between, so one place has several tokens"
)
QUERIES = "each image token is a query that attends to the whole image"
REFUSED = {
    "llava_next": ANYRES,
    "llava_onevision": ANYRES,
    "blip-2": QUERIES,
    "instructblip": QUERIES,
    "mllama": "the image is not among the tokens: it enters by cross-attention",
}
"""Families without such a grid, and why."""


def geometry_of(config: Any) -> Geometry:
    """Look up a family's geometry.

    Raises:
        ValueError: the family has none, or none is known.
    """
    family = config.model_type
    if family not in GEOMETRIES:
        reason = REFUSED.get(family, "no layout of its image tokens on the image is known")
        raise ValueError(
            f"{family} has no image regions: {reason}. Choose tokens by their rank instead, "
            "spans.pick('image', ranks)"
        )
    return GEOMETRIES[family]
