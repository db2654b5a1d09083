"""Pile: reads as they come, in memory up to a limit, beyond it on disk."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Self
from weakref import finalize

from pid_lens.reads import Reads

MEMORY = 2**30
"""Bytes that a pile keeps in memory unless told otherwise."""


class Pile:
    """Reads that are added one by one and asked for as one.

    What exceeds ``memory`` bytes goes to a temporary file, from which it is mapped; the file
    goes when the pile does.

    Example:
        >>> import torch
        >>> even = torch.full((1, 3, 5, 2), 0.5).log()
        >>> pile = Pile(memory=0)
        >>> for part in "ab":
        ...     pile.add(Reads.from_posteriors(even, ids=[f"{part}{i}" for i in range(5)]))
        >>> pile.whole().n, [part.on_disk for part in pile.parts]
        (10, [True, True])
    """

    def __init__(self, memory: int = MEMORY) -> None:
        """See the class."""
        self.memory = memory
        self.parts: list[Reads] = []
        self._whole: Reads | None = None
        self._folder: Path | None = None

    def add(self, reads: Reads) -> None:
        """Puts reads on the pile.

        Raises:
            ValueError: they cannot be mixed with those before (`Reads.concat` says why).
        """
        if self.parts:
            Reads.concat([self.parts[0].rows(()), reads.rows(())])
        self.parts.append(reads)
        self._whole = None
        if sum(part.bytes for part in self.parts if not part.on_disk) > self.memory:
            self._spill()

    def whole(self) -> Reads:
        """Everything as one, on the CPU; of a sample that came twice the last record.

        Raises:
            ValueError: there is nothing.
        """
        if self._whole is None:
            self._whole = Reads.concat([part.cpu() for part in self.parts])
        return self._whole

    def ids(self) -> set[str]:
        """The names of the samples."""
        return {name for part in self.parts for name in part.ids}

    def _spill(self) -> None:
        """Moves what is in memory to a file."""
        if self._folder is None:
            self._folder = Path(mkdtemp(prefix="pid_lens-"))
            finalize(self, rmtree, self._folder, ignore_errors=True)
        kept = [part for part in self.parts if part.on_disk]
        fresh = Reads.concat([part.cpu() for part in self.parts if not part.on_disk])
        path = self._folder / f"{len(kept)}.safetensors"
        fresh.save(path)
        self.parts = [*kept, Reads.load(path)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A pile of the same reads, which are frozen; its own files from here on."""
        copy = type(self)(self.memory)
        copy.parts = list(self.parts)
        return copy
