"""Exact atoms: speed and width: ``python tests/benchmarks/discrete.py [--out page.md]``.

Tables against dit's ``cone`` solver, both timed in one run, one thread; samples with all rows
distinct, with the width that was reached. Times are the process's own seconds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dit
import numpy as np
import torch
from dit.algorithms import broja_cone
from torch import Tensor

from pid_lens.estimators import discrete_pid, posterior_pid
from pid_lens.estimators.broja.marginal_repair import rake
from pid_lens.estimators.broja.solver.quantise import solve_rows
from pid_lens.estimators.common.entropy import table_information

TABLES, SIZE, ROUNDS = 50, 5, 5
BITS = 1 / np.log(2)
ROOT = Path(__file__).parents[1]
PEAKED = (ROOT / "data/batch_b.npz", ROOT.parents[1] / "shared/reference/batch_b.npz")


def timed(what: Callable[..., Any], *given: Any, **settings: Any) -> tuple[float, Any]:
    """Seconds of one call, and what it returns."""
    begun = time.process_time()
    found = what(*given, **settings)
    return time.process_time() - begun, found


def samples(n: int, answers: int, scale: float) -> list[Tensor]:
    """Log-posteriors given both, vision, language: noisy evidence about a label, [1, n, K]."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(answers, (1, n), generator=generator)
    sure = torch.nn.functional.one_hot(label, answers).double()
    shape = (1, n, answers)
    noise = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    vision, language = (scale * (sure + part) for part in noise)
    return [x.log_softmax(-1) for x in (vision + language, vision, language)]


def masses(full: Tensor, *ablated: Tensor) -> list[Tensor]:
    """Masses p(x, y) of the ablated predictors, raked to the full one's answers."""
    even = torch.full(full.shape[:2], 1 / full.shape[1], dtype=torch.float64)
    target = full.exp().mean(1)
    return [rake(x, target, even)[0] / full.shape[1] for x in ablated]


def peaked(*given: Path) -> list[Tensor] | None:
    """The validation rows of the reference's dataset b, if it is here."""
    at = next((path for path in (*given, *PEAKED) if path.exists()), None)
    if at is None:
        return None
    data = np.load(at)
    rows = [torch.tensor(data[f"val_{name}"]).double()[None] for name in ("p12", "p1", "p2")]
    return [x.clamp_min(1e-12).log().log_softmax(-1) for x in rows]


def cone(table: np.ndarray) -> float:
    """The union information by dit's cone programme, bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = dit.Distribution.from_ndarray(table)
        solved, _ = broja_cone.broja_cone_solve(given, [[0], [1]], [2])
    q = torch.tensor(np.asarray(solved.pmf).reshape(table.shape)).clamp_min(0)
    return float(table_information((q / q.sum()).flatten(0, 1))) * BITS


def tables() -> Iterator[str]:
    """The lines about small tables."""
    generator = torch.Generator().manual_seed(0)
    joint = torch.rand(10 * TABLES, *[SIZE] * 3, generator=generator, dtype=torch.float64)
    joint = joint / joint.sum((1, 2, 3), keepdim=True)
    few = joint[:TABLES]
    runs = {
        "discrete_pid, one table": (few[:1], 1e-9),
        f"discrete_pid, batch of {TABLES}": (few, 1e-9),
        f"discrete_pid, batch of {TABLES}, tol=1e-7": (few, 1e-7),
        f"discrete_pid, batch of {len(joint)}": (joint, 1e-9),
    }
    discrete_pid(few)
    unions = torch.tensor([cone(table) for table in few.numpy()])
    theirs: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        theirs.append(timed(lambda: [cone(table) for table in few.numpy()])[0] / TABLES)
        for name, (given, tol) in runs.items():
            ours[name].append(timed(discrete_pid, given, tol=tol)[0] / len(given))
    yield f"Random tables of {SIZE}^3, milliseconds a table, median of {ROUNDS} rounds\n"
    yield "| | ms | ratio (at least 30 in batches) | largest difference (at most 1e-6 bits) |"
    yield "|---|---|---|---|"
    yield f"| dit, `cone` | {1e3 * statistics.median(theirs):.2f} | | |"
    for name, seconds in ours.items():
        given, tol = runs[name]
        found = discrete_pid(given[:TABLES], tol=tol).union
        apart = float((found - unions[: len(found)]).abs().max())
        ratio = statistics.median(b / a for a, b in zip(seconds, theirs, strict=True))
        yield f"| {name} | {1e3 * statistics.median(seconds):.3f} | {ratio:.0f} | {apart:.1e} |"


def rows(*reference: Path) -> Iterator[str]:
    """The lines about samples."""
    cases = {
        "K = 2, N = 4,000": (samples(4000, 2, 1.5), 1e-3, "1e-3 in 2 s"),
        "K = 4, N = 450": (samples(450, 4, 1.5), 1e-3, "2e-3"),
        "K = 4, N = 2,000": (samples(2000, 4, 1.5), 0.02, ".02 in 10 s"),
        "the same, narrower": (samples(2000, 4, 1.5), 2e-3, ""),
        "K = 8, N = 300": (samples(300, 8, 1.5), 1e-3, ""),
        "K = 16, N = 100": (samples(100, 16, 1.5), 1e-3, ""),
        "K = 4, N = 100,000": (samples(100_000, 4, 1.5), 0.02, ".05 in a minute"),
        "dataset b, peaked, K = 4, N = 512": (peaked(*reference), 1e-3, "1e-3"),
    }
    yield "\nOne problem, all rows distinct, raked\n"
    yield "| samples | tol | width, bits | seconds | steps | wanted |"
    yield "|---|---|---|---|---|---|"
    for name, (logs, tol, wanted) in cases.items():
        if logs is None:
            yield f"| {name} | | not here | | | {wanted} |"
            continue
        seconds, found = timed(solve_rows, *masses(*logs), tol=tol / BITS)
        width, steps = float(found.gap) * BITS, int(found.iterations)
        yield f"| {name} | {tol:g} | {width:.1e} | {seconds:.2f} | {steps} | {wanted} |"


def layers() -> Iterator[str]:
    """The line about a whole spectrum by both repairs."""
    logs = [x.view(6, 450, 4) for x in samples(2700, 4, 1.5)]
    seconds, atoms = timed(posterior_pid, *logs)
    gap = max(float(atoms.gap.max()), float(atoms.sensitivity.gap.nan_to_num().max()))
    yield (
        f"\nposterior_pid, 6 layers, N = 450, K = 4, both repairs: {seconds:.1f} s, widest "
        f"interval {gap:.1e} bits (wanted: 2e-3 in 15 s)"
    )


def machine() -> Iterator[str]:
    """What ran where."""
    names = [f"{name} {version(name)}" for name in ("torch", "numpy", "dit", "ecos")]
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    yield "# Exact atoms: speed and width\n"
    yield f"{cpu}, one thread; Python {platform.python_version()}, {', '.join(names)}\n"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file for the page of results")
    parser.add_argument("--reference", type=Path, nargs="*", default=[], help="batch_b.npz")
    given = parser.parse_args()
    page = "\n".join([*machine(), *tables(), *rows(*given.reference), *layers()]) + "\n"
    if given.out:
        given.out.write_text(page)
    else:
        print(page, end="")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
