"""Grid: how one image's tokens lie, and boxes on the image."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height, in pixels."""


@dataclass(frozen=True)
class Grid:
    """The tokens of one image: row by row, each a square of the image that the tower sees."""

    rows: int
    columns: int
    side: int
    """Pixels of a token's side."""
    size: Size
    """Pixels of the image that the tower sees; what is beyond the tokens is not read."""

    @property
    def tokens(self) -> int:
        """How many image tokens the grid has."""
        return self.rows * self.columns


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1: left, top, right, bottom, in pixels; right and bottom are not part of it."""
