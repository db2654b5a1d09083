"""Cross-fitting: the union information of samples, by potentials that never saw them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from tqdm import tqdm

from pid_lens.errors import clusters
from pid_lens.estimators.binary import potentials_of
from pid_lens.estimators.cells import distinct
from pid_lens.estimators.certificate import pairing
from pid_lens.estimators.measures import NATS_PER_BIT, entropy
from pid_lens.estimators.posterior import Repair, atoms_of, logs_of, masses_of, weights_of
from pid_lens.estimators.quantise import solve_rows
from pid_lens.estimators.response import respond
from pid_lens.spectra import Atoms

LEAST_CLUSTERS = 4
"""So many samples or clusters two halves need."""
_CELLS, _TOL, _ENOUGH = 512, 5e-3, 1e-4


def cross_fitted(
    full: Tensor | np.ndarray,
    vision: Tensor | np.ndarray,
    language: Tensor | np.ndarray,
    *,
    repair: Repair = "rake",
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    ids: Sequence[str] | None = None,
    seed: int = 0,
) -> Atoms:
    """The union's lower end of a bracket: potentials of one half, valued on the other.

    The empirical union information is a maximum over potentials, so it is biased upward, most
    with many answers and few samples. With two answers, potentials are functions of a posterior:
    learned on one half they are worth no more than I_Q on the other, on average. With more, the
    new rows answer to those learned and to each other, which leaves a little of the bias (at 8
    answers and 64 samples, true U = 0, .006 bits where the plug-in reads .19). Halves are
    exchanged and averaged, and so is the order in which the sources answer; the informations of
    the modalities are plug-in, so that the atoms add up. Above 512 distinct rows a side, near
    ones are merged, which lowers the end a little more.

    Source:
        Double/debiased machine learning for treatment and structural parameters (Chernozhukov
        et al., 2018), https://doi.org/10.1111/ectj.12097

    Args:
        full: log-probabilities given both, [layers, n, answers].
        vision: given vision alone.
        language: given language alone.
        repair: as in `posterior_pid`, of each half by itself.
        groups: clusters, which stay in one half.
        ids: names by which samples are dealt out, so that two models' samples are halved alike;
            without them the posteriors decide, in whatever order they come.
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
    weights = weights_of(posteriors, repair)
    unions = []
    for layer in tqdm(range(len(weights)), "cross-fitting", delay=2, leave=False):
        rows = [p[layer] for p in posteriors]
        left = _half(_by_content(rows) if ids is None else _by_name(ids, seed), of, seed)
        sides = [([p[side] for p in rows], weights[layer, side]) for side in (left, ~left)]
        unions.append((_worth(*sides[0], *sides[1]) + _worth(*sides[1], *sides[0])) / 2)
    union = torch.stack(unions) / NATS_PER_BIT
    return atoms_of(masses_of(weights, *posteriors), union=union, gap=torch.zeros_like(union))


# ---------------------------------------------------------------- halves


def _half(order: Int64[Tensor, " n"], of: Int64[Tensor, " n"], seed: int) -> Bool[Tensor, " n"]:
    """Half of the clusters at random, whatever order the samples come in."""
    rank = order.argsort()
    first = torch.full((int(of.max()) + 1,), len(order)).scatter_reduce(0, of, rank, "amin")
    shuffled = torch.randperm(len(first), generator=torch.Generator().manual_seed(seed))
    half = torch.zeros(len(first), dtype=torch.bool)
    half[first.argsort()[shuffled[: len(first) // 2]]] = True
    return half[of]


def _by_name(ids: Sequence[str], seed: int) -> Int64[Tensor, " n"]:
    """The rows in the order of their names' hashes."""
    hashes = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in ids]
    return torch.tensor(sorted(range(len(ids)), key=hashes.__getitem__))


def _by_content(posteriors: list[Tensor]) -> Int64[Tensor, " n"]:
    """The rows in the order of their posteriors."""
    rows = (torch.cat(posteriors, -1) * 2**30).round()
    return rows.unique(dim=0, return_inverse=True)[1].argsort(stable=True).cpu()


# ---------------------------------------------------------------- values


def _worth(
    seen: list[Tensor], seen_weights: Tensor, rows: list[Tensor], weights: Tensor
) -> Float64[Tensor, ""]:
    """The dual value of some rows by potentials that know nothing of them but where they lie.

    Each half is raked by itself; potentials of new rows are those of where the seen half's
    factors put them, so that they do not follow the new half's own.
    """
    old, factors = _raked(seen, seen_weights)
    new, _ = _raked(rows, weights)
    moved = [
        weights[:, None] * (p + f).softmax(-1) for p, f in zip(rows[1:], factors, strict=True)
    ]
    value = entropy(new[0].sum(0)[None])[0]
    for potentials in _potentials(*old[1:], *moved):
        value = value + sum(_paired(f, p) for f, p in zip(potentials, new[1:], strict=True)) / 2
    return value


def _raked(rows: list[Tensor], weights: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Masses of the three predictors, and the logarithms of the ablated ones' factors."""
    masses = [p[0] for p in masses_of((weights / weights.sum())[None], *(p[None] for p in rows))]
    return masses, [q[0].log() - p[0] for q, p in zip(masses[1:], rows[1:], strict=True)]


def _potentials(
    old1: Tensor, old2: Tensor, new1: Tensor, new2: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Potentials (a, b) of new rows, learned from old ones; two ways, exchanging the sources."""
    if old1.shape[-1] == 2:
        a, b = potentials_of(old1[None], old2[None], new1[None], new2[None])
        return [(a[0], b[0])] * 2
    olds, news = ([distinct(p, _CELLS) for p in pair] for pair in ((old1, old2), (new1, new2)))
    found = solve_rows(olds[0].masses[None], olds[1].masses[None], tol=_TOL)
    duals = found.dual_vision[0], found.dual_language[0]
    ways = []
    for i in (0, 1):
        first = respond(news[i].masses, duals[1 - i], enough=_ENOUGH)
        known = torch.cat([first, duals[i]])
        second = respond(news[1 - i].masses, known, enough=_ENOUGH)
        pair = first[news[i].of], second[news[1 - i].of]
        ways.append(pair if i == 0 else pair[::-1])
    return ways


def _paired(potentials: Tensor, masses: Tensor) -> Float64[Tensor, ""]:
    return pairing(potentials[None], masses[None])[0]
