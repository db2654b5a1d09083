"""Regions: the image tokens that cover a box of the image."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs.batch_record import Batch, as_batch
from pid_lens.inputs.prompts.token_spans import find_image, require_no_videos
from pid_lens.inputs.regions.families import Geometry, geometry_of
from pid_lens.inputs.regions.grid import Grid

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from pid_lens.inputs.regions.grid import Box, Size
    from pid_lens.inputs.regions.placement import Placement

TokenBoxes = tuple[int, int, int, int]
"""row0, column0, row1, column1 of the token grid; row1 and column1 are exclusive."""
Part = tuple[Grid, "Int[Tensor, ' tokens']"]
"""An image's grid and the positions of its tokens, row by row."""
EDGE_ROUNDING = 1e-6
"""Share of a token's side by which rounding may move a box's edges when they are scaled."""


def region(
    model: Any,
    batch: Batch | Mapping[str, Any],
    *,
    box: Box | Sequence[Box] | None = None,
    cells: TokenBoxes | Sequence[TokenBoxes] | None = None,
    sizes: Size | Sequence[Size] | None = None,
    processor: Any = None,
    image: int = 0,
) -> Bool[Tensor, "n tokens"]:
    """Select the image tokens that cover a box of the image, as a mask.

    An image's R x C tokens lie on it row by row, each a square of s x s pixels of the image that
    the vision tower is given. The processor scales the original by a and shifts it by b
    (resizing, padding to a square, centre crop), so a box from x0 to x1 is covered by the columns
    floor((a x0 + b) / s) up to ceil((a x1 + b) / s) - 1, and rows likewise. A token belongs to
    the region if any part of it does. Resizing blurs: a pixel or two beyond the box may be mixed
    into a neighbouring token. Inside the vision tower tokens attend to each other: a region says
    where a token's patch lies, not which pixels its features depend on.

    Args:
        model: the model, or its configuration; its ``model_type`` says how its tokens lie.
        batch: a `Batch`, or a mapping of the model's inputs.
        box: (x0, y0, x1, y1) in pixels of the original image, x1 and y1 exclusive; one for all
            samples or one per sample. Needs ``sizes`` and ``processor``.
        cells: (row0, column0, row1, column1) of the token grid instead, the last two exclusive.
        sizes: (width, height) of the original, PIL's ``image.size``; one for all, or one each.
        processor: the processor that made the inputs, or its image processor: its own settings
            say how images are resized, padded and cropped.
        image: which image of each prompt, where there are several.

    Returns:
        A mask for `Spans`: ``batch.spans | {"car": region(...)}``.

    Raises:
        TypeError: box, cells or sizes are not numbers in the right number.
        ValueError: the family has no such geometry (tiles of several resolutions, Q-Formers,
            cross-attention, families of unknown layout), an image came in several tiles, a box
            is outside its image or wholly cropped away, or processor, sizes and inputs disagree.

    Warns:
        UserWarning: the processor crops part of the box away.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> digit = pid_lens.demo.digits("test").images[0]
        >>> batch = pid_lens.batch(processor, images=[digit], questions=["is it even ?"],
        ...                        options=("A", "B"))
        >>> corner = region(model, batch, box=(0, 0, 4, 2), sizes=digit.size, processor=processor)
        >>> batch.spans | {"corner": corner}
        Spans(image 16, question 4, answer 1, corner 2 of 23 tokens, 1 samples)
    """
    if (box is None) == (cells is None):
        raise ValueError("say where: either box= in pixels or cells= of the token grid")
    config = getattr(model, "config", model)
    geometry, given = geometry_of(config), as_batch(batch)
    require_no_videos(given.inputs)
    parts = _parts(geometry, config, given, image)
    grids = [grid for grid, _ in parts]
    if box is None:
        asked = _repeat("cells", cells, 4, len(parts))
        windows = [_check_cells(*one) for one in zip(asked, grids, strict=True)]
    else:
        windows = _locate_boxes(box, sizes, processor, geometry, grids)
    chosen = torch.zeros_like(given.inputs["input_ids"], dtype=torch.bool)
    for row, ((grid, places), (top, left, bottom, right)) in enumerate(
        zip(parts, windows, strict=True)
    ):
        laid_out = places.view(grid.rows, grid.columns)
        chosen[row, laid_out[top:bottom, left:right].flatten()] = True
    return chosen


def _locate_boxes(
    box: Any, sizes: Any, processor: Any, geometry: Geometry, grids: Sequence[Grid]
) -> list[TokenBoxes]:
    """Compute the cells of the token grid that each sample's box covers."""
    if processor is None or sizes is None:
        raise ValueError(
            "a box in pixels needs processor= and sizes=, the (width, height) of each original "
            "image: without them its resizing and cropping are unknown"
        )
    settings = getattr(processor, "image_processor", processor)
    asked, originals = _repeat("box", box, 4, len(grids)), _repeat("sizes", sizes, 2, len(grids))
    windows = []
    for one, size, grid in zip(asked, originals, grids, strict=True):
        placement = geometry.placed(settings, size, grid)
        windows.append(_cover(one, size, placement, grid))
    return windows


