"""Neural PID of samples by BATCH: couplings learned batch by batch, nothing certified."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens.estimators.batch.alignment import (
    Alignment,
    AlignmentRecipe,
    Tally,
    align_couplings,
    coupled_information,
    mean_information,
)
from pid_lens.estimators.batch.atoms import MOST_SHIFT, BatchAtoms
from pid_lens.estimators.batch.projection import LEAST_MASS
from pid_lens.estimators.batch.rows import (
    BatchRows,
    GivenRows,
    as_rows,
    require_same_widths,
    require_varying,
)
from pid_lens.estimators.common.entropy import NATS_PER_BIT
from pid_lens.results import Atoms, Unit, require_unit


def batch_pid(
    train: GivenRows,
    val: GivenRows | None = None,
    *,
    seed: int = 0,
    epochs: int = 8,
    batch_size: int = 256,
    hidden: int = 32,
    embed: int = 10,
    hidden_layers: int = 3,
    lr: float = 1e-3,
    steps: int = 500,
    atol: float = 0.01,
    unit: Unit = "bits",
    progress: bool = True,
) -> BatchAtoms:
    r"""Estimate PID by a coupling that two networks learn (BATCH), to reproduce published numbers.

    In each batch of n samples, with f1 and f2 the networks' embeddings for the answer y ::

        q(x1, x2, y) = p(y|x1) / n * q(x2 | x1, y),
        q(x2 | x1, y)  proportional to  the projection of exp(f1(x1) f2(x2) / sqrt(embed))
        union = sum of q log(q(y|x1,x2) / p(y)),    p(y) = mean of p(y|x1,x2) over train

    and Adam minimises the union through every round of Sinkhorn scaling (`project`). I1, I2 and
    I12 are means of KL(p(y|.) || p(y)) and have no part in training: the seed moves the union
    alone, so all four atoms by one amount. All is averaged over the full batches of ``val``.

    Weights and orders are drawn as the released estimator draws them, so that with one seed it
    gives that one's losses and atoms, batch by batch, to 2e-5. The gradient is that of the
    rounds themselves: with that of the projection's limit the synergy on noisy XOR is .5799
    (five seeds, sd .0001) and not .5781 (sd .0018).

    **Where it misleads.** It is kept for published numbers. For anything new use
    `posterior_pid`, which needs no features, no training and no batches and certifies its atoms.
    On 1024 and 512 samples of two Gaussian sources with four answers, exact synergy .185 bits:

    - A learned coupling is seldom the best. Where its marginals are right the union is too
      high, so redundancy and synergy are too low and both unique atoms too high, all by one
      amount: S = .061. Where projections do not converge it may be too low as well.
    - Five seeds differ by .016 (standard deviation), an eighth of that bias of .12: that seeds
      agree does not mean that they are right. 50 epochs give .167, 200 give .172.
    - S depends on the batch size: .144, .112, .050 and .010 for 64, 128, 256 and 512 (three
      seeds), where it is .178 to .186 exactly. A larger batch has more couplings to learn, in
      fewer steps. Only numbers of one batch size and one number of steps can be compared.
    - p(y|x1) and p(y|x2) of finitely many samples differ in their means: 12 % of the
      projections converged. What is coupled are then not the posteriors given, but vision's as
      they are and language's scaled to vision's answer masses.
    - p(y) is the mean of another predictor over other samples, so I1, I2 and I12 are not mutual
      informations of the batch, and the atoms are not a decomposition of one. An answer that is
      rare in training makes them larger than log2 of the number of answers (``shift``).

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
        hidden: width of the hidden layers.
        embed: width of an embedding, at least 2.
        hidden_layers: number of hidden layers after the first.
        lr: learning rate of Adam.
        steps: rounds of Sinkhorn scaling, at most.
        atol: largest error of a marginal at which a projection has converged.
        unit: of the result, ``"bits"`` or ``"nats"``.
        progress: whether to show a bar where training takes over two seconds.

    Returns:
        `BatchAtoms`, on the CPU.

    Warns:
        UserWarning: too few projections converged, a marginal is far off, answers that are
            evaluated are not those trained on, or a source is the same in all samples though
            the posterior given it is not.

    Raises:
        TypeError: not tensors or arrays.
        ValueError: shapes that do not fit, no samples, NaN, rows that are not probabilities,
            settings out of range, an unknown unit, or both sources the same in all samples.

    Example:
        >>> import torch
        >>> x1, x2 = torch.randint(2, (2, 256), generator=torch.Generator().manual_seed(0))
        >>> bit, coin = torch.eye(2), torch.full((256, 2), 0.5)
        >>> xor = (bit[x1], bit[x2], coin, coin, bit[x1 ^ x2])
        >>> found = batch_pid(xor, epochs=2, progress=False)
        >>> bool(found.synergy > 0.95), bool(abs(found.redundancy) < 0.05), found.converged
        (True, True, 1.0)
    """
    require_unit(unit)
    recipe = AlignmentRecipe(epochs, batch_size, hidden, embed, hidden_layers, lr, steps, atol)
    found = decompose_batches(train, val, recipe, seed, progress=progress).to(unit)
    if not found.sound:
        warnings.warn(convergence_complaint([found], atol), stacklevel=2)
    return found


def decompose_batches(
    train: GivenRows, val: GivenRows | None, recipe: AlignmentRecipe, seed: int, *, progress: bool
) -> BatchAtoms:
    """Compute what `batch_pid` returns, in bits, without its warning.

    Raises:
        TypeError, ValueError: as `batch_pid`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        fitted_on = as_rows("train", train)
        rows = fitted_on if val is None else as_rows("val", val)
        require_same_widths(fitted_on, rows)
        require_varying(fitted_on)
        # Prior p(y): mean posterior of the training samples
        prior = fitted_on.given_both.double().mean(0).clamp_min(LEAST_MASS)
        # Train the coupling, then evaluate it batch by batch
        alignment, loss, training = align_couplings(
            fitted_on, prior, recipe, seed, progress=progress
        )
        batches, tally = _evaluate(alignment, rows, prior)
    return BatchAtoms(
        **{name: value.mean() for name, value in vars(batches).items() if name != "unit"},
        batches=batches,
        loss=loss / NATS_PER_BIT,
        converged=_mean(tally.converged),
        converged_training=_mean(training.converged),
        steps=_mean(training.rounds + tally.rounds),
        violation=torch.stack(tally.violation),
        shift=float(_largest_shift(rows, recipe.batch_size, prior)) / NATS_PER_BIT,
        evaluated_on="training" if val is None else "validation",
    )


