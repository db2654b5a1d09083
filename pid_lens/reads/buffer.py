"""ReadsBuffer: reads as they come, in memory up to a limit, beyond it on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Self
from weakref import finalize

from pid_lens.reads.reads import Reads

MEMORY = 2**30
"""Bytes that a buffer keeps in memory unless told otherwise."""


class ReadsBuffer:
    """Reads that are added one by one and asked for as one.

    What exceeds ``memory`` bytes goes to a temporary file, from which it is mapped; the file
    goes when the buffer does.

    Example:
        >>> import torch
        >>> even = torch.full((1, 3, 5, 2), 0.5).log()
        >>> buffer = ReadsBuffer(memory=0)
        >>> for part in "ab":
        ...     buffer.add(Reads.from_posteriors(even, ids=[f"{part}{i}" for i in range(5)]))
        >>> buffer.whole().n, [part.on_disk for part in buffer.parts]
        (10, [True])
    """

    def __init__(self, memory: int = MEMORY) -> None:
        """See the class."""
        self.memory = memory
        self.parts: list[Reads] = []
        self._settled = False
        self._folder: Path | None = None

    def add(self, reads: Reads) -> None:
        """Adds reads; if that fails, the buffer is what it was.

        Raises:
            ValueError: they cannot be mixed with those before (`Reads.concat` says why).
        """
        if self.parts:
            Reads.concat([part.rows(()).cpu() for part in (self.parts[0], reads)])
        self.parts, self._settled = self._spill([*self.parts, reads]), False

    def whole(self) -> Reads:
        """Everything as one, on the CPU; of a sample that came twice the last record.

        Raises:
            ValueError: there is nothing.
        """
        if self._settled:
            return self.parts[0]
        whole = Reads.concat([part.cpu() for part in self.parts])
        if not any(part.on_disk for part in self.parts):
            self.parts, self._settled = [whole], True
        return whole

    def ids(self) -> set[str]:
        """The names of the samples."""
        return {name for part in self.parts for name in part.ids}

    def _spill(self, parts: list[Reads]) -> list[Reads]:
        """The same parts, those in memory moved to a file if they are many and large."""
        kept = [part for part in parts if part.on_disk]
        fresh = [part for part in parts if not part.on_disk]
        if len(fresh) < 2 or sum(part.bytes for part in fresh) <= self.memory:
            return parts
        if self._folder is None:
            self._folder = Path(mkdtemp(prefix="pid_lens-"))
            finalize(self, rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{len(kept)}.safetensors"
        one = Reads.concat([part.cpu() for part in fresh])
        one.save(path)
        return [*kept, replace(Reads.load(path), settings=one.settings)]

    def __getstate__(self) -> dict[str, Any]:
        """The files stay with this buffer."""
        return {**self.__dict__, "_folder": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A buffer of the same reads, which are frozen; its own files from here on."""
        copy = type(self)(self.memory)
        copy.parts = list(self.parts)
        return copy