def _repeat(name: str, given: Any, length: int, n: int) -> list[Any]:
    """List ``length`` numbers for each of n samples; those given for all are repeated."""
    rows = given.tolist() if hasattr(given, "tolist") else list(given)
    rows = [tuple(row) for row in rows] if rows and hasattr(rows[0], "__len__") else [tuple(rows)]
    rows = rows * n if len(rows) == 1 else rows
    numbers = all(isinstance(one, Real) for row in rows for one in row)
    if len(rows) != n or not numbers or {len(row) for row in rows} != {length}:
        raise TypeError(f"{name} must be {length} numbers, or {n} times as many; got {given!r}")
    return rows


def _parts(geometry: Geometry, config: Any, given: Batch, image: int) -> list[Part]:
    """Find the grid and the token positions of one image of each sample."""
    mask = find_image(given.inputs["input_ids"], _image_token(config))
    named = [name for name in given.spans or {} if name.startswith("image_")]
    several = f"image_{image}" in named
    found = []
    for row, parts in enumerate(_split_by_grid(geometry.grids(config, given.inputs, mask), mask)):
        if not several and (len(parts) > 1 or image):
            raise ValueError(
                f"image {image} of sample {row} is ambiguous: its image tokens are {len(parts)} "
                "grids, of several images or tiles of one (tiles have no regions: turn them "
                "off in the processor). Say which tokens are which image's in spans image_0, "
                "image_1, ..., as pid_lens.batch does"
            )
        grid, places = parts[min(image, len(parts) - 1)]
        if several and not _has_tokens(given.spans, image, row, places):
            raise ValueError(
                f"image {image} of sample {row} comes in several tiles, or its span has other "
                f"tokens than the {grid.rows} x {grid.columns} of its grid: tiles have no regions"
            )
        found.append((grid, places))
    return found


def _split_by_grid(grids: Iterator[Grid], mask: Bool[Tensor, "n tokens"]) -> Iterator[list[Part]]:
    """Split each sample's image tokens, grid after grid."""
    for row, among in enumerate(mask):
        rest, parts = among.nonzero().flatten(), []
        while len(rest):
            grid = next(grids, None)
            if grid is None or not 0 < grid.tokens <= len(rest):
                shape = "none is left" if grid is None else f"{grid.rows} x {grid.columns}"
                raise ValueError(
                    f"sample {row} has {int(among.sum())} image tokens, which its images' grids "
                    f"({shape}) do not share out: are these the model's own inputs?"
                )
            parts.append((grid, rest[: grid.tokens]))
            rest = rest[grid.tokens :]
        yield parts


def _has_tokens(spans: Any, image: int, row: int, places: Int[Tensor, " tokens"]) -> bool:
    own = torch.as_tensor(spans[f"image_{image}"])[row].nonzero().flatten()
    return torch.equal(own.cpu(), places.cpu())


def _image_token(config: Any) -> int | None:
    known = getattr(config, "image_token_id", None)
    return getattr(config, "image_token_index", None) if known is None else known


def _check_cells(cells: TokenBoxes, grid: Grid) -> TokenBoxes:
    """Return cells as they are, if they lie in the grid."""
    top, left, bottom, right = cells
    if not all(isinstance(cell, Integral) for cell in cells) or not (
        0 <= top < bottom <= grid.rows and 0 <= left < right <= grid.columns
    ):
        raise ValueError(
            f"cells {cells} are not in the grid of {grid.rows} rows x {grid.columns} columns: "
            "give whole numbers (row0, column0, row1, column1), the last two exclusive"
        )
    return cells


def _cover(box: Box, size: Size, placement: Placement, grid: Grid) -> TokenBoxes:
    """Compute the cells that a box of the original touches; warn of what is cropped away."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]):
        raise ValueError(
            f"box {box} does not lie in an image of {size[0]} x {size[1]} pixels: give (x0, y0, "
            "x1, y1), left and top before right and bottom"
        )
    across, down = grid.columns * grid.side, grid.rows * grid.side
    slack = EDGE_ROUNDING * grid.side
    # Map the box to the tower's pixels, x -> a x + b, and clip it to the grid
    left, top, right, bottom = placement.forward(box)
    clipped = max(left, 0.0), max(top, 0.0), min(right, across), min(bottom, down)
    if clipped[2] - clipped[0] <= slack or clipped[3] - clipped[1] <= slack:
        raise ValueError(
            f"box {box} is cropped away: {_describe_crop(size, placement, across, down)}"
        )
    if max(clipped[0] - left, clipped[1] - top, right - clipped[2], bottom - clipped[3]) > slack:
        warnings.warn(
            f"part of box {box} is cropped away: "
            f"{_describe_crop(size, placement, across, down)}. The region has the rest",
            stacklevel=4,
        )
    # Cells floor(edge / s) up to ceil(edge / s), exclusive; edges may be off by rounding
    x0, y0, x1, y1 = (edge / grid.side for edge in clipped)
    return (
        floor(y0 + EDGE_ROUNDING),
        floor(x0 + EDGE_ROUNDING),
        ceil(y1 - EDGE_ROUNDING),
        ceil(x1 - EDGE_ROUNDING),
    )


def _describe_crop(size: Size, placement: Placement, across: int, down: int) -> str:
    x0, y0, x1, y1 = placement.back((0, 0, across, down))
    return (
        f"of the image of {size[0]} x {size[1]} pixels the model is given x from {max(x0, 0):g} "
        f"to {min(x1, size[0]):g} and y from {max(y0, 0):g} to {min(y1, size[1]):g}"
    )