def convergence_complaint(found: list[BatchAtoms], atol: float) -> str:
    """Compose the warning about results that are not sound."""
    converged = sum(one.converged for one in found) / len(found)
    worst = max(one.worst_violation for one in found)
    shift = max(one.to("bits").shift for one in found)
    said = (
        f"{converged:.0%} of BATCH's projections met both marginals to {atol:g}, and at worst "
        f"they are off by {worst:.2g} per sample. Where p(y|x1) and p(y|x2) do not share one mean "
        "no coupling has both: use BROJA (posterior_pid), which reconciles them first and "
        "certifies its atoms"
    )
    further = (
        f". Informations are up to {shift:.2g} bits too high, as answers are rarer where it was "
        "trained than where it is evaluated: more samples, or validation=None (val=None)"
    )
    return said + further * (shift > MOST_SHIFT)


@torch.no_grad()
def _evaluate(
    alignment: Alignment, rows: BatchRows, prior: Float64[Tensor, " answers"]
) -> tuple[Atoms, Tally]:
    """Compute the atoms of each batch, and the tally of its projections."""
    tally, totals = Tally(), []
    for batch in rows.batches(alignment.recipe.batch_size, torch.arange(rows.n)):
        projection = alignment(batch)
        tally.add(projection)
        # Mean KL(p(y|.) || p(y)) given both, vision, language; union of the coupling
        given = (batch.given_both, batch.given_vision, batch.given_language)
        union = coupled_information(projection, batch, prior)
        totals.append(torch.stack([*(mean_information(p, prior) for p in given), union]))
    both, vision, language, union = (torch.stack(totals, 1) / NATS_PER_BIT).cpu()
    atoms = Atoms(
        information=both,
        information_vision=vision,
        information_language=language,
        union=union,
        gap=torch.full_like(union, torch.nan),
    )
    return atoms, tally


def _largest_shift(
    rows: BatchRows, size: int, prior: Float64[Tensor, " answers"]
) -> Float64[Tensor, ""]:
    """Compute the largest KL(mean of p(y|x1,x2) || prior) of all batches, nats."""
    batches = rows.batches(size, torch.arange(rows.n))
    means = torch.stack([batch.given_both.double().mean(0) for batch in batches])
    return (torch.xlogy(means, means) - means * prior.log()).sum(-1).max()


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).double().mean())
