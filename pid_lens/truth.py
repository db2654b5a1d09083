"""Distributions whose decomposition is known in closed form, to test with and to teach with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.reads import Reads
from pid_lens.spectra import Atoms

_LEAST = 1e-30


@dataclass(frozen=True)
class _Gate:
    """Bits that are tossed, what either source and the answer see of them, and the atoms."""

    bits: int
    vision: Callable[[tuple[int, ...]], object]
    language: Callable[[tuple[int, ...]], object]
    answer: Callable[[tuple[int, ...]], object]
    atoms: tuple[float, float, float, float]
    flips: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """How often what vision, language and the answer show is flipped."""


def _h(p: float) -> float:
    """Entropy of a coin, bits."""
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
    """The joint distribution p(x1, x2, y) of a named system of fair bits.

    AND, OR, XOR, SUM, COPY (y = (x1, x2)) and UNQ (y = x1) take two independent bits; RDN is
    one bit that all see. RDNXOR: x1 = (r, a), x2 = (r, b), y = (r, a xor b). RDNUNQXOR:
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
    seen = [[f(z) for z in tosses] for f in (system.vision, system.language, system.answer)]
    names = [sorted(set(values), key=repr) for values in seen]
    table = torch.zeros([len(n) for n in names], dtype=torch.float64)
    for symbols in zip(*seen, strict=True):
        at = tuple(n.index(x) for n, x in zip(names, symbols, strict=True))
        table[at] += 1 / len(tosses)
    for axis, p in enumerate(system.flips):
        table = (1 - p) * table + p * table.flip(axis)
    return table


