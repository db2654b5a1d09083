"""The shipped model's data set: 1,797 scanned digits of 8x8 pixels, with a fixed split.

Source: "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998), UCI Machine
Learning Repository, https://archive.ics.uci.edu/dataset/80, licence CC BY 4.0; the part of it that
scikit-learn distributes as `load_digits`. Changes: stored as bytes, and divided into 1,347 digits
for training and 450 for testing, stratified by digit. The same people wrote both parts: the
split does not measure how the model reads other people's handwriting.

`build_digits(path)` writes the shipped `digits.npz` again, from scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = Path(__file__).with_name("digits.npz")
SPLITS = ("train", "test")
SOURCE = (
    "Optical Recognition of Handwritten Digits (E. Alpaydin and C. Kaynak, 1998), "
    "https://archive.ics.uci.edu/dataset/80, as in sklearn.datasets.load_digits"
)
LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
WHITE = 16  # the brightest pixel of the scans
TEST = 450


@dataclass(frozen=True)
class Digits:
    """One split of the digits.

    Attributes:
        pixels: brightness from 0 (paper) to 16 (ink), [n, 8, 8].
        labels: the digit, 0 to 9, [n].
        rows: index of each digit in scikit-learn's `load_digits`, [n].
    """

    pixels: UInt8[np.ndarray, "n 8 8"]
    labels: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]

    @property
    def images(self) -> list[Image]:
        """Every digit as an image, see `picture`."""
        return [picture(pixels) for pixels in self.pixels]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Digits(n={len(self)}, pixels=8x8)"


@cache
def digits(split: str = "test") -> Digits:
    """Load the digits of a split, in the order of scikit-learn.

    Args:
        split: "train" (1,347 digits) or "test" (450).

    Raises:
        ValueError: an unknown split.

    Example:
        >>> digits("train"), digits("test")
        (Digits(n=1347, pixels=8x8), Digits(n=450, pixels=8x8))
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    with np.load(FILE) as file:
        rows = np.flatnonzero(file["test"] == (split == "test"))
        return Digits(file["pixels"][rows], file["labels"][rows].astype(np.int64), rows)


def picture(pixels: UInt8[np.ndarray, "8 8"]) -> Image:
    """Convert a digit to an RGB image: grey values 0 to 255 in three equal channels, ink white.

    Example:
        >>> picture(digits("test").pixels[0]).size
        (8, 8)
    """
    from PIL import Image

    grey = np.rint(pixels * (255 / WHITE)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def images(split: str = "test") -> list[Image]:
    """Convert all digits of a split to images, see `picture`.

    Example:
        >>> len(images("test")), images("test")[0].size, images("test")[0].getextrema()[0]
        (450, (8, 8), (0, 255))
    """
    return digits(split).images


def build_digits(path: Path, seed: int = 0) -> None:
    """Write the archive of all digits and their split, from scikit-learn (which it needs).

    Args:
        path: the file to write.
        seed: of the split; the shipped one has seed 0.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    rows = np.arange(len(scans.target))
    _, test = train_test_split(rows, test_size=TEST, stratify=scans.target, random_state=seed)
    np.savez_compressed(
        path,
        pixels=scans.images.astype(np.uint8),
        labels=scans.target.astype(np.uint8),
        test=np.isin(rows, test),
        source=SOURCE,
        licence=LICENCE,
    )
