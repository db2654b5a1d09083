"""Gaussianise: invertible maps after which variables are as jointly Gaussian as they get."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from pid_lens.estimators.flow.axes import independent_axes
from pid_lens.estimators.flow.start import Start, start

BINS = 8
"""Pieces of each coordinate's spline."""
RATE = 0.05
"""Of Adam."""
BATCH = 1024
"""Samples in a step, at least; fewer than twice as many are taken whole."""
PATIENCE = 20
"""After so many steps without a gain training ends."""
LEAST_GAIN = 0.01
"""Nats a held-out sample."""
_EVERY = 5


@dataclass(frozen=True)
class Gaussianised:
    """Variables after their maps, and how much likelier the maps make unseen samples."""

    values: tuple[Float64[Tensor, "n _"], ...]
    gain: float
    """Nats a held-out sample over a Gaussian; 0 where maps were no better than none."""
    steps: int
    """Of descent, to where held-out samples were likeliest."""


def gaussianise(
    variables: Sequence[Float64[Tensor, "n _"]],
    whole: Sequence[bool],
    *,
    joint: bool = False,
    transforms: int = 1,
    steps: int = 300,
    folds: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Gaussianised:
    r"""Maps z_i = f_i(x_i) under which z = (z_1, z_2, ...) is as likely as can be a Gaussian.

    .. math::  \max_{f, \mu, \Sigma} \; E \log N(z; \mu, \Sigma)
                     + \sum_i E \log |\det \partial f_i / \partial x_i|

    Each f_i is a `Start` and then ``transforms`` rational-quadratic splines of each coordinate
    with rotations in between (zuko). That the likelihood is that of all variables together
    matters: of the many maps that make each variable Gaussian by itself it prefers those
    that make their relation Gaussian too.

    Each fold in turn is held out while the others are descended on, until 20 steps made the
    held-out samples no likelier; the maps are then those of all samples after as many steps as
    were best. Where that is no better than a plain Gaussian, variables stay as they are.

    Args:
        variables: [n, d_i] each, of full rank.
        whole: for each, whether its coordinates mean something by themselves (see `start`).
        joint: let rotations mix the variables, before the first splines too.
        transforms: how many times splines.
        steps: of descent, at most.
        folds: how many.
        seed: of folds and batches.
        progress: show a bar if it takes longer than two seconds.

    Raises:
        ImportError: zuko is not installed.
        ValueError: the likelihood has no bound.

    Source:
        Neural spline flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032;
        Mutual information estimation via normalizing flows (Butakov et al., 2024),
        https://arxiv.org/abs/2403.02187

    Example:
        >>> y, noise = torch.randn(2, 800, 1, generator=torch.Generator().manual_seed(0)).double()
        >>> found = gaussianise([y**3, (y + noise).exp()], [True, True])
        >>> torch.corrcoef(torch.cat(found.values, 1).mT)[0, 1]
        tensor(0.7..., dtype=torch.float64)
    """
    sizes, generator = [x.shape[1] for x in variables], torch.Generator().manual_seed(seed)
    rows, shape = torch.cat(tuple(variables), 1), _Shape(tuple(sizes), transforms, joint)
    near = [independent_axes(x) for x in variables]

    def begun(chosen: Tensor | slice) -> Start:
        return start([x[chosen] for x in variables], whole, near)

    parts = torch.randperm(len(rows), generator=generator).tensor_split(folds)
    trials = [_Trial(begun, rows, held, shape, generator) for held in parts]
    gain, at = _best(trials, steps, progress)
    if not gain > 0:
        return Gaussianised(tuple(variables), 0.0, 0)
    values, _ = begun(slice(None))(rows)
    descent = _Descent(_Flow(shape), values, generator)
    for _ in range(at):
        descent.step()
    with torch.no_grad():
        values, _ = descent.flow(values)
    return Gaussianised(values.split(sizes, 1), gain, at)


@dataclass(frozen=True)
class _Shape:
    """What a flow is made of."""

    sizes: tuple[int, ...]
    transforms: int
    joint: bool


class _Flow(nn.Module):
    """Splines of each coordinate with rotations in between."""

    def __init__(self, shape: _Shape) -> None:
        super().__init__()
        self._rotated, self._bent = _zuko()
        self._joint, d, count = shape.joint, sum(shape.sizes), range(shape.transforms)
        blocks = [d] if shape.joint else shape.sizes
        self._free = torch.block_diag(*(torch.ones(size, size) for size in blocks))
        self._turns = nn.ParameterList(_zeros(d, d) for _ in count)
        self._widths = nn.ParameterList(_zeros(d, BINS) for _ in count)
        self._heights = nn.ParameterList(_zeros(d, BINS) for _ in count)
        self._slopes = nn.ParameterList(_zeros(d, BINS - 1) for _ in count)

    def forward(
        self, values: Float64[Tensor, "n d"]
    ) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, " n"]]:
        """Values and the log of the volume's change."""
        volume = torch.zeros(len(values), dtype=values.dtype)
        parts = zip(self._turns, self._widths, self._heights, self._slopes, strict=True)
        for at, (turn, *spline) in enumerate(parts):
            if at or self._joint:
                values = self._rotated(turn * self._free)(values)
            values, log_slopes = self._bent(*spline).call_and_ladj(values)
            volume = volume + log_slopes.sum(-1)
        return values, volume