def atoms_of(name: str) -> Atoms:
    """The true decomposition of a gate, bits, from its closed form.

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
    return _atoms(union + synergy, redundancy + vision, redundancy + language, union)


def posteriors_of(
    joint: Float64[Tensor, "n1 n2 answers"], n: int, seed: int | None = None
) -> Float64[Tensor, "layers conditions n answers"]:
    """What a perfect model of a joint distribution answers to n samples, as one layer of reads.

    Args:
        joint: probabilities p(x1, x2, y).
        n: number of samples.
        seed: draws (x1, x2) independently; without it each pair comes n p(x1, x2) times, up to
            rounding, so that reads of a gate have the gate's own atoms.

    Returns:
        Log-probabilities [1, 3, n, answers] given both, vision, language. What cannot be is
        given 1e-30 and not 0, as an answer of log-probability -inf would count as absent.

    Example:
        >>> posteriors_of(gate("AND"), 4)[0, 0].exp().round()
        tensor([[1., 0.],
                [1., 0.],
                [1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    pairs = joint.sum(-1)
    if seed is None:
        ends = (pairs.flatten().cumsum(0) * n).round().long()
        flat = torch.repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
    else:
        generator = torch.Generator().manual_seed(seed)
        flat = torch.multinomial(pairs.flatten(), n, replacement=True, generator=generator)
    x1, x2 = flat // joint.shape[1], flat % joint.shape[1]
    full, vision, language = joint[x1, x2], joint.sum(1)[x1], joint.sum(0)[x2]
    posteriors = torch.stack([full, vision, language])
    posteriors = posteriors / posteriors.sum(-1, keepdim=True)
    return posteriors.clamp_min(_LEAST).log()[None]


def _known(name: str) -> _Gate:
    if name not in _GATES:
        raise ValueError(f"no gate is called {name!r}; there are {', '.join(GATES)}")
    return _GATES[name]


# ---------------------------------------------------------------- Gaussian systems


@dataclass(frozen=True, eq=False)
class GaussianSystem:
    """A Gaussian Y with two sources, and what its decomposition is."""

    covariance: Float64[Tensor, "d d"]
    """Blocks in the order Y, X1, X2."""
    sizes: tuple[int, int, int]
    """Dimensions of Y, X1, X2."""
    atoms: Atoms
    """In bits, from a closed form of the system's own."""

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Y, X1, X2 of n independent samples, [n, width] each."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, sum(self.sizes), generator=generator, dtype=torch.float64)
        y, x1, x2 = (noise @ torch.linalg.cholesky(self.covariance).mT).split(self.sizes, -1)
        return y, x1, x2


_PAIRS = {
    "scalar_unequal": (2.0, 0.7, 0.2),
    "scalar_negative_noise": (1.0, 1.0, -0.6),
    "scalar_redundant_noise": (1.0, 1.0, 0.9),
}
"""Gains of both sources and the correlation of their noises."""
GAUSSIANS = tuple(_PAIRS)
"""The names that `gaussian_system` knows."""


def gaussian_system(which: str | float) -> GaussianSystem:
    """A Gaussian system with known atoms, by name or, a number, by gain.

    Of gain g: Y = (Y1, Y2) of unit variance, X1 = (Y1 + a, g Y2 + b), X2 = (sqrt 2 Y1 + c,
    Y2 + d), all noises independent of unit variance. Y1 and Y2 are separate, X2 is the better
    look at Y1, and which is the better at Y2 depends on g. By name: Y + noise of unit variance
    in both sources, with gains and a correlation of the noises: ``scalar_unequal`` 2, .7, .2;
    ``scalar_negative_noise`` 1, 1, -.6; ``scalar_redundant_noise`` 1, 1, .9.

    Raises:
        ValueError: no such system.

    Source:
        Gaussian partial information decomposition: bias correction and application to
        high-dimensional data (Venkatesh et al., 2023), example 10,
        https://arxiv.org/abs/2307.10515

    Example:
        >>> gaussian_system(2).atoms
        Atoms(R=1.000 U_vision=0.661 U_language=0.292 S=0.339 bits)
    """
    if isinstance(which, str) and which not in _PAIRS:
        raise ValueError(
            f"no Gaussian system is called {which!r}; there are {', '.join(GAUSSIANS)}, and any "
            "gain, a number"
        )
    return _pair(*_PAIRS[which]) if isinstance(which, str) else _gain(float(which))


def _pair(one: float, other: float, correlation: float) -> GaussianSystem:
    noise = torch.eye(2, dtype=torch.float64)
    noise[0, 1] = noise[1, 0] = correlation
    both = one**2 + other**2 - 2 * correlation * one * other
    i1, i2 = math.log2(1 + one**2) / 2, math.log2(1 + other**2) / 2
    i12 = math.log2(1 + both / (1 - correlation**2)) / 2
    gains = torch.tensor([[one], [other]], dtype=torch.float64)
    return GaussianSystem(_looked_at(gains, noise), (1, 1, 1), _atoms(i12, i1, i2, max(i1, i2)))


def _gain(g: float) -> GaussianSystem:
    gains = torch.tensor([[1, 0], [0, g], [2**0.5, 0], [0, 1]], dtype=torch.float64)
    noise = torch.eye(4, dtype=torch.float64)
    sharper = max(1 + g**2, 2.0)
    i12, i1, i2, union = (
        math.log2(precision) / 2
        for precision in (4 * (2 + g**2), 2 * (1 + g**2), 6.0, 3 * sharper)
    )
    return GaussianSystem(_looked_at(gains, noise), (2, 2, 2), _atoms(i12, i1, i2, union))


def _looked_at(gains: Float64[Tensor, "d dy"], noise: Float64[Tensor, "d d"]) -> Tensor:
    """Covariance of Y of unit covariance and X = gains Y + noise."""
    eye = torch.eye(gains.shape[1], dtype=gains.dtype)
    top, low = torch.cat([eye, gains.mT], 1), torch.cat([gains, gains @ gains.mT + noise], 1)
    return torch.cat([top, low])


def _atoms(*totals: float | Tensor) -> Atoms:
    """Atoms of I12, I1, I2 and the union, bits."""
    i12, i1, i2, union = (torch.as_tensor(x, dtype=torch.float64) for x in totals)
    return Atoms(
        information=i12,
        information_vision=i1,
        information_language=i2,
        union=union,
        gap=torch.zeros_like(union),
    )


# ---------------------------------------------------------------- layers


@dataclass(frozen=True)
class _Recipe:
    """How often vision, language, both of them, or only their combination show the answer.

    ``vision`` and ``language`` are two chances: that of an even answer and of an odd one.
    """

    both: float = 0.0
    vision: tuple[float, float] = (0.0, 0.0)
    language: tuple[float, float] = (0.0, 0.0)
    combined: float = 0.0


_RECIPES = {
    "nothing": _Recipe(),
    "redundant": _Recipe(both=0.9),
    "vision": _Recipe(vision=(0.9, 0.9)),
    "language": _Recipe(both=0.2, language=(0.7, 0.7)),
    "synergy": _Recipe(combined=0.9),
    "equal": _Recipe(both=0.2, vision=(0.35, 0.35), language=(0.35, 0.35)),
    "mixed": _Recipe(both=0.2, vision=(0.5, 0.1), language=(0.1, 0.4), combined=0.2),
}
LAYERS = tuple(_RECIPES)
"""What a layer of `layered_reads` can be."""


@dataclass(frozen=True, eq=False)
class LayeredReads:
    """Reads of a perfect model of known distributions, and their atoms."""

    reads: Reads
    joints: Float64[Tensor, "layers n1 n2 answers"]
    """p(x1, x2, y) that the samples were drawn from."""
    atoms: Atoms
    """The decomposition of ``joints``, [layers], bits: what an estimate should come to."""


def layered_reads(
    n: int,
    answers: int = 2,
    *,
    layers: Sequence[str] = LAYERS,
    seed: int = 0,
    strength: float = 1.0,
    noise: float = 0.1,
) -> LayeredReads:
    """Reads of n independent samples whose population's atoms are known, layer by layer.

    In each sample a hidden answer z, uniform, is shown to both sources, to vision, to language
    or to neither; a source that is not shown it has a random key instead. Neither's keys are
    independent, or differ by z, so that only both tell. The answer y is z, or with probability
    ``noise`` uniform. How likely each is, is the layer's recipe: ``nothing``, ``redundant``,
    ``vision``, ``language`` (with some redundancy), ``synergy``, ``equal`` (both see as much,
    of different samples: nothing is unique, a kink) or ``mixed`` (all four atoms above 0).

    Let a source see z with probability e1(z), e2(z). Keys do not tell of y alone, and
    couplings may hide what sources see in each other, so that the least information is that
    of one source which sees z with probability max(e1(z), e2(z)): a closed form, whose dual
    exists since sum_y p(y|z) p(y|z') / p(y|unseen) <= 1 for the z better seen by one source
    and the z' better seen by the other. Samples of different layers are independent.

    Args:
        n: number of samples.
        answers: number of options.
        layers: a recipe each.
        seed: of the samples.
        strength: factor in [0, 1] on every chance to see something; 0 is ``nothing``.
        noise: probability that the answer is tossed anew, in [0, 1].

    Returns:
        ``LayeredReads``; its reads have the labels of the last layer.

    Raises:
        ValueError: no such recipe; too few answers; strength or noise outside [0, 1].

    Example:
        >>> layered_reads(100, layers=["mixed"]).atoms.synergy
        tensor([0.1841], dtype=torch.float64)
    """
    unknown = [name for name in layers if name not in _RECIPES]
    if unknown or not layers:
        raise ValueError(f"layers are {', '.join(LAYERS)}; got {unknown or 'none'}")
    if answers < 2 or n < 1 or not 0 <= strength <= 1 or not 0 <= noise <= 1:
        raise ValueError(
            "at least 1 sample and 2 answers, strength and noise in [0, 1]; got "
            f"{n=}, {answers=}, {strength=}, {noise=}"
        )
    joints, atoms = _layers(tuple(layers), answers, strength, noise)
    log_p, labels = _drawn(joints, n, seed)
    return LayeredReads(Reads.from_posteriors(log_p, labels=labels), joints, atoms)


@lru_cache
def _layers(
    names: tuple[str, ...], answers: int, strength: float, noise: float
) -> tuple[Tensor, Atoms]:
    """The joints of some recipes and their atoms."""
    toss = torch.full((answers, answers), noise / answers, dtype=torch.float64)
    channel = toss + (1 - noise) * torch.eye(answers, dtype=torch.float64)
    joints, totals = [], []
    for name in names:
        joint, seen = _shown(_RECIPES[name], answers, strength)
        joints.append(joint @ channel)
        totals.append([_bits(p @ channel) for p in (joint.flatten(0, 1), *seen)])
    return torch.stack(joints), _atoms(*torch.stack([torch.stack(t) for t in totals]).unbind(1))


def _shown(recipe: _Recipe, answers: int, strength: float) -> tuple[Tensor, list[Tensor]]:
    """p(x1, x2, z), symbols being keys and then sights; and what is seen by 1, 2, the better."""
    odd = torch.arange(answers) % 2
    both = torch.full((answers,), recipe.both * strength, dtype=torch.float64)
    vision, language = (
        strength * torch.tensor(chances, dtype=torch.float64)[odd]
        for chances in (recipe.vision, recipe.language)
    )
    combined = strength * recipe.combined
    neither = 1 - both - vision - language - combined
    z, key = torch.arange(answers), torch.arange(answers)
    table = torch.zeros(2 * answers, 2 * answers, answers, dtype=torch.float64)
    table[answers + z, answers + z, z] = both
    table[answers + z, :answers, z] = (vision / answers)[:, None]
    table[:answers, answers + z, z] = (language / answers)[None]
    table[:answers, :answers] = neither / answers**2
    other = (key[:, None] + z) % answers
    table[key[:, None], other, z] += combined / answers
    sights = [both + vision, both + language, both + torch.maximum(vision, language)]
    return table / answers, [torch.cat([e.diag(), (1 - e)[None]]) / answers for e in sights]


def _bits(joint: Float64[Tensor, "n answers"]) -> Float64[Tensor, ""]:
    """I(X; Y) of a table."""
    apart = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.xlogy(joint, joint / apart.where(apart > 0, 1.0)).sum() / math.log(2)


def _drawn(joints: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Log-posteriors [layers, 3, n, answers] of n samples a layer; the last layer's answers."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.multinomial(joints.flatten(1), n, replacement=True, generator=generator)
    at, y = cells // joints.shape[3], cells % joints.shape[3]
    x1, x2, layer = at // joints.shape[2], at % joints.shape[2], torch.arange(len(at))[:, None]
    p = [joints[layer, x1, x2], joints.sum(2)[layer, x1], joints.sum(1)[layer, x2]]
    posteriors = torch.stack([q / q.sum(-1, keepdim=True) for q in p], 1)
    return posteriors.clamp_min(_LEAST).log(), y[-1]
