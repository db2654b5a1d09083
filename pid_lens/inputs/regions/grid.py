"""Grid: rows and columns of one image's tokens, and boxes on the image."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height, in pixels."""


@dataclass(frozen=True)
class Grid:
    """The tokens of one image: row by row, each a square of the vision tower's input image.

    Attributes:
        rows: rows of tokens.
        columns: tokens of a row.
        side: side of a token's square, in pixels of the tower's input.
        size: width and height of the tower's input, in pixels; what is beyond the tokens is not
            read.
    """

    rows: int
    columns: int
    side: int
    size: Size

    @property
    def tokens(self) -> int:
        """Number of image tokens, rows x columns."""
        return self.rows * self.columns


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1: left, top, right, bottom, in pixels; right and bottom are exclusive."""
