"""Placement: the scale and shift by which an image processor resizes, pads and crops an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pid_lens.inputs.regions.grid import Box

if TYPE_CHECKING:
    from pid_lens.inputs.regions.grid import Grid, Size


@dataclass(frozen=True)
class Placement:
    """An affine map of pixels: x -> ``scale[0] x + shift[0]``, y -> ``scale[1] y + shift[1]``.

    Attributes:
        scale: factors (x, y): pixels of the tower's input per pixel of the original.
        shift: offsets (x, y) in pixels of the tower's input.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]

    def forward(self, box: Box) -> Box:
        """Map a box of the original to the vision tower's input."""
        (a, b), (c, d) = self.scale, self.shift
        return a * box[0] + c, b * box[1] + d, a * box[2] + c, b * box[3] + d

    def back(self, box: Box) -> Box:
        """Map a box of the vision tower's input to the original."""
        (a, b), (c, d) = self.scale, self.shift
        return (box[0] - c) / a, (box[1] - d) / b, (box[2] - c) / a, (box[3] - d) / b


def place_cropped(processor: Any, original: Size, grid: Grid) -> Placement:
    """Compute the map of padding to a square, resizing and centre crop, as far as they are done.

    Raises:
        ValueError: the processor makes an image of another size from the original, or resizes it
            in a way whose crop cannot be located.
    """
    # Pad to a square: the original is centred in it
    framed = _pad(processor, original)
    left, top = (framed[0] - original[0]) // 2, (framed[1] - original[1]) // 2
    # Resize, then crop around the centre
    crops = bool(getattr(processor, "do_center_crop", False))
    resizes = bool(getattr(processor, "do_resize", True))
    resized = (_resize(processor.size, framed) if crops else grid.size) if resizes else framed
    made = (processor.crop_size["width"], processor.crop_size["height"]) if crops else resized
    if made != grid.size:
        raise ValueError(
            f"{type(processor).__name__} makes {made} pixels of an image of {original}, but the "
            f"inputs have {grid.size}: hand over the processor and the sizes of these very images"
        )
    # x -> scale (x + padding) - crop
    scale = resized[0] / framed[0], resized[1] / framed[1]
    cut = (resized[0] - made[0]) // 2, (resized[1] - made[1]) // 2
    return Placement(scale, (scale[0] * left - cut[0], scale[1] * top - cut[1]))


def place_fitted(processor: Any, original: Size, grid: Grid) -> Placement:
    """Compute the map of shrinking an image until it fits, into the upper left corner (Fuyu).

    Raises:
        ValueError: the processor makes an image of another size from the original.
    """
    width, height = original
    wide, high = processor.size["width"], processor.size["height"]
    shrink = min(wide / width, high / height) if width > wide or height > high else 1.0
    made = int(width * shrink), int(height * shrink)
    if (-(-made[0] // grid.side), -(-made[1] // grid.side)) != (grid.columns, grid.rows):
        raise ValueError(
            f"{type(processor).__name__} makes {made} pixels of an image of {original}, but the "
            f"inputs have {grid.rows} x {grid.columns} patches of {grid.side} pixels: hand over "
            "the processor and the sizes of these very images"
        )
    return Placement((made[0] / width, made[1] / height), (0.0, 0.0))


def _pad(processor: Any, original: Size) -> Size:
    """Compute the size after padding to a square, where it is done; an odd pixel comes last."""
    if not (hasattr(processor, "pad_to_square") and processor.do_pad):
        return original
    return max(original), max(original)


def _resize(size: Any, original: Size) -> Size:
    """Compute the size after resizing to a given size, or by the shorter edge."""
    short = size.get("shortest_edge")
    if short is None:
        return size["width"], size["height"]
    if size.get("longest_edge") is not None:
        raise ValueError(f"cannot tell where a crop after resizing to {size} lies in the image")
    long = int(short * max(original) / min(original))
    return (short, long) if original[0] <= original[1] else (long, short)
