"""Resampling: what the samples at hand would have read had they been drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.errors import clusters
from pid_lens.estimators.binary import potentials_of
from pid_lens.estimators.certificate import pairing
from pid_lens.estimators.measures import NATS_PER_BIT, entropy, mutual_information
from pid_lens.estimators.posterior import Repair, logs_of, masses_of, union_of
from pid_lens.estimators.quantise import solve_rows
from pid_lens.estimators.repair import tilt
from pid_lens.estimators.response import respond
from pid_lens.spectra import Atoms

Logs = Tensor | np.ndarray
LEAST_CLUSTERS = 4
"""So many samples or clusters two halves need."""


def bootstrap(
    full: Logs,
    vision: Logs,
    language: Logs,
    *,
    draws: int = 200,
    repair: Repair = "rake",
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    seed: int = 0,
    tol: float = 1e-3,
) -> Atoms:
    """The atoms of samples drawn again with replacement, clusters whole.

    Where a unique atom is 0 the bootstrap is as inconsistent as every plug-in: prefer coverage
    seen on known truth (`pid_lens.truth.layered_reads`) to agreement of two errors.

    Source:
        Bootstrap methods: another look at the jackknife (Efron, 1979),
        https://doi.org/10.1214/aos/1176344552

    Args:
        full: log-probabilities given both, [layers, n, answers].
        vision: given vision alone.
        language: given language alone.
        draws: how often.
        repair: as in `posterior_pid`.
        groups: the cluster of each sample.
        seed: of the draws.
        tol: as in `posterior_pid`.

    Returns:
        Atoms of shape [draws, layers], bits; ``.synergy.std(0)`` is the error.

    Raises:
        ValueError: fewer than two draws, or as `posterior_pid`.

    Example:
        >>> logs = [torch.randn(1, 50, 2).log_softmax(-1) for _ in range(3)]
        >>> bootstrap(*logs, draws=20).synergy.shape
        torch.Size([20, 1])
    """
    if draws < 2:
        raise ValueError(f"a bootstrap needs at least two draws; got {draws}")
    posteriors = logs_of(full=full, vision=vision, language=language)
    n = posteriors[0].shape[1]
    of = torch.arange(n) if groups is None else clusters(groups, n)
    count = int(of.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        drawn = torch.randint(count, (count,), generator=generator).bincount(minlength=count)
        rows = torch.arange(n).repeat_interleave(drawn[of])
        found.append(_plug_in([p[:, rows] for p in posteriors], repair, tol))
    return _stacked(found)


def exchanged(
    full: Logs,
    vision: Logs,
    language: Logs,
    *,
    draws: int = 20,
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    seed: int = 0,
    tol: float = 1e-3,
) -> Atoms:
    """The floor of the unique atoms: vision and language swapped in samples picked at random.

    If both modalities had the same channel to the answer (no unique information) a swap would
    change nothing in distribution; what then still reads as unique is finite-sample bias. The
    pairing of image and question is no part of the union information, so there is nothing else
    in it that could be shuffled.

    Source:
        Permutation, parametric and bootstrap tests of hypotheses (Good, 2005),
        https://doi.org/10.1007/b138696

    Args:
        full: log-probabilities given both, [layers, n, answers].
        vision: given vision alone.
        language: given language alone.
        draws: how often to swap.
        groups: the cluster of each sample; clusters are swapped whole.
        seed: of the swaps.
        tol: as in `posterior_pid`.

    Returns:
        Atoms of shape [draws, layers], bits.

    Example:
        >>> logs = [torch.randn(1, 50, 2).log_softmax(-1) for _ in range(3)]
        >>> exchanged(*logs, draws=5).unique_vision.min() >= -1e-9
        tensor(True)
    """
    both, one, two = logs_of(full=full, vision=vision, language=language)
    generator = torch.Generator().manual_seed(seed)
    n = one.shape[1]
    of = torch.arange(n) if groups is None else clusters(groups, n)
    found = []
    for _ in range(draws):
        swapped = torch.rand(int(of.max()) + 1, generator=generator).lt(0.5)
        swap = swapped[of][None, :, None].to(one.device)
        found.append(_plug_in([both, one.where(~swap, two), two.where(~swap, one)], "rake", tol))
    return _stacked(found)


def cross_fitted(
    full: Logs,
    vision: Logs,
    language: Logs,
    *,
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    seed: int = 0,
) -> Atoms:
    """The union's lower end of a bracket: potentials of one half, valued on the other.

    The empirical union information is a maximum over potentials, so it is biased upward, most
    with many answers and few samples. With two answers, potentials are functions of a posterior:
    learned on one half they are worth no more than I_Q on the other, on average. With more, the
    new rows answer to those learned and to each other, which leaves a little of the bias (at 8
    answers and 64 samples, true U = 0, .006 bits where the plug-in reads .19). Halves are
    exchanged and averaged; the informations of the modalities are plug-in, so that the atoms
    add up.

    Source:
        Double/debiased machine learning for treatment and structural parameters (Chernozhukov
        et al., 2018), https://doi.org/10.1111/ectj.12097

    Args:
        full: log-probabilities given both, [layers, n, answers].
        vision: given vision alone.
        language: given language alone.
        groups: clusters, which stay in one half.
        seed: of the halves.

    Returns:
        Atoms of shape [layers], bits; ``gap`` is 0, as nothing is certified.

    Raises:
        ValueError: fewer than four samples (or clusters), or as `posterior_pid`.

    Example:
        >>> logs = [torch.randn(1, 80, 2).log_softmax(-1) for _ in range(3)]
        >>> from pid_lens.estimators import posterior_pid
        >>> cross_fitted(*logs).union < posterior_pid(*logs).union
        tensor([True])
    """
    posteriors = logs_of(full=full, vision=vision, language=language)
    n = posteriors[0].shape[1]
    of = torch.arange(n) if groups is None else clusters(groups, n)
    if int(of.max()) + 1 < LEAST_CLUSTERS:
        raise ValueError(f"two halves need at least four samples or clusters; got {of.max() + 1}")
    unions = []
    for layer in range(len(posteriors[0])):
        one = [p[layer : layer + 1] for p in posteriors]
        left = _half(one, of, seed)
        halves = [[p[:, rows] for p in one] for rows in (left, ~left)]
        unions.append((_worth(halves[0], halves[1]) + _worth(halves[1], halves[0])) / 2)
    totals = _totals(_masses(posteriors, "rake"))
    union = torch.cat(unions) / NATS_PER_BIT
    return Atoms(union=union, gap=torch.zeros_like(union), **totals)


def _plug_in(posteriors: list[Tensor], repair: Repair, tol: float) -> Atoms:
    masses = _masses(posteriors, repair)
    return Atoms(**_totals(masses), **union_of(masses, tol))


def _masses(posteriors: list[Tensor], repair: Repair) -> tuple[Tensor, ...]:
    layers, n, _ = posteriors[0].shape
    weights = posteriors[0].new_full((layers, n), 1 / n)
    if repair == "tilt":
        balance = tilt(*(p.exp() for p in posteriors))
        weights = balance.weights.where(balance.feasible[:, None], weights)
    return masses_of(weights, *posteriors)


def _totals(masses: tuple[Tensor, ...]) -> dict[str, Any]:
    names = ("information", "information_vision", "information_language")
    values = (mutual_information(m) / NATS_PER_BIT for m in masses)
    return dict(zip(names, values, strict=True))


def _stacked(found: list[Atoms]) -> Atoms:
    names = ("information", "information_vision", "information_language", "union", "gap")
    whole: dict[str, Any] = {n: torch.stack([getattr(one, n) for one in found]) for n in names}
    return Atoms(**whole)


def _half(posteriors: list[Tensor], of: Int64[Tensor, " n"], seed: int) -> Tensor:
    """Half of the clusters, at random but whatever the order of the samples."""
    rows = torch.cat(posteriors, -1)[0]
    order = _canonical(rows)
    first = torch.full((int(of.max()) + 1,), len(order)).scatter_reduce(
        0, of, order.argsort().cpu(), "amin"
    )
    shuffled = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))
    half = torch.zeros(len(first), dtype=torch.bool)
    half[first.argsort()[shuffled[: len(first) // 2]]] = True
    return half[of].to(rows.device)


def _canonical(rows: Float64[Tensor, "n columns"]) -> Int64[Tensor, " n"]:
    """The order of the rows by their numbers."""
    order = torch.arange(len(rows), device=rows.device)
    for column in reversed(range(rows.shape[1])):
        order = order[rows[order, column].argsort(stable=True)]
    return order


def _worth(learned: list[Tensor], here: list[Tensor]) -> Float64[Tensor, " layers"]:
    """The dual value here of potentials that were learned elsewhere, nats."""
    _, old1, old2 = _masses(learned, "rake")
    _, new1, new2 = _masses(here, "rake")
    potentials: Callable[..., tuple[Tensor, Tensor]]
    potentials = potentials_of if old1.shape[-1] == 2 else _responses
    a, b = potentials(old1, old2, new1, new2)
    return entropy(new1.sum(1)) + pairing(a, new1) + pairing(b, new2)


def _responses(old1: Tensor, old2: Tensor, new1: Tensor, new2: Tensor) -> tuple[Tensor, Tensor]:
    """Best responses of new rows: of vision to what was learned, of language to all vision."""
    learned = solve_rows(old1, old2)
    a = respond(new1[0], learned.dual_language[0])
    known = torch.cat([a, learned.dual_vision[0]])
    return a[None], respond(new2[0], known)[None]
