"""Held-out bounds of the information about concepts, their difference, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from pid_lens.estimators.concepts.bottleneck import answer_held_out
from pid_lens.estimators.concepts.bounds import information_bound, lacked_information, shortfall
from pid_lens.estimators.concepts.groups import exchange_within, group_rows
from pid_lens.estimators.concepts.inputs import Inputs, Labels, as_concept_inputs, as_names
from pid_lens.estimators.concepts.recipe import BottleneckConstants, BottleneckRecipe, recipe_of
from pid_lens.results import NATS, Curve, Unit, require_unit

MOST_SHORTFALL = 0.05
"""Bits that estimated marginals may take off a bound without a warning."""
ERRORS = 2
"""Standard errors that a gain must lie above its chance level to bring no warning."""
CURVE_NAMES = {
    "unconditional": "I(concepts; state), at least",
    "conditional": "I(concepts; state | question), at least",
    "gain": "visual information gain",
    "gain_by_chance": "visual information gain, groups exchanged at random",
    "gain_beyond_chance": "visual information gain beyond chance",
    "available": "KL(target || marginal)",
    "paper_unconditional": "KL(target || output), as published",
    "paper_conditional": "KL(target || output) within groups, as published",
    "paper_gain": "visual information gain, as published",
}


@dataclass(frozen=True)
class Settings:
    """Settings of a concept bottleneck, checked.

    Raises:
        ValueError: unknown constants or unit.
    """

    shared: bool
    constants: BottleneckConstants | BottleneckRecipe
    seed: int
    unit: Unit
    progress: bool

    def __post_init__(self) -> None:
        recipe_of(self.constants)
        require_unit(self.unit)

    @property
    def recipe(self) -> BottleneckRecipe:
        """The recipe that the constants name."""
        return recipe_of(self.constants)

    @property
    def record(self) -> dict[str, Any]:
        """The settings that a curve records."""
        recipe = {**asdict(self.recipe), "widths": list(self.recipe.widths)}
        return {"shared": self.shared, "seed": self.seed, **recipe}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ConceptInformation:
    """Lower bounds of the information of hidden states about concepts, one `Curve` each.

    Attributes:
        unconditional: lower bound of I(concepts; state).
        conditional: lower bound of I(concepts; state | group); None without groups, as are the
            gains.
        gain: visual information gain, unconditional minus conditional, paired; biased upward.
        gain_by_chance: the same with groups exchanged at random: about what the gain reads where
            the truth is 0.
        gain_beyond_chance: gain minus gain by chance, paired: evidence of a gain; as a size,
            cautious.
        available: E KL(target || marginal), the information of a state that determines the
            targets.
        paper: the published numbers: ``paper_unconditional``, mean KL(target || output), an upper
            bound of what the state *lacks*; ``paper_conditional``, its mean within groups,
            averaged by their sizes; ``paper_gain``, their difference, which is 0 for any states.
        outputs: natural log of the held-out probabilities of the concepts, by the unconditional
            bottleneck, [layers, n, concepts].

    Example:
        >>> import torch
        >>> from pid_lens.estimators import concept_information
        >>> concept = torch.arange(400) % 2
        >>> found = concept_information(9.0 * concept[None, :, None], concept)
        >>> round(float(found.unconditional.value[0]), 1), found.gain
        (1.0, None)
        >>> sorted(found.curves)
        ['available', 'paper_unconditional', 'unconditional']
    """

    unconditional: Curve
    conditional: Curve | None
    gain: Curve | None
    gain_by_chance: Curve | None
    gain_beyond_chance: Curve | None
    available: Curve
    paper: dict[str, Curve]
    outputs: Float64[Tensor, "layers n concepts"]

    @property
    def curves(self) -> dict[str, Curve]:
        """All curves that there are, by name."""
        named = {
            "gain": self.gain,
            "gain_by_chance": self.gain_by_chance,
            "gain_beyond_chance": self.gain_beyond_chance,
            "unconditional": self.unconditional,
            "conditional": self.conditional,
            "available": self.available,
        }
        return {name: curve for name, curve in named.items() if curve is not None} | self.paper

    def __repr__(self) -> str:
        shown = ("unconditional", "conditional", "gain", "gain_by_chance")
        values = [f"{k}={float(self.curves[k].value[-1]):.3f}" for k in shown if k in self.curves]
        one = self.unconditional
        return (
            f"ConceptInformation(layer {one.layers[-1]}: {' '.join(values)} of "
            f"{float(self.available.value[-1]):.3f} {one.unit}; n={one.n}, "
            f"{len(one.layers)} layers, {self.outputs.shape[-1]} concepts)"
        )


@torch.inference_mode(mode=False)
@torch.enable_grad()
def measure_concepts(
    settings: Settings,
    states: Any,
    concepts: Any,
    groups: Labels | None,
    clusters: Labels | None,
    ids: Sequence[str] | None,
    layers: Sequence[int] | None,
) -> tuple[ConceptInformation, list[str]]:
    """Compute what `concept_information` returns, and the texts of its warnings.

    Raises:
        TypeError, ValueError: as `concept_information`.
    """
    given = as_concept_inputs(states, concepts, clusters, settings.recipe.folds, settings.seed)
    names = as_names(ids, len(given.targets), "ids", str)
    numbers = as_names(layers, len(given.states), "layers", int)
    train = _Training(given, settings, numbers)
    # The unconditional bound is that of one group of all samples
    one_group = torch.zeros(len(names), dtype=torch.long)
    within = one_group
    if groups is not None:
        within = group_rows(groups, given, settings.recipe.fewest_folds)
    said = _say_uncertain(given, within)
    outputs = train(one_group)
    found = _unconditional_bounds(given.targets, outputs)
    if groups is not None:
        found |= _gains(found, given, within, train)
    curve = partial(
        Curve,
        layers=numbers,
        ids=names,
        estimator="ConceptBottleneck",
        unit="nats",
        settings=settings.record,
        groups=given.clusters,
    )
    curves = {
        k: curve(name=CURVE_NAMES[k], pointwise=x).to(settings.unit) for k, x in found.items()
    }
    result = _as_information(curves, outputs)
    return result, said + train.say_unfinished() + _say_by_chance(result)


def _as_information(
    curves: dict[str, Curve], outputs: Float64[Tensor, "layers n concepts"]
) -> ConceptInformation:
    """Build the result from curves by name; without groups some are missing."""
    return ConceptInformation(
        unconditional=curves["unconditional"],
        conditional=curves.get("conditional"),
        gain=curves.get("gain"),
        gain_by_chance=curves.get("gain_by_chance"),
        gain_beyond_chance=curves.get("gain_beyond_chance"),
        available=curves["available"],
        paper={name: one for name, one in curves.items() if name.startswith("paper")},
        outputs=outputs,
    )


class _Training:
    """Trains bottlenecks and records the layers whose training ran out of epochs."""

    def __init__(self, given: Inputs, settings: Settings, layers: Sequence[int]) -> None:
        self.given, self.settings, self.layers = given, settings, layers
        self.early = [False] * len(layers)

    def __call__(self, groups: Int64[Tensor, " n"]) -> Float64[Tensor, "layers n concepts"]:
        """Train bottlenecks given the groups; return their held-out log-probabilities."""
        from tqdm import tqdm

        one = self.settings
        parts = self.given.rows(groups, one.shared)
        shown = tqdm(parts, "bottlenecks", delay=2, leave=False, disable=not one.progress)
        answers = [answer_held_out(rows, one.recipe, one.seed) for rows in shown]
        early = [not answer.finished for answer in answers] * (len(self.layers) // len(parts))
        self.early = [a or b for a, b in zip(self.early, early, strict=True)]
        found = torch.cat([answer.log_probs.cpu() for answer in answers])
        return found.unflatten(0, (len(self.layers), -1))

    def say_unfinished(self) -> list[str]:
        """Compose the warning of layers whose training ran out of epochs, if any."""
        early = [layer for layer, of in zip(self.layers, self.early, strict=True) if of]
        said = (
            f"{_name_layers(early)}: bottlenecks were still getting better after "
            f"{self.settings.recipe.epochs} epochs, so the information is underestimated: raise "
            "epochs, BottleneckRecipe(epochs=...)"
        )
        return [said] if early else []


def _unconditional_bounds(
    targets: Tensor, outputs: Tensor
) -> dict[str, Float64[Tensor, "layers n"]]:
    # E sum_c t_c log(q_c / m_c) = E KL(t || m) - E KL(t || q), hence available = bound + lacking
    bound = information_bound(targets, outputs, torch.zeros(len(targets), dtype=torch.long))
    lacking = lacked_information(targets, outputs)
    return {"unconditional": bound, "available": bound + lacking, "paper_unconditional": lacking}


def _gains(
    found: dict[str, Tensor], given: Inputs, groups: Int64[Tensor, " n"], train: _Training
) -> dict[str, Float64[Tensor, "layers n"]]:
    """Compute the bound within groups, and the gains of these and of groups exchanged at random.

    Weighted by their sizes, the published means within groups are the mean over all samples.
    """
    # Permutation baseline: the same training given exchanged groups, which carry no information
    chance = exchange_within(groups, given, train.settings.seed)
    conditional, by_chance = (
        information_bound(given.targets, train(of), of) for of in (groups, chance)
    )
    # Paired differences, sample by sample; gain_beyond_chance = gain - gain_by_chance
    alone, published = found["unconditional"], found["paper_unconditional"]
    return {
        "conditional": conditional,
        "gain": alone - conditional,
        "gain_by_chance": alone - by_chance,
        "gain_beyond_chance": by_chance - conditional,
        "paper_conditional": published,
        "paper_gain": published - published,
    }


# ---------------------------------------------------------------- warnings


def _say_uncertain(given: Inputs, groups: Int64[Tensor, " n"]) -> list[str]:
    """Compose the warning that a bound is biased downward by uncertain mean targets, if it is."""
    n, count = len(groups), int(groups.max()) + 1
    clusters = torch.arange(n) if given.clusters is None else given.clusters
    lost = shortfall(given.targets, groups, clusters) / NATS["bits"]
    of = f"{n} samples" + f" ({int(clusters.max()) + 1} clusters)" * (given.clusters is not None)
    said = (
        f"the mean concepts of {of} in {count} groups are so uncertain that the information is "
        f"underestimated by about {lost:.2f} bits: more samples, fewer concepts, or fewer groups"
    )
    return [said] if lost > MOST_SHORTFALL else []


def _say_by_chance(result: ConceptInformation) -> list[str]:
    """Compose the warning of layers whose positive gain is not clearly beyond chance, if any."""
    gain, beyond = result.gain, result.gain_beyond_chance
    if gain is None or beyond is None:
        return []
    doubted = (gain.value > 0) & (beyond.value < ERRORS * beyond.error)
    said = (
        f"{_name_layers([gain.layers[at] for at in doubted.nonzero().flatten()])}: the gain is "
        f"positive, but within {ERRORS} errors of what groups exchanged at random give "
        "(gain_by_chance), so it is no evidence of one: take more samples or fewer groups"
    )
    return [said] if doubted.any() else []


def _name_layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
