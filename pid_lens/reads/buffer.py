"""ReadsBuffer: buffer of incoming reads, in memory up to a limit, beyond it on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Self
from weakref import finalize

from pid_lens.reads.reads import Reads

MEMORY = 2**30
"""Bytes that a buffer keeps in memory by default."""


class ReadsBuffer:
    """Buffer of reads that are added one by one and returned as one.

    Parts that exceed ``memory`` bytes are moved to a temporary safetensors file and mapped from
    it; the file is deleted with the buffer.

    Args:
        memory: bytes that are kept in memory.

    Example:
        >>> import torch
        >>> from pid_lens import Reads
        >>> even = torch.full((1, 3, 5, 2), 0.5).log()
        >>> buffer = ReadsBuffer(memory=0)
        >>> for part in "ab":
        ...     buffer.add(Reads.from_posteriors(even, ids=[f"{part}{i}" for i in range(5)]))
        >>> buffer.whole().n, [part.on_disk for part in buffer.parts]
        (10, [True])
    """

    def __init__(self, memory: int = MEMORY) -> None:
        """Begin empty, in memory."""
        self.memory = memory
        self.parts: list[Reads] = []
        self._settled = False
        self._folder: Path | None = None

    def add(self, reads: Reads) -> None:
        """Add reads; if that fails, the buffer is unchanged.

        Raises:
            ValueError: they cannot be mixed with those before (`Reads.concat` says why).
        """
        if self.parts:
            Reads.concat([part.rows(()).cpu() for part in (self.parts[0], reads)])
        self.parts, self._settled = self._spill([*self.parts, reads]), False

    def whole(self) -> Reads:
        """Concatenate all parts on the CPU; of a sample added twice the last record stays.

        Raises:
            ValueError: nothing was added.
        """
        if self._settled:
            return self.parts[0]
        whole = Reads.concat([part.cpu() for part in self.parts])
        if not any(part.on_disk for part in self.parts):
            self.parts, self._settled = [whole], True
        return whole

    def ids(self) -> set[str]:
        """Return the names of the samples."""
        return {name for part in self.parts for name in part.ids}

    def _spill(self, parts: list[Reads]) -> list[Reads]:
        """Move the parts in memory to a file if they are several and exceed ``memory``."""
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
        """Leave the folder of temporary files with this buffer."""
        return {**self.__dict__, "_folder": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the buffer with the same frozen reads; later files are its own."""
        copy = type(self)(self.memory)
        copy.parts = list(self.parts)
        return copy
