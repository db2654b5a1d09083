"""The neural estimator of published numbers: couplings learned batch by batch, nothing proved."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.atoms import ATOMS, NATS, Atoms, Unit
from pid_lens.estimators.batch.alignment import (
    Alignment,
    AlignmentRecipe,
    Tally,
    align,
    coupled_information,
    informed,
)
from pid_lens.estimators.batch.projection import LEAST
from pid_lens.estimators.batch.rows import Given, Rows, checked, refuse_other_kind
from pid_lens.estimators.measures import NATS_PER_BIT

ENOUGH = 0.9
"""Below this share of converged projections numbers are not to be relied on."""
MOST_VIOLATION = 0.05
"""Nor are they where marginals are off by more than this, summed over answers, a sample."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class BatchAtoms(Atoms):
    """Means over batches, scalars; ``gap`` is 0, as nothing is certified."""

    batches: Atoms
    """Each evaluated batch, [batches]."""
    loss: Float64[Tensor, " epochs"]
    """Unique language in the last training batch of each epoch, which is what is minimised."""
    converged: float
    """Share of the evaluated projections that met both marginals; one an answer and batch."""
    converged_training: float
    """The same while training."""
    steps: float
    """Mean rounds a projection took, trained and evaluated."""
    violation: Float64[Tensor, "batches 4"]
    """Largest error of vision's marginal and the sum of its errors over n, the same of
    language's. Errors are of p(y|x), so that 1 is a row without any mass."""
    evaluated_on: str
    """``"validation"`` rows, or the ``"training"`` rows themselves."""

    @property
    def clipped(self) -> dict[str, float]:
        """What the released script prints: max(0, atom). The four need not add up."""
        return {name: max(0.0, float(getattr(self, name))) for name in ATOMS}

    @property
    def worst_violation(self) -> float:
        """How far the worst marginal of the worst batch is off, summed over answers, a sample."""
        return float(self.violation[:, [1, 3]].max())

    @property
    def sound(self) -> bool:
        """Whether nine in ten projections converged and no batch's marginals are off by .05."""
        return self.converged >= ENOUGH and self.worst_violation <= MOST_VIOLATION

    def to(self, unit: Unit) -> Self:
        """The same in another unit, ``"bits"`` or ``"nats"``.

        Raises:
            ValueError: an unknown unit.
        """
        whole, batches = super().to(unit), self.batches.to(unit)
        return replace(whole, batches=batches, loss=self.loss * NATS[self.unit] / NATS[unit])

    def __repr__(self) -> str:
        return (
            f"BatchAtoms({self._line(())} {self.unit}; {len(self.violation)} batches, "
            f"{self.converged:.0%} of projections converged)"
        )


