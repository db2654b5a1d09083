"""The tasks' samples as `pid_lens.Batch` records, as `pid_lens.batch` makes of a user's images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pid_lens.demo.data import Digits, digits, picture
from pid_lens.demo.processor import processor
from pid_lens.demo.tasks import COINS, Task, task

if TYPE_CHECKING:
    from transformers import LlavaProcessor

    from pid_lens.inputs import Batch


@cache
def _processor() -> LlavaProcessor:
    return processor()


@dataclass(frozen=True)
class Batches:
    """Batches of one task, made anew each time they are iterated over.

    Attributes:
        task: questions, options and answers.
        split: "train" or "test".
        batch_size: samples in a batch.
        n: samples in all.
        seed: of the coins.

    Example:
        >>> from pid_lens.demo import batches
        >>> found = batches("vision", n=100)
        >>> len(found), [len(batch.ids) for batch in found]
        (2, [64, 36])
    """

    task: Task
    split: str
    batch_size: int
    n: int
    seed: int

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.n, self.batch_size):
            yield self._batch(np.arange(start, min(start + self.batch_size, self.n)))

    def __repr__(self) -> str:
        return f"Batches({self.task.name}/{self.split}, n={self.n}, batch_size={self.batch_size})"

    def _batch(self, ranks: np.ndarray) -> Batch:
        from pid_lens.inputs import batch

        scans = digits(self.split)
        rows = ranks % len(scans)
        coins = _coins(scans, self.seed)[rows] ^ (ranks >= len(scans))
        pairs = list(zip(scans.labels[rows].tolist(), coins.tolist(), strict=True))
        return batch(
            _processor(),
            images=[picture(pixels) for pixels in scans.pixels[rows]],
            questions=[self.task.question(digit, coin) for digit, coin in pairs],
            options=self.task.options,
            labels=[self.task.answer(digit, coin) for digit, coin in pairs],
            ids=[
                f"{self.task.name}/{self.split}/{row}/{coin}"
                for row, coin in zip(rows.tolist(), coins.tolist(), strict=True)
            ],
            system=self.task.name,
        )


def _coins(scans: Digits, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(len(COINS), size=len(scans))


def batches(
    name: str, *, split: str = "test", batch_size: int = 64, n: int | None = None, seed: int = 0
) -> Batches:
    """Make batches of a task's samples, one for each digit of a split.

    One random coin per digit decides what the question says. Beyond the split's size the same
    digits come again with the other coin.

    Args:
        name: one of `TASKS`, or "caption".
        split: "train" or "test".
        batch_size: samples in a batch.
        n: how many samples; all digits of the split by default, twice as many at most.
        seed: of the coins.

    Returns:
        Batches to iterate over as often as wanted; `len` is their number.

    Raises:
        ValueError: an unknown task or split, more samples than there are, a negative seed, or a
            batch size below 1.

    Example:
        >>> found = batches("synergy", n=100)
        >>> found, next(iter(found)).labels[:6].tolist()
        (Batches(synergy/test, n=100, batch_size=64), [0, 1, 1, 0, 1, 1])
    """
    chosen, size = task(name), len(digits(split))
    n = size if n is None else n
    if not 0 < n <= len(COINS) * size:
        raise ValueError(
            f"n={n} samples of {split!r} asked for: there are 1 to {len(COINS) * size}"
        )
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return Batches(chosen, split, batch_size, n, seed)
