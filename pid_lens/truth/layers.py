"""Layers: reads of a perfect model of known distributions."""

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
    reads = Reads.from_posteriors(log_p, labels=labels)
    return LayeredReads(reads, joints.clone(), deepcopy(atoms))


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
    return torch.stack(joints), known_atoms(
        *torch.stack([torch.stack(t) for t in totals]).unbind(1)
    )


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
    return posteriors.clamp_min(LEAST_PROBABILITY).log(), y[-1]
