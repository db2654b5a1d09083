"""Logic gates: joint distributions of fair bits whose atoms every paper agrees on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.results import Atoms
from pid_lens.truth.known import LEAST_PROBABILITY, known_atoms


@dataclass(frozen=True)
class _Gate:
    """A system of fair bits: the functions of them that are X1, X2 and Y, and its atoms.

    ``flips`` are the flip probabilities of binary symmetric channels behind X1, X2 and Y.
    """

    bits: int
    vision: Callable[[tuple[int, ...]], object]
    language: Callable[[tuple[int, ...]], object]
    answer: Callable[[tuple[int, ...]], object]
    atoms: tuple[float, float, float, float]
    flips: tuple[float, float, float] = (0.0, 0.0, 0.0)


def _h(p: float) -> float:
    """Compute the binary entropy of a coin, bits."""
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def _bit(i: int) -> Callable[[tuple[int, ...]], int]:
    return lambda z: z[i]


_QUARTER = _h(0.25) - 0.5
_GATES = {
    "AND": _Gate(2, _bit(0), _bit(1), lambda z: z[0] & z[1], (_QUARTER, 0, 0, 0.5)),
    "OR": _Gate(2, _bit(0), _bit(1), lambda z: z[0] | z[1], (_QUARTER, 0, 0, 0.5)),
    "XOR": _Gate(2, _bit(0), _bit(1), lambda z: z[0] ^ z[1], (0, 0, 0, 1)),
    "UNQ": _Gate(2, _bit(0), _bit(1), _bit(0), (0, 1, 0, 0)),
    "RDN": _Gate(1, _bit(0), _bit(0), _bit(0), (1, 0, 0, 0)),
    "COPY": _Gate(2, _bit(0), _bit(1), lambda z: z, (0, 1, 1, 0)),
    "SUM": _Gate(2, _bit(0), _bit(1), sum, (0.5, 0, 0, 1)),
    "RDNXOR": _Gate(
        3, lambda z: z[:2], lambda z: z[::2], lambda z: (z[0], z[1] ^ z[2]), (1, 0, 0, 1)
    ),
    "RDNUNQXOR": _Gate(
        5,
        lambda z: (z[0], z[1], z[3]),
        lambda z: (z[0], z[2], z[4]),
        lambda z: (*z[:3], z[3] ^ z[4]),
        (1, 1, 1, 1),
    ),
    "XOR_FLIP10": _Gate(
        2, _bit(0), _bit(1), lambda z: z[0] ^ z[1], (0, 0, 0, 1 - _h(0.1)), (0, 0, 0.1)
    ),
    "BSC_PAIR": _Gate(
        1,
        _bit(0),
        _bit(0),
        _bit(0),
        (1 - _h(0.2), _h(0.2) - _h(0.1), 0, _h(0.26) - _h(0.2)),
        (0.1, 0.2, 0),
    ),
}

GATES = tuple(_GATES)
"""The names that `gate` and `atoms_of` know."""


def gate(name: str) -> Float64[Tensor, "n1 n2 answers"]:
    """Tabulate the joint distribution p(x1, x2, y) of a named system of fair bits.

    AND, OR, XOR, SUM, COPY (y = (x1, x2)) and UNQ (y = x1) take two independent bits; RDN is
    one bit that x1, x2 and y copy. RDNXOR: x1 = (r, a), x2 = (r, b), y = (r, a xor b). RDNUNQXOR:
    x1 = (r, u, a), x2 = (r, v, b), y = (r, u, v, a xor b). XOR_FLIP10: an XOR whose output is
    flipped with probability 0.1. BSC_PAIR: x1 and x2 are copies of the bit y, flipped with
    probability 0.1 and 0.2.

    Args:
        name: one of ``GATES``.

    Returns:
        Probabilities that sum to 1.

    Raises:
        ValueError: no such gate.

    Example:
        >>> gate("XOR")[:, :, 1]
        tensor([[0.0000, 0.2500],
                [0.2500, 0.0000]], dtype=torch.float64)
    """
    system = _known(name)
    tosses = list(product((0, 1), repeat=system.bits))
    # Push the uniform distribution of bits z through x1(z), x2(z), y(z)
    values = [[f(z) for z in tosses] for f in (system.vision, system.language, system.answer)]
    names = [sorted(set(one), key=repr) for one in values]
    table = torch.zeros([len(n) for n in names], dtype=torch.float64)
    for symbols in zip(*values, strict=True):
        at = tuple(n.index(x) for n, x in zip(names, symbols, strict=True))
        table[at] += 1 / len(tosses)
    # Binary symmetric channels of X1, X2 and Y
    for axis, p in enumerate(system.flips):
        table = (1 - p) * table + p * table.flip(axis)
    return table


def atoms_of(name: str) -> Atoms:
    """Return the true decomposition of a gate, bits, from its closed form.

    Args:
        name: one of ``GATES``.

    Returns:
        ``Atoms`` without axes; ``gap`` is 0.

    Raises:
        ValueError: no such gate.

    Example:
        >>> atoms_of("AND")
        Atoms(R=0.311 U_vision=0.000 U_language=0.000 S=0.500 bits)
    """
    redundancy, vision, language, synergy = _known(name).atoms
    union = redundancy + vision + language
    return known_atoms(union + synergy, redundancy + vision, redundancy + language, union)


def posteriors_of(
    joint: Float64[Tensor, "n1 n2 answers"], n: int, seed: int | None = None
) -> Float64[Tensor, "layers conditions n answers"]:
    """Compute the exact posteriors of a joint distribution at n samples, as one layer of reads.

    Args:
        joint: probabilities p(x1, x2, y).
        n: number of samples.
        seed: draws (x1, x2) independently; without it each pair comes n p(x1, x2) times, up to
            rounding, so that reads of a gate have the gate's own atoms.

    Returns:
        Log-probabilities [1, 3, n, answers] given both, vision, language: what a perfect model
        answers. Impossible answers have probability 1e-30 and not 0, as an answer of
        log-probability -inf would count as absent.

    Example:
        >>> from pid_lens.truth import gate
        >>> posteriors_of(gate("AND"), 4)[0, 0].exp().round()
        tensor([[1., 0.],
                [1., 0.],
                [1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    # Samples of p(x1, x2): rounded quantiles without a seed, independent with one
    pairs = joint.sum(-1)
    if seed is None:
        ends = (pairs.flatten().cumsum(0) * n).round().long()
        flat = torch.repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
    else:
        generator = torch.Generator().manual_seed(seed)
        flat = torch.multinomial(pairs.flatten(), n, replacement=True, generator=generator)
    x1, x2 = flat // joint.shape[1], flat % joint.shape[1]
    # p(y | x1, x2), p(y | x1), p(y | x2) from sums of the table
    full, vision, language = joint[x1, x2], joint.sum(1)[x1], joint.sum(0)[x2]
    posteriors = torch.stack([full, vision, language])
    posteriors = posteriors / posteriors.sum(-1, keepdim=True)
    return posteriors.clamp_min(LEAST_PROBABILITY).log()[None]


def _known(name: str) -> _Gate:
    if name not in _GATES:
        raise ValueError(f"no gate is called {name!r}; there are {', '.join(GATES)}")
    return _GATES[name]
