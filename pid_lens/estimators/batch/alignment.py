"""Two small networks that learn which samples of two sources to couple: what BATCH trains."""

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


@dataclass(frozen=True)
class AlignmentRecipe:
    """How the networks look, how they are trained and projected; the released values."""

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
    """Over many projections: which converged, after how many rounds, how far off they ended."""

    converged: list[Bool[Tensor, " answers"]] = field(default_factory=list)
    rounds: list[Int64[Tensor, " answers"]] = field(default_factory=list)
    violation: list[Float64[Tensor, " 4"]] = field(default_factory=list)

    def add(self, projection: Projection) -> None:
        """Counts one more."""
        for name, seen in vars(self).items():
            seen.append(getattr(projection, name).cpu())


class Alignment(nn.Module):
    """The similarity of two samples for each answer: the product of their embeddings.

    Each network gives one embedding an answer, centred and scaled to variance 1 over its
    coordinates, so that similarities lie within (embed - 1) / sqrt(embed) of 0.
    """

    def __init__(
        self, train: BatchRows, recipe: AlignmentRecipe, generator: torch.Generator
    ) -> None:
        """Networks for rows like these, with weights from the generator."""
        super().__init__()
        self.recipe = recipe
        self.answers = train.given_both.shape[1]
        outputs = self.answers * recipe.embed
        self.vision, self.language = (
            _build_network(x.shape[1], outputs, recipe, generator).to(x.device)
            for x in (train.vision, train.language)
        )

    def forward(self, rows: BatchRows) -> Projection:
        """The coupling of a batch."""
        one = self._embed(self.vision(rows.vision))
        other = self._embed(self.language(rows.language))
        products = einsum(
            one, other, "vision answers embed, language answers embed -> answers vision language"
        )
        return project(
            products / math.sqrt(self.recipe.embed),
            rows.given_vision,
            rows.given_language,
            steps=self.recipe.steps,
            atol=self.recipe.atol,
        )

    def _embed(self, output: Tensor) -> Float[Tensor, "n answers embed"]:
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
    """Trained networks, the last loss of each epoch in nats, and what projections came to.

    The loss is ``coupled_information`` less what vision tells, so an estimate of unique language.
    """
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(seed)
    alignment = Alignment(train, recipe, generator)
    optimiser = torch.optim.Adam(alignment.parameters(), recipe.lr)
    losses, tally = [], Tally()
    for _ in tqdm(range(recipe.epochs), "aligning", delay=2, leave=False, disable=not progress):
        for rows in train.batches(recipe.batch_size, _draw_order(train.n, generator)):
            projection = alignment(rows)
            union = coupled_information(projection, rows, prior)
            optimiser.zero_grad()
            union.backward()
            optimiser.step()
            tally.add(projection)
        losses.append(union.detach() - mean_information(rows.given_vision, prior))
    return alignment, torch.stack(losses).cpu(), tally


def coupled_information(
    projection: Projection, rows: BatchRows, prior: Float64[Tensor, " answers"]
) -> Float64[Tensor, ""]:
    """I_q(Y; X1, X2) against the prior, nats, of q(x1, y) q(x2|x1, y): vision's marginal is exact.

    q(x1, y) = p(y|x1) / n as given; of the projection only q(x2|x1, y) is used.
    """
    given = rows.given_vision.T.clamp_min(LEAST_MASS).log() - math.log(rows.n)
    log_q = projection.log_coupling.log_softmax(2) + given[:, :, None]
    likelier = log_q.log_softmax(0) - prior.log()[:, None, None]
    return (log_q.exp() * likelier).sum()


def mean_information(
    posterior: Float[Tensor, "n answers"], prior: Float64[Tensor, " answers"]
) -> Float64[Tensor, ""]:
    """Mean over samples of KL(posterior || prior), nats."""
    p = posterior.double()
    return (torch.xlogy(p, p) - p * prior.log()).sum(-1).mean()


def _build_network(
    inputs: int, outputs: int, recipe: AlignmentRecipe, generator: torch.Generator
) -> nn.Sequential:
    widths = [inputs, *[recipe.hidden] * (recipe.hidden_layers + 1)]
    hidden = [m for i, o in pairwise(widths) for m in (linear_layer(i, o, generator), nn.ReLU())]
    return nn.Sequential(*hidden, linear_layer(recipe.hidden, outputs, generator))


def _draw_order(n: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
    """The order of an epoch, drawn as torch's DataLoader does: a number for workers, a seed."""
    _, seed = (int(torch.empty((), dtype=torch.long).random_(generator=generator)) for _ in "12")
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
