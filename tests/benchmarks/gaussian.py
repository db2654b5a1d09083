"""The closed form against an iterative solver: ``python tests/benchmarks/gaussian.py``.

The baseline is what public Gaussian decompositions do, written anew: projected gradient descent
on the covariance of both sources' noises, which is all that a Gaussian coupling can choose.
Ratios are medians over systems, both timed in one run.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pid_lens.estimators import gaussian_pid

SYSTEMS, MOST_ROUNDS, ENOUGH = 5, 3000, 1e-7


def system(d: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gains of two sources of d dimensions on a Y of d dimensions, and the joint covariance."""
    generator = torch.Generator().manual_seed(seed)
    gains = torch.randn(2, d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    tall = gains.flatten(0, 1)
    cov = torch.eye(3 * d, dtype=torch.float64)
    cov[d:, :d], cov[:d, d:] = tall, tall.mT
    cov[d:, d:] += tall @ tall.mT
    return gains[0], gains[1], cov


def information(one: Tensor, other: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """I(Y; X1, X2) in bits if the noises of unit variance have this covariance; its gradient."""
    d = len(one)
    noise = torch.eye(2 * d, dtype=torch.float64)
    noise[:d, d:], noise[d:, :d] = shared, shared.mT
    gains = torch.cat([one, other])
    weighed = torch.linalg.solve(noise, gains)
    precision = torch.eye(d, dtype=torch.float64) + gains.mT @ weighed
    told = weighed @ torch.linalg.solve(precision, weighed.mT)
    return torch.logdet(precision) / math.log(4), -told[:d, d:] / math.log(2)


def clipped(shared: Tensor, most: float = 1 - 1e-9) -> Tensor:
    """The nearest covariance that two noises of unit variance can have."""
    left, sizes, right = torch.linalg.svd(shared)
    return left @ (sizes.clamp(max=most)[:, None] * right)


def iterative(one: Tensor, other: Tensor) -> float:
    """The least information, by projected gradient with spectral (Barzilai-Borwein) steps.

    A step may go up a little, but not above the worst of the last few values; 50 rounds within
    1e-7 bits are the end.
    """
    shared = clipped(one @ torch.linalg.pinv(other))
    value, slope = information(one, other, shared)
    values, step = [value], 1.0
    for _ in range(MOST_ROUNDS):
        new, new_slope, moved = tried(one, other, shared, step * slope)
        while new > max(values[-10:]) + 1e-4 * (moved * slope).sum() and step > 1e-14:
            step /= 4
            new, new_slope, moved = tried(one, other, shared, step * slope)
        bent = float((moved * (new_slope - slope)).sum())
        step = float((moved**2).sum()) / bent if bent > 0 else min(4 * step, 1e6)
        shared, slope = shared + moved, new_slope
        values.append(new)
        if len(values) > 60 and max(values[-50:]) - min(values[-50:]) < ENOUGH:
            break
    return float(min(values))


def tried(
    one: Tensor, other: Tensor, shared: Tensor, change: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Information and gradient after a projected step, and the step that it became."""
    there = clipped(shared - change)
    return *information(one, other, there), there - shared


def timed(what: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Seconds of one call, and what it returns."""
    begun = time.perf_counter()
    found = what(*given)
    return time.perf_counter() - begun, found


def main() -> None:
    """Prints the table."""
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(
        "   d  closed form   a layer of 32   iterative   ratio   iterative - closed, worst, bits"
    )
    for d in (10, 20, 50):
        gaussian_pid(system(d, 0)[2], (d, d, d))
        fast, many, slow, apart = [], [], [], []
        for seed in range(SYSTEMS):
            one, other, cov = system(d, seed)
            runs = [timed(gaussian_pid, cov, (d, d, d)) for _ in range(9)]
            fast.append(statistics.median(seconds for seconds, _ in runs))
            layers = cov.expand(32, -1, -1).contiguous()
            many.append(timed(gaussian_pid, layers, (d, d, d))[0] / 32)
            seconds, union = timed(iterative, one, other)
            slow.append(seconds)
            apart.append(union - float(runs[0][1].union))
        ratio = statistics.median(b / a for a, b in zip(fast, slow, strict=True))
        print(
            f"{d:>4}{1e3 * statistics.median(fast):>10.2f} ms"
            f"{1e3 * statistics.median(many):>13.2f} ms"
            f"{1e3 * statistics.median(slow):>9.0f} ms{ratio:>8.0f}   {max(apart, key=abs):.1e}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