def _zeros(*shape: int) -> nn.Parameter:
    """What makes a rotation or a spline the identity."""
    return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))


def _zuko() -> tuple[Any, Any]:
    try:
        from zuko.transforms import MonotonicRQSTransform, RotationTransform
    except ImportError as error:
        raise ImportError(
            "flows need the package zuko (pip install zuko); GaussianPID does without"
        ) from error
    return RotationTransform, MonotonicRQSTransform


# ---------------------------------------------------------------- descent


class _Descent:
    """Adam on a flow's likelihood, the Gaussian being the best one for each batch."""

    def __init__(self, flow: _Flow, rows: Tensor, generator: torch.Generator) -> None:
        self.flow, self.rows, self.generator = flow, rows, generator
        self.batches = max(len(rows) // BATCH, 1)
        self._left: list[Int64[Tensor, " batch"]] = []
        self._adam = torch.optim.Adam(flow.parameters(), lr=RATE, betas=(0.9, 0.99))

    def step(self) -> None:
        """One step on one batch."""
        values, volume = self.flow(self._batch())
        loss = _Normal.of(values).surprise(values) - volume.mean()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()

    def _batch(self) -> Float64[Tensor, "batch d"]:
        if self.batches == 1:
            return self.rows
        if not self._left:
            order = torch.randperm(len(self.rows), generator=self.generator)
            self._left = list(order.tensor_split(self.batches))
        return self.rows[self._left.pop()]


class _Trial:
    """A descent on all samples but one fold, which says what was gained."""

    def __init__(
        self,
        begun: Callable[[Tensor], Start],
        rows: Float64[Tensor, "n d"],
        held: Int64[Tensor, " held"],
        shape: _Shape,
        generator: torch.Generator,
    ) -> None:
        rest = torch.ones(len(rows), dtype=torch.bool).index_fill(0, held, False)
        first = begun(rest)
        (values, _), (self._held, volume) = first(rows[rest]), first(rows[held])
        self._plain = _Normal.of(rows[rest]).surprise(rows[held]) + volume.mean()
        self.descent = _Descent(_Flow(shape), values, generator)

    @torch.no_grad()
    def gain(self) -> float:
        """Nats a held-out sample over a Gaussian."""
        values, _ = self.descent.flow(self.descent.rows)
        held, volume = self.descent.flow(self._held)
        return float(self._plain - _Normal.of(values).surprise(held) + volume.mean())


def _best(trials: Sequence[_Trial], steps: int, progress: bool) -> tuple[float, int]:
    """The best mean gain of all folds, and after how many steps it was there."""
    from tqdm import tqdm

    every = max(_EVERY, trials[0].descent.batches)
    most, at = -math.inf, 0
    for step in tqdm(range(steps + 1), "training", delay=2, leave=False, disable=not progress):
        if step % every == 0:
            gain = sum(trial.gain() for trial in trials) / len(trials)
            if gain > most + LEAST_GAIN:
                most, at = gain, step
        if step - at >= max(PATIENCE, 8 * every):
            break
        for trial in trials:
            trial.descent.step()
    return most, at


@dataclass(frozen=True)
class _Normal:
    """A Gaussian density."""

    mean: Float64[Tensor, " d"]
    root: Float64[Tensor, "d d"]

    @classmethod
    def of(cls, values: Float64[Tensor, "n d"]) -> _Normal:
        """The likeliest one for some samples."""
        mean = values.mean(0)
        root, failed = torch.linalg.cholesky_ex((values - mean).mT @ (values - mean) / len(values))
        if bool(failed) or not bool(root.isfinite().all()):
            raise ValueError(
                "the likelihood of the flow has no bound: a direction of one variable is told by "
                "the others without error. Leave it out (a variable that is in two?), or keep "
                "fewer components"
            )
        return cls(mean, root)

    def surprise(self, values: Float64[Tensor, "n d"]) -> Float64[Tensor, ""]:
        """Mean of -log density in nats, constants apart."""
        white = torch.linalg.solve_triangular(self.root, (values - self.mean).mT, upper=False)
        return white.square().sum(0).mean() / 2 + self.root.diagonal().log().sum()
