"""Resampling: bootstrap of the atoms, and null level of unique information by permutation."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_256
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from pid_lens.estimators.broja.from_posteriors import Repair, logs_of, plug_in_atoms
from pid_lens.estimators.common.clusters import as_clusters
from pid_lens.results import FIELDS, Atoms

Logs = Tensor | np.ndarray


@torch.no_grad()
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
    """Bootstrap the atoms: decompose samples drawn with replacement, whole groups at a time.

    Where a unique atom is 0 the bootstrap is as inconsistent as every plug-in. That its errors
    agree with those of the influence functions proves little: check coverage on known truth
    (`pid_lens.truth.layered_reads`).

    Source:
        Bootstrap methods: another look at the jackknife (Efron, 1979),
        https://doi.org/10.1214/aos/1176344552

    Args:
        full: log-probabilities given both, [layers, n, answers].
        vision: given vision alone.
        language: given language alone.
        draws: number of bootstrap samples.
        repair: as in `posterior_pid`.
        groups: the group of each sample; each is its own by default.
        seed: of the resampling.
        tol: as in `posterior_pid`.

    Returns:
        Atoms of shape [draws, layers], bits; ``.synergy.std(0)`` is the error.

    Raises:
        ValueError: fewer than two bootstrap samples, or as `posterior_pid`.

    Example:
        >>> import torch
        >>> from pid_lens.estimators import posterior_pid
        >>> random = torch.Generator().manual_seed(0)
        >>> logs = torch.randn(3, 1, 50, 2, generator=random).log_softmax(-1)
        >>> drawn = bootstrap(*logs, draws=20)
        >>> ratio = drawn.synergy.std(0) / posterior_pid(*logs).standard_error("synergy")
        >>> list(drawn.synergy.shape), bool(0.5 < ratio < 2)  # measured 1.2
        ([20, 1], True)
    """
    if draws < 2:
        raise ValueError(f"a bootstrap needs at least two draws; got {draws}")
    posteriors = logs_of(full=full, vision=vision, language=language)
    n = posteriors[0].shape[1]
    of = torch.arange(n) if groups is None else as_clusters(groups, n)
    count = int(of.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    # Cluster bootstrap: as many clusters as there are, with replacement, each with all its rows
    found = []
    for _ in range(draws):
        drawn = torch.randint(count, (count,), generator=generator).bincount(minlength=count)
        rows = torch.arange(n).repeat_interleave(drawn[of])
        found.append(plug_in_atoms([p[:, rows] for p in posteriors], repair, tol))
    return _stack_atoms(found)


@torch.no_grad()
def exchanged(
    full: Logs,
    vision: Logs,
    language: Logs,
    *,
    draws: int = 20,
    repair: Repair = "rake",
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    seed: int = 0,
    tol: float = 1e-3,
) -> Atoms:
    """Estimate the unique atoms' null level by permutation: swap vision and language at random.

    If both modalities had the same channel to the answer (no unique information) a swap would
    change nothing in distribution; the unique information that then remains is finite-sample
    bias; an observed atom may lie below it. The union information does not depend on the pairing
    of image and question, so that nothing else in it could be permuted.

    Source:
        Permutation, parametric and bootstrap tests of hypotheses (Good, 2005),
        https://doi.org/10.1007/b138696

    Args:
        full: log-probabilities given both, [layers, n, answers].
        vision: given vision alone.
        language: given language alone.
        draws: number of random swaps.
        repair: as in `posterior_pid`.
        groups: the group of each sample; a group is swapped whole, by its name, so that the same
            name is swapped alike in every call.
        seed: of the swaps.
        tol: as in `posterior_pid`.

    Returns:
        Atoms of shape [draws, layers], bits.

    Raises:
        ValueError: another number of groups than samples, or as `posterior_pid`.

    Example:
        >>> import torch
        >>> from pid_lens.estimators import posterior_pid
        >>> sure = torch.eye(2).clamp(1e-3).repeat(1, 32, 1).log().log_softmax(-1)
        >>> unsure = torch.full((1, 64, 2), 0.5).log()
        >>> real = posterior_pid(sure, sure, unsure).unique_vision
        >>> null = exchanged(sure, sure, unsure).unique_vision.mean(0)
        >>> bool(real > 0.9), bool(0 < null < 0.2)
        (True, True)
    """
    both, one, two = logs_of(full=full, vision=vision, language=language)
    n = one.shape[1]
    clusters = list(range(n) if groups is None else groups)
    if len(clusters) != n:
        raise ValueError(f"{n} samples need as many groups, one each; got {len(clusters)}")
    # Permutation within samples: exchange the two posteriors of each swapped group
    found = []
    for swapped in _draw_swaps(clusters, draws, seed):
        swap = swapped[None, :, None].to(one.device)
        found.append(
            plug_in_atoms([both, one.where(~swap, two), two.where(~swap, one)], repair, tol)
        )
    return _stack_atoms(found)


def _draw_swaps(clusters: list[Any], draws: int, seed: int) -> Bool[Tensor, "draws n"]:
    """Draw fair coins from hashes of the groups' names: the same in any order and sample."""
    named = [one.item() if hasattr(one, "item") else one for one in clusters]
    bytes_each = -(-draws // 8)
    coins = b"".join(shake_256(f"{seed}/{name}".encode()).digest(bytes_each) for name in named)
    bits = np.unpackbits(np.frombuffer(coins, np.uint8).reshape(len(named), -1), axis=1)
    return torch.from_numpy(bits[:, :draws].T.astype(bool))


def _stack_atoms(found: list[Atoms]) -> Atoms:
    whole: dict[str, Any] = {n: torch.stack([getattr(one, n) for one in found]) for n in FIELDS}
    return Atoms(**whole)
