"""Layered ground truth: exact posteriors of known joint distributions, as reads of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.reads import Reads
from pid_lens.results import Atoms
from pid_lens.truth.known import LEAST_PROBABILITY, known_atoms


@dataclass(frozen=True)
class _Recipe:
    """Probabilities that both sources, one of them, or only their combination reveal the answer.

    ``vision`` and ``language`` are two probabilities: that of an even answer and of an odd one.
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
"""Names of the recipes that a layer of `layered_reads` can have."""


@dataclass(frozen=True, eq=False)
class LayeredReads:
    """Reads of a perfect model of known joint distributions, and their true atoms.

    Attributes:
        reads: exact posteriors of the samples, with labels.
        joints: p(x1, x2, y) that the samples were drawn from, [layers, n1, n2, answers].
        atoms: the decomposition of ``joints``, [layers], bits: what an estimate should come to.

    Example:
        >>> from pid_lens.truth import layered_reads
        >>> made = layered_reads(100, layers=["nothing", "redundant"])
        >>> made.joints.shape, made.reads.n
        (torch.Size([2, 4, 4, 2]), 100)
        >>> made.atoms.redundancy.round(decimals=4)
        tensor([0.0000, 0.6422], dtype=torch.float64)
    """

    reads: Reads
    joints: Float64[Tensor, "layers n1 n2 answers"]
    atoms: Atoms


def layered_reads(
    n: int,
    answers: int = 2,
    *,
    layers: Sequence[str] = LAYERS,
    seed: int = 0,
    strength: float = 1.0,
    noise: float = 0.1,
) -> LayeredReads:
    """Draw reads of n independent samples from distributions of known atoms, one per layer.

    In each sample a latent answer z, uniform, is revealed to both sources, to vision, to language
    or to neither; a source to which it is not revealed has a random key instead. If to neither,
    the two keys are independent, or differ by z, so that only both together determine it. The
    answer y is z, or with probability ``noise`` uniform. The probabilities of these cases are the
    layer's recipe: ``nothing``, ``redundant``, ``vision``, ``language`` (with some redundancy),
    ``synergy``, ``equal`` (revealed to either equally often, in different samples: nothing is
    unique, a kink) or ``mixed`` (all four atoms above 0).

    Let z be revealed to the sources with probabilities e1(z), e2(z). One key alone is independent
    of y, so that a source is an erasure channel of z; a coupling with the same marginals (X1, Y)
    and (X2, Y) can nest what the two sources reveal. So the union information, the least over
    couplings, is that of one source to which z is revealed with probability max(e1(z), e2(z)): a
    closed form. Its dual certificate exists since sum_y p(y|z) p(y|z') / p(y|not revealed) <= 1
    for the z revealed more often to one source and the z' revealed more often to the other.
    Samples of different layers are independent.

    Args:
        n: number of samples.
        answers: number of options.
        layers: names of recipes in `LAYERS`, one per layer.
        seed: of the samples.
        strength: factor in [0, 1] on every probability of revealing z; 0 is ``nothing``.
        noise: probability that y is drawn anew, uniformly, in [0, 1].

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
    log_p, labels = _draw_samples(joints, n, seed)
    reads = Reads.from_posteriors(log_p, labels=labels)
    return LayeredReads(reads, joints.clone(), deepcopy(atoms))


@lru_cache
def _layers(
    names: tuple[str, ...], answers: int, strength: float, noise: float
) -> tuple[Tensor, Atoms]:
    """Tabulate the joint distributions of some recipes and compute their atoms."""
    # Channel p(y | z): y = z, or uniform with probability noise
    toss = torch.full((answers, answers), noise / answers, dtype=torch.float64)
    channel = toss + (1 - noise) * torch.eye(answers, dtype=torch.float64)
    joints, totals = [], []
    for name in names:
        joint, erasures = _reveal(_RECIPES[name], answers, strength)
        joints.append(joint @ channel)
        # I12 of the joint; I1, I2 and the union information of erasure channels
        totals.append([_bits(p @ channel) for p in (joint.flatten(0, 1), *erasures)])
    return torch.stack(joints), known_atoms(
        *torch.stack([torch.stack(t) for t in totals]).unbind(1)
    )


def _reveal(recipe: _Recipe, answers: int, strength: float) -> tuple[Tensor, list[Tensor]]:
    """Tabulate p(x1, x2, z), symbols being keys and then z; and the erasure channels of z.

    The channels, [answers + 1, answers] joint with z, are those of vision, of language and of the
    better of both, answer by answer.
    """
    odd = torch.arange(answers) % 2
    both = torch.full((answers,), recipe.both * strength, dtype=torch.float64)
    vision, language = (
        strength * torch.tensor(chances, dtype=torch.float64)[odd]
        for chances in (recipe.vision, recipe.language)
    )
    combined = strength * recipe.combined
    neither = 1 - both - vision - language - combined
    # Table: z revealed to both, to one (the other has a key of 1 / answers), or to neither
    z, key = torch.arange(answers), torch.arange(answers)
    table = torch.zeros(2 * answers, 2 * answers, answers, dtype=torch.float64)
    table[answers + z, answers + z, z] = both
    table[answers + z, :answers, z] = (vision / answers)[:, None]
    table[:answers, answers + z, z] = (language / answers)[None]
    table[:answers, :answers] = neither / answers**2
    # Synergy: keys that differ by z
    other = (key[:, None] + z) % answers
    table[key[:, None], other, z] += combined / answers
    # e1(z), e2(z), max(e1(z), e2(z)); an erasure has probability 1 - e(z)
    revealed = [both + vision, both + language, both + torch.maximum(vision, language)]
    return table / answers, [torch.cat([e.diag(), (1 - e)[None]]) / answers for e in revealed]


def _bits(joint: Float64[Tensor, "n answers"]) -> Float64[Tensor, ""]:
    """Compute I(X; Y) of a joint table, bits."""
    apart = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return torch.xlogy(joint, joint / apart.where(apart > 0, 1.0)).sum() / math.log(2)


def _draw_samples(joints: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw n samples per layer: log-posteriors [layers, 3, n, answers], last layer's answers."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.multinomial(joints.flatten(1), n, replacement=True, generator=generator)
    at, y = cells // joints.shape[3], cells % joints.shape[3]
    x1, x2, layer = at // joints.shape[2], at % joints.shape[2], torch.arange(len(at))[:, None]
    # p(y | x1, x2), p(y | x1), p(y | x2) by normalising slices of the joint
    p = [joints[layer, x1, x2], joints.sum(2)[layer, x1], joints.sum(1)[layer, x2]]
    posteriors = torch.stack([q / q.sum(-1, keepdim=True) for q in p], 1)
    return posteriors.clamp_min(LEAST_PROBABILITY).log(), y[-1]
