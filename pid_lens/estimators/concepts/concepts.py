"""Concepts: how much states tell about what is in the image, in all and beyond the question."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from pid_lens.atoms import NATS, Unit
from pid_lens.curves import Curve
from pid_lens.estimators.concepts.bottleneck import (
    BottleneckRecipe,
    Constants,
    held_out,
    recipe_of,
)
from pid_lens.estimators.concepts.inputs import Inputs, Labels, grouped, inputs

MOST_SHORTFALL = 0.05
"""Bits that estimated marginals may take off a bound without a warning."""
LEAST = 1e-300
NAMES = {
    "unconditional": "I(concepts; state), at least",
    "conditional": "I(concepts; state | question), at least",
    "gain": "visual information gain",
    "available": "KL(target || marginal)",
    "paper_unconditional": "KL(target || output), as published",
    "paper_conditional": "KL(target || output) within groups, as published",
    "paper_gain": "visual information gain, as published",
}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ConceptInformation:
    """What states tell about concepts, at least, and the numbers that were published for it."""

    unconditional: Curve
    """A lower bound of I(concepts; state)."""
    conditional: Curve | None
    """A lower bound of I(concepts; state | group); None without groups."""
    gain: Curve | None
    """Visual information gain: unconditional minus conditional, paired."""
    available: Curve
    """E KL(target || marginal): what a state would tell from which targets could be read off."""
    paper: dict[str, Curve]
    """``paper_unconditional`` = mean KL(target || output): what the state *lacks*, at most;
    ``paper_conditional``, its mean within groups, averaged by their sizes; ``paper_gain``, their
    difference, which is 0 whatever the states are."""
    outputs: Float64[Tensor, "layers n concepts"]
    """Natural log of the probability that the unconditional bottleneck, which never saw the
    sample, gives each concept."""

    @property
    def curves(self) -> dict[str, Curve]:
        """All of them by name."""
        named = {
            "gain": self.gain,
            "unconditional": self.unconditional,
            "conditional": self.conditional,
            "available": self.available,
        }
        return {name: curve for name, curve in named.items() if curve is not None} | self.paper

    def __repr__(self) -> str:
        shown = ("unconditional", "conditional", "gain")
        values = [f"{k}={float(self.curves[k].value[-1]):.3f}" for k in shown if k in self.curves]
        one = self.unconditional
        return (
            f"ConceptInformation(layer {one.layers[-1]}: {' '.join(values)} of "
            f"{float(self.available.value[-1]):.3f} {one.unit}; n={one.n}, "
            f"{len(one.layers)} layers, {self.outputs.shape[-1]} concepts)"
        )


@torch.inference_mode(mode=False)
@torch.enable_grad()
def concept_information(
    hidden: Float[Tensor, "layers n width"] | np.ndarray,
    concepts: Tensor | np.ndarray,
    *,
    groups: Labels | None = None,
    clusters: Labels | None = None,
    shared: bool = False,
    constants: Constants | BottleneckRecipe = "default",
    seed: int = 0,
    unit: Unit = "bits",
    progress: bool = True,
    ids: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> ConceptInformation:
    r"""How much a state tells about concepts, through a bottleneck that names them.

    A sample's concept C is drawn from its target t: a detector's scores, made to sum to 1, or a
    label. A network maps its state h to a distribution q over concepts. With m the mean target,

    .. math::  I(C; h) \ge E \sum_c t_c \log \frac{q_c(h)}{m_c}
                   = E\,KL(t \| m) - E\,KL(t \| q),

    whatever the network, as long as it is asked about samples that it never saw: every sample is
    held out once. Given the question's group G, its own mean takes the place of m and the network
    is told G as well; that bounds I(C; h | G). The difference, I(C; h) - I(C; h | G) =
    I(C; G) - I(C; G | h), is the co-information of concepts, state and question:

    * above 0, what the state tells is in part what the question alone gives away;
    * below 0, the state tells more once the question is known. Where questions say nothing about
      the concepts, I(C; G) = 0, it cannot be above.

    A bound falls short by what the network did not learn and, on average, by (concepts - 1) / 2n
    nats at most because m is the mean of the samples at hand (a warning says so where that is
    over .05 bits; groups multiply it). So it may be a little below 0. The gain is a difference
    of two lower bounds, and bounds nothing. Standard errors are those of a mean over samples:
    they know nothing of other seeds.

    Measured on eleven systems of known information (those of the tests), n = 2000, five draws
    each: .88 (80 concepts) to 1.04 of the truth, at most 1.5 standard errors above it, and -.008
    to .000 bits where it is 0. Targets without a pattern need more samples: 40 scenes, each with
    80 scores that have nothing to do with those of the others, .72 at n = 3000. States of width
    4096 and 8 labels take 7 s a layer and bound on one thread at n = 2000.

    Source:
        Traceable and explainable multimodal large language models (COLM 2025),
        https://openreview.net/forum?id=pQm66IPmeE. Its numbers are ``paper``, with its constants
        under ``constants="paper", shared=True``; there too states are standardised, outputs begin
        at the mean target, and every sample is held out once.

    Args:
        hidden: states, [layers, n, width].
        concepts: scores of at least 0, [n, concepts]; or whole numbers from 0, [n].
        groups: the group of each sample's question, any labels (`question_groups`).
        clusters: samples that belong together, any labels: several questions on one image. A
            bottleneck that saw the image would remember its concepts, so they are held out
            together; errors count clusters.
        shared: one bottleneck for all layers, which finds only what can be read off the same
            way in each.
        constants: ``"default"``, ``"paper"`` or a `BottleneckRecipe` of your own.
        seed: of the folds, weights and batches.
        unit: ``"bits"`` or ``"nats"``.
        progress: whether to show a bar if it takes over 2 seconds.
        ids: one name a sample; its number by default.
        layers: one number a layer; its position by default.

    Raises:
        TypeError: not tensors or arrays.
        ValueError: other shapes, NaN, negative scores or labels, a sample without any score,
            fewer than two concepts, a group with fewer samples than folds.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> label = torch.arange(400) % 2
        >>> noise = torch.randn(1, 400, 3, generator=generator)
        >>> concept_information(noise + 9 * label[:, None], label)
        ConceptInformation(layer 0: unconditional=1.000 of 1.000 bits; n=400, 1 layers, 2 concepts)
    """
    recipe = recipe_of(constants)
    if unit not in NATS:
        raise ValueError(f"unit must be one of {tuple(NATS)}; got {unit!r}")
    given = inputs(hidden, concepts, clusters, recipe.folds, seed)
    n = len(given.targets)
    everyone = torch.zeros(n, dtype=torch.long)
    within = everyone if groups is None else grouped(groups, n, recipe.folds)
    _doubt(given.targets, within)
    ask = partial(_outputs, given, shared, recipe, seed, progress)
    outputs = ask(everyone)
    found = _unconditional(given.targets, outputs)
    if groups is not None:
        found |= _conditional(given.targets, ask(within), within, found)
    curve = partial(
        Curve,
        layers=tuple(range(len(outputs)) if layers is None else layers),
        ids=tuple(map(str, range(n) if ids is None else ids)),
        estimator="ConceptBottleneck",
        unit="nats",
        settings={"shared": shared, "seed": seed, **asdict(recipe), "widths": list(recipe.widths)},
        groups=given.clusters,
    )
    curves = {k: curve(name=NAMES[k], pointwise=x).to(unit) for k, x in found.items()}
    return ConceptInformation(
        unconditional=curves["unconditional"],
        conditional=curves.get("conditional"),
        gain=curves.get("gain"),
        available=curves["available"],
        paper={k: one for k, one in curves.items() if k.startswith("paper")},
        outputs=outputs,
    )


def _outputs(
    given: Inputs,
    shared: bool,
    recipe: BottleneckRecipe,
    seed: int,
    progress: bool,
    groups: Int64[Tensor, " n"],
) -> Float64[Tensor, "layers n concepts"]:
    """Log-probabilities of the concepts, by bottlenecks that did not see the sample."""
    from tqdm import tqdm

    parts = given.rows(groups, shared)
    shown = tqdm(parts, "bottlenecks", delay=2, leave=False, disable=not progress)
    found = torch.cat([held_out(rows, recipe, seed).cpu() for rows in shown])
    return found.unflatten(0, (len(given.states), -1))


# ---------------------------------------------------------------- what each sample adds, nats


def _unconditional(targets: Tensor, outputs: Tensor) -> dict[str, Float64[Tensor, "layers n"]]:
    told = _bound(targets, outputs, torch.zeros(len(targets), dtype=torch.long))
    lacked = (targets * (_log(targets) - outputs)).sum(-1)
    return {"unconditional": told, "available": told + lacked, "paper_unconditional": lacked}


def _conditional(
    targets: Tensor, outputs: Tensor, groups: Tensor, found: dict[str, Tensor]
) -> dict[str, Float64[Tensor, "layers n"]]:
    """Weighted by their sizes, the published means within groups are the mean over all."""
    conditional = _bound(targets, outputs, groups)
    published = found["paper_unconditional"]
    return {
        "conditional": conditional,
        "gain": found["unconditional"] - conditional,
        "paper_conditional": published,
        "paper_gain": found["paper_unconditional"] - published,
    }


def _bound(
    targets: Float64[Tensor, "n concepts"],
    outputs: Float64[Tensor, "layers n concepts"],
    groups: Int64[Tensor, " n"],
) -> Float64[Tensor, "layers n"]:
    """The mean target of a sample's group is its marginal."""
    return (targets * (outputs - _log(_means(targets, groups))[groups])).sum(-1)


def _means(values: Tensor, groups: Tensor) -> Float64[Tensor, "groups concepts"]:
    sizes = groups.bincount()
    sums = values.new_zeros(len(sizes), values.shape[1]).index_add_(0, groups, values)
    return sums / sizes[:, None]


def _doubt(targets: Tensor, groups: Tensor) -> None:
    """Warns where the means are so uncertain that a bound is well below what it should be.

    On average it loses KL(mean || true mean), to second order the sum over groups and concepts
    of variance / (2 n mean).
    """
    n, means = len(targets), _means(targets, groups)
    variances = _means((targets - means[groups]).square(), groups)
    lost = float((variances / means.clamp_min(LEAST)).sum()) / (2 * n * NATS["bits"])
    if lost > MOST_SHORTFALL:
        warnings.warn(
            f"the mean concepts of {n} samples in {len(means)} groups are so uncertain that the "
            f"information is underestimated by about {lost:.2f} bits: more samples, fewer "
            "concepts, or fewer groups",
            stacklevel=5,
        )


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(LEAST).log()