def batch_pid(
    train: Given,
    val: Given | None = None,
    *,
    seed: int = 0,
    epochs: int = 8,
    batch_size: int = 256,
    hidden: int = 32,
    embed: int = 10,
    layers: int = 3,
    lr: float = 1e-3,
    steps: int = 500,
    atol: float = 0.01,
    unit: Unit = "bits",
    progress: bool = True,
) -> BatchAtoms:
    r"""BATCH: the decomposition by a coupling that two networks learn; for published numbers.

    In each batch of n samples, with f1 and f2 the networks' embeddings for the answer y ::

        q(x1, x2, y) = p(y|x1) / n * q(x2 | x1, y),
        q(x2 | x1, y)  proportional to  the projection of exp(f1(x1) f2(x2) / sqrt(embed))
        union = sum of q log(q(y|x1,x2) / p(y)),    p(y) = mean of p(y|x1,x2) over train

    and Adam minimises the union through every round of the projection (`project`). I1, I2 and
    I12 are means of KL(p(y|.) || p(y)) and have no part in training: the seed moves the union
    alone, so all four atoms by one amount. All is averaged over the full batches of ``val``.

    Weights and orders are drawn as the released estimator draws them, so that with one seed it
    gives that one's losses and atoms, batch by batch, to 2e-5. The gradient is that of the
    rounds themselves: with that of the projection's limit the synergy on noisy XOR is .5799
    (five seeds, sd .0001) and not .5781 (sd .0018).

    **Where it misleads.** It is kept for published numbers. For anything new use
    `posterior_pid`, which needs no features, no training and no batches and certifies its atoms.
    On 1024 and 512 samples of two Gaussian sources with four answers, exact synergy .185 bits:

    - A learned coupling is seldom the best. The union is too high, so redundancy and synergy
      are too low and both unique atoms too high, all by one amount: S = .061.
    - Five seeds differ by .016 (standard deviation), an eighth of that bias of .12. That seeds
      agree says nothing of how right they are. 50 epochs give .167, 200 give .172.
    - S depends on the batch size: .144, .112, .050 and .010 for 64, 128, 256 and 512 (three
      seeds), where it is .178 to .186 exactly. A larger batch has more couplings to learn, in
      fewer steps. Only numbers of one batch size and one number of steps can be compared.
    - p(y|x1) and p(y|x2) of finitely many samples differ in their means: 12 % of the
      projections converged. What is coupled are then not the posteriors given, but vision's as
      they are and language's scaled to vision's answer masses.
    - p(y) is the mean of another predictor over other samples, so I1, I2 and I12 are no mutual
      informations of the batch, and the atoms no decomposition of one.

    Source:
        Quantifying & modeling multimodal interactions: an information decomposition framework
        (Liang et al., 2023), https://arxiv.org/abs/2302.12247; its use on vision-language
        models: A comprehensive information-decomposition analysis of large vision-language
        models (ICLR 2026), https://openreview.net/forum?id=6WsBGk4Iag

    Args:
        train: x1 [n, d1], x2 [n, d2], p(y|x1), p(y|x2), p(y|x1,x2) [n, answers]: features of
            vision and language, and probabilities, which are normalised if off by rounding.
        val: the same of other samples; by default the training rows are evaluated themselves.
        seed: of weights and orders. No other random state is read or changed.
        epochs: passes over ``train``.
        batch_size: samples in a batch. An incomplete last batch is dropped, of both; fewer
            samples than one batch are one batch. ``val`` is cut in the order given.
        hidden: width of the networks.
        embed: width of an embedding, at least 2.
        layers: hidden layers after the first.
        lr: learning rate of Adam.
        steps: most rounds of a projection.
        atol: largest error of a marginal at which a projection has converged.
        unit: of what comes back, ``"bits"`` or ``"nats"``.
        progress: whether to show a bar where training takes over two seconds.

    Returns:
        ``BatchAtoms``, on the CPU.

    Warns:
        UserWarning: too few projections converged, or a marginal is far off.

    Raises:
        TypeError: not tensors or arrays.
        ValueError: shapes that do not fit, no samples, NaN, rows that are no probabilities,
            settings out of range.

    Example:
        >>> x1, x2 = torch.randint(2, (2, 256), generator=torch.Generator().manual_seed(0))
        >>> see, toss = torch.eye(2), torch.full((256, 2), 0.5)
        >>> xor = (see[x1], see[x2], toss, toss, see[x1 ^ x2])
        >>> batch_pid(xor, epochs=2, progress=False)
        BatchAtoms(R=0.00... S=0.99... bits; 1 batches, 100% of projections converged)
    """
    recipe = AlignmentRecipe(epochs, batch_size, hidden, embed, layers, lr, steps, atol)
    found = decomposed(train, val, recipe, seed, progress=progress).to(unit)
    if not found.sound:
        warnings.warn(complaint([found], atol), stacklevel=2)
    return found


def decomposed(
    train: Given, val: Given | None, recipe: AlignmentRecipe, seed: int, *, progress: bool
) -> BatchAtoms:
    """What `batch_pid` returns, in bits, without its warning."""
    with torch.inference_mode(False), torch.enable_grad():
        fitted_on = checked("train", train)
        rows = fitted_on if val is None else checked("val", val)
        refuse_other_kind(fitted_on, rows)
        prior = fitted_on.given_both.double().mean(0).clamp_min(LEAST)
        alignment, loss, training = align(fitted_on, prior, recipe, seed, progress=progress)
        batches, tally = _evaluated(alignment, rows, prior)
    return BatchAtoms(
        **{name: value.mean() for name, value in vars(batches).items() if name != "unit"},
        batches=batches,
        loss=loss / NATS_PER_BIT,
        converged=_mean(tally.converged),
        converged_training=_mean(training.converged),
        steps=_mean(training.rounds + tally.rounds),
        violation=torch.stack(tally.violation),
        evaluated_on="training" if val is None else "validation",
    )


def complaint(found: list[BatchAtoms], atol: float) -> str:
    """What to say of results that are not sound."""
    converged = sum(one.converged for one in found) / len(found)
    worst = max(one.worst_violation for one in found)
    return (
        f"{converged:.0%} of BATCH's projections met both marginals to {atol:g}, and at worst "
        f"they are off by {worst:.2g} a sample. Where p(y|x1) and p(y|x2) do not share one mean "
        "no coupling has both: use BROJA (posterior_pid), which reconciles them first and "
        "certifies its atoms"
    )


@torch.no_grad()
def _evaluated(
    alignment: Alignment, rows: Rows, prior: Float64[Tensor, " answers"]
) -> tuple[Atoms, Tally]:
    """The atoms of each batch, and how its projections went."""
    tally, totals = Tally(), []
    for batch in rows.batches(alignment.recipe.batch_size, torch.arange(rows.n)):
        projection = alignment(batch)
        tally.add(projection)
        given = (batch.given_both, batch.given_vision, batch.given_language)
        union = coupled_information(projection, batch, prior)
        totals.append(torch.stack([*(informed(p, prior) for p in given), union]))
    both, vision, language, union = (torch.stack(totals, 1) / NATS_PER_BIT).cpu()
    atoms = Atoms(
        information=both,
        information_vision=vision,
        information_language=language,
        union=union,
        gap=torch.zeros_like(union),
    )
    return atoms, tally


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).double().mean())
