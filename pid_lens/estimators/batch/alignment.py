"""Alignment networks of BATCH: a coupling of two sources' samples, learned through Sinkhorn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral

import torch
from einops import einsum
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from pid_lens.estimators.batch.projection import LEAST_MASS, Projection, project
from pid_lens.estimators.batch.rows import BatchRows
from pid_lens.estimators.common.networks import linear_layer

_FLAT = 1e-8
"""Added to the variance of an embedding, so that a constant one is not divided by 0."""


@dataclass(frozen=True)
class AlignmentRecipe:
    """Architecture, training and projection of the networks; defaults are the released values.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples in a batch.
        hidden: width of the hidden layers.
        embed: width of an embedding, at least 2.
        hidden_layers: number of hidden layers after the first.
        lr: learning rate of Adam.
        steps: rounds of Sinkhorn scaling, at most.
        atol: largest error of a marginal at which a projection has converged.

    Raises:
        ValueError: a number that is out of range, or not whole where it must be.
    """

    epochs: int = 8
    batch_size: int = 256
    hidden: int = 32
    embed: int = 10
    hidden_layers: int = 3
    lr: float = 1e-3
    steps: int = 500
    atol: float = 0.01

    def __post_init__(self) -> None:
        least = {"hidden_layers": 0, "embed": 2}
        for name in ("epochs", "batch_size", "hidden", "embed", "hidden_layers", "steps"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least.get(name, 1):
                raise ValueError(
                    f"{name} must be a whole number, at least {least.get(name, 1)}; got {value!r}"
                )
            object.__setattr__(self, name, int(value))
        for name in ("lr", "atol"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0; got {getattr(self, name)!r}")


@dataclass
class Tally:
    """Diagnostics of many projections, an entry each, as in `Projection`.

    Attributes:
        converged: whether both marginals were met, [answers].
        rounds: of Sinkhorn scaling, [answers].
        violation: errors of the marginals, [4].
    """

    converged: list[Bool[Tensor, " answers"]] = field(default_factory=list)
    rounds: list[Int64[Tensor, " answers"]] = field(default_factory=list)
    violation: list[Float64[Tensor, " 4"]] = field(default_factory=list)

    def add(self, projection: Projection) -> None:
        """Append the diagnostics of one more projection."""
        for name, values in vars(self).items():
            values.append(getattr(projection, name).cpu())


class Alignment(nn.Module):
    """Alignment networks: a similarity of two samples for each answer, projected to a coupling.

    The similarity is the inner product of two embeddings. Each network gives one embedding per
    answer, centred and scaled to variance 1 over its coordinates, so that similarities lie
    within (embed - 1) / sqrt(embed) of 0.

    Args:
        train: samples of the widths that the networks are made for.
        recipe: their architecture.
        generator: of their weights.
    """

    def __init__(
        self, train: BatchRows, recipe: AlignmentRecipe, generator: torch.Generator
    ) -> None:
        """Build both networks, with random weights."""
        super().__init__()
        self.recipe = recipe
        self.answers = train.given_both.shape[1]
        outputs = self.answers * recipe.embed
        self.vision, self.language = (
            _build_network(x.shape[1], outputs, recipe, generator).to(x.device)
            for x in (train.vision, train.language)
        )

    def forward(self, rows: BatchRows) -> Projection:
        """Compute the coupling of a batch."""
        # Similarity f1(x1) f2(x2) / sqrt(embed) of each answer
        one = self._embed(self.vision(rows.vision))
        other = self._embed(self.language(rows.language))
        products = einsum(
            one, other, "vision answers embed, language answers embed -> answers vision language"
        )
        # Sinkhorn projection on the marginals p(y|x1) and p(y|x2)
        return project(
            products / math.sqrt(self.recipe.embed),
            rows.given_vision,
            rows.given_language,
            steps=self.recipe.steps,
            atol=self.recipe.atol,
        )

    def _embed(self, output: Tensor) -> Float[Tensor, "n answers embed"]:
        # Standardise each embedding over its coordinates
        embedding = output.unflatten(1, (self.answers, -1))
        centred = embedding - embedding.mean(2, keepdim=True)
        return centred / (embedding.var(2, keepdim=True) + _FLAT).sqrt()


def align_couplings(
    train: BatchRows,
    prior: Float64[Tensor, " answers"],
    recipe: AlignmentRecipe,
    seed: int,
    *,
    progress: bool,
) -> tuple[Alignment, Float64[Tensor, " epochs"], Tally]:
    """Train networks by Adam to minimise the coupling's information about Y.

    Returns:
        The networks, the last loss of each epoch in nats, and the tally of projections. The loss
        is ``coupled_information`` less I(X1; Y), so an estimate of unique language.
    """
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(seed)
    alignment = Alignment(train, recipe, generator)
    optimiser = torch.optim.Adam(alignment.parameters(), recipe.lr)
    losses, tally = [], Tally()
    for _ in tqdm(range(recipe.epochs), "aligning", delay=2, leave=False, disable=not progress):
        for rows in train.batches(recipe.batch_size, _draw_order(train.n, generator)):
            # Minimise the union I_q(Y; X1, X2); the gradient passes all rounds of the projection
            projection = alignment(rows)
            union = coupled_information(projection, rows, prior)
            optimiser.zero_grad()
            union.backward()
            optimiser.step()
            tally.add(projection)
        # Union less I(X1; Y), a constant in training
        losses.append(union.detach() - mean_information(rows.given_vision, prior))
    return alignment, torch.stack(losses).cpu(), tally


def coupled_information(
    projection: Projection, rows: BatchRows, prior: Float64[Tensor, " answers"]
) -> Float64[Tensor, ""]:
    """Compute I_q(Y; X1, X2) against the prior, nats: the union under a coupling.

    q = q(x1, y) q(x2|x1, y) with q(x1, y) = p(y|x1) / n as given, so that vision's marginal is
    exact; of the projection only q(x2|x1, y) is used.
    """
    # log q(x1, x2, y), [answers, vision, language]
    given = rows.given_vision.T.clamp_min(LEAST_MASS).log() - math.log(rows.n)
    log_q = projection.log_coupling.log_softmax(2) + given[:, :, None]
    # sum of q log(q(y|x1,x2) / p(y))
    likelier = log_q.log_softmax(0) - prior.log()[:, None, None]
    return (log_q.exp() * likelier).sum()


def mean_information(
    posterior: Float[Tensor, "n answers"], prior: Float64[Tensor, " answers"]
) -> Float64[Tensor, ""]:
    """Compute the mean over samples of KL(posterior || prior), nats."""
    p = posterior.double()
    return (torch.xlogy(p, p) - p * prior.log()).sum(-1).mean()


def _build_network(
    inputs: int, outputs: int, recipe: AlignmentRecipe, generator: torch.Generator
) -> nn.Sequential:
    widths = [inputs, *[recipe.hidden] * (recipe.hidden_layers + 1)]
    layers = [m for i, o in pairwise(widths) for m in (linear_layer(i, o, generator), nn.ReLU())]
    return nn.Sequential(*layers, linear_layer(recipe.hidden, outputs, generator))


def _draw_order(n: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
    """Draw the order of an epoch as torch's DataLoader does: a number for workers, then a seed."""
    _, seed = (int(torch.empty((), dtype=torch.long).random_(generator=generator)) for _ in "12")
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
