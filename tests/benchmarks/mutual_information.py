"""Mutual information: ``python tests/benchmarks/mutual_information.py [--out page.md]``.

Mean absolute errors over the 40 tasks of the benchmark of Czyż et al., 3,000 samples each, against
the truth and the stored baselines; how far errors are those of samples drawn anew; nats. Times are
the process's own seconds.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from pid_lens.estimators import MutualInformation, mutual_information
from pid_lens.estimators.infonce.from_samples import Method

STORED = Path(__file__).parents[3] / "shared/reference/mi_tasks.npz"
SEEDS = (0, 1, 2)
METHODS: tuple[Method, ...] = ("infonce", "gaussian", "ksg")
RUNS: dict[str, tuple[Method, int]] = {
    **{f"infonce, seed {seed}": ("infonce", seed) for seed in SEEDS},
    "gaussian": ("gaussian", 0),
    "ksg": ("ksg", 0),
}
WANTED = 0.155
PAIRS = ((1, 0.75, 600), (3, 0.6, 600), (2, 0.9, 900))
DRAWN = 40


def measured(
    tasks: Mapping[str, np.ndarray], names: list[str]
) -> dict[str, list[tuple[MutualInformation, float]]]:
    """What every run says of every task, and its seconds."""
    found: dict[str, list[tuple[MutualInformation, float]]] = {run: [] for run in RUNS}
    for name in names:
        for run, (method, seed) in RUNS.items():
            begun = time.process_time()
            x, y = tasks[f"{name}__X"], tasks[f"{name}__Y"]
            said = mutual_information(x, y, method=method, seed=seed, unit="nats")
            found[run].append((said, time.process_time() - begun))
    return found


def page(tasks: Mapping[str, np.ndarray], names: list[str]) -> Iterator[str]:
    """The lines of the page of results."""
    at = [tasks["names"].tolist().index(name) for name in names]
    truth = tasks["mi_nats"][at]
    found = measured(tasks, names)
    values = {run: np.array([said.value for said, _ in rows]) for run, rows in found.items()}
    yield "# Mutual information: 40 tasks, 3,000 samples, nats\n"
    yield "| | mean absolute error | worst | within 0.05 | mean error | seconds a task |"
    yield "|---|---|---|---|---|---|"
    for run, rows in found.items():
        seconds = np.mean([taken for _, taken in rows])
        yield _line(run, values[run] - truth, f"{seconds:.1f}")
    for run in (key for key in tasks if key.startswith("baseline_")):
        yield _line(run.replace("_", ", ", 1), tasks[run][at] - truth, "")
    mean = np.mean([np.abs(values[run] - truth).mean() for run in list(RUNS)[: len(SEEDS)]])
    yield f"\ninfonce, mean over {len(SEEDS)} seeds: {mean:.4f} (wanted: at most {WANTED})\n"
    yield f"| task | truth | {' | '.join(RUNS)} |"
    yield f"|---|---|{'---|' * len(RUNS)}"
    for row, name in enumerate(names):
        said = (f"{rows[row][0].value:.3f} ± {rows[row][0].error:.3f}" for rows in found.values())
        yield f"| {name} | {truth[row]:.3f} | {' | '.join(said)} |"


def spreads() -> Iterator[str]:
    """The lines about standard errors: normal pairs of known information, drawn anew."""
    yield f"\nNormal pairs, {DRAWN} samples of n each, nats\n"
    yield "| d, rho, n | method | truth | mean | spread | mean error | 95 % intervals that hold |"
    yield "|---|---|---|---|---|---|---|"
    for d, rho, n in PAIRS:
        truth = -d / 2 * math.log(1 - rho**2)
        for method in METHODS:
            said = [_normal(d, rho, n, method, seed) for seed in range(DRAWN)]
            value, error = np.array([s.value for s in said]), np.array([s.error for s in said])
            holds = (np.abs(value - truth) < 1.96 * error).mean()
            yield (
                f"| {d}, {rho}, {n} | {method} | {truth:.3f} | {value.mean():.3f} | "
                f"{value.std(ddof=1):.3f} | {error.mean():.3f} | {holds:.0%} |"
            )


def _normal(d: int, rho: float, n: int, method: Method, seed: int) -> MutualInformation:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * noise
    return mutual_information(x, y, method=method, seed=seed, unit="nats")


def _line(run: str, error: np.ndarray, seconds: str) -> str:
    apart = np.abs(error)
    return (
        f"| {run} | {apart.mean():.4f} | {apart.max():.3f} | {(apart < 0.05).sum()} | "
        f"{error.mean():+.3f} | {seconds} |"
    )


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file for the page of results")
    parser.add_argument("--reference", type=Path, default=STORED, help="mi_tasks.npz")
    parser.add_argument("--tasks", nargs="*", help="some tasks by name; all by default")
    given = parser.parse_args()
    tasks = np.load(given.reference)
    lines = [*page(tasks, given.tasks or tasks["names"].tolist()), *spreads()]
    text = "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    main()
