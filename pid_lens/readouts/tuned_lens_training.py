"""Training of a tuned lens: translators that minimise the KL from the model's own answers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import torch
from torch.nn.functional import kl_div

from pid_lens.model import Anatomy, dissect
from pid_lens.readouts.training_basis import TrainingBasis
from pid_lens.readouts.training_states import TrainingStates, gather_states
from pid_lens.readouts.tuned_lens import Translator, TunedLens

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from pid_lens.inputs import Batch

BATCH_SIZE = 64
"""Positions in a step of Adam."""
CHUNK = 256
"""Positions whose logits are held in memory at once where a divergence is measured."""
SLOWER, RESTS = 4, 4
"""Divisor of the learning rate where nothing is gained, and how often it applies until the end."""
FEW = 10
"""Samples below which a measured divergence says little."""


def tune(
    model: Any,
    batches: Iterable[Batch | Mapping[str, Any]] | Batch,
    *,
    positions: Literal["answer", "text"] = "answer",
    epochs: int = 200,
    patience: int = 5,
    lr: float = 0.3,
    held_out: float = 0.3,
    seed: int = 0,
    progress: bool = True,
    anatomy: Anatomy | None = None,
) -> TunedLens:
    r"""Train a tuned lens for a model, on batches of yours.

    Each layer l but the last gets the affine translator that minimises

    .. math::  \mathrm{KL}\big(\mathrm{softmax}(W\,\mathrm{norm}(h_L)) \,\big\|\,
               \mathrm{softmax}(W\,\mathrm{norm}(h_l + A_l h_l + b_l))\big)

    over the full vocabulary, with h the residual stream after a layer and L the last one. Adam
    starts at the identity, in the basis in which the layer's dimensions have mean 0 and deviation
    1 (below 1 where a dimension hardly varies). The model is not changed; labels are not used.

    Some samples are held out. One half of them determines when a layer's learning rate falls and
    when it stops, and the best epoch on it is kept (the identity, where nothing was gained there).
    The other half plays no part in that; on it ``divergence`` and ``untuned`` are measured. There
    a translator may turn out worse than the identity, which gives a warning.

    Samples are identified by their ids, or else by a hash of their content. A repeated one
    replaces the earlier, so that none is both trained and measured on, and their order does not
    matter.

    All hidden states are kept in memory, layers x positions x width in the model's precision. For
    answers read at the answer position ``"answer"`` is the right choice; ``"text"`` (every token
    that is neither image nor padding) gives more positions from fewer samples.

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        batches: `Batch` records, or mappings of the model's inputs; one or many.
        positions: token positions where the model's answer is matched.
        epochs: how often to go through the training samples at most.
        patience: epochs without a gain after which the learning rate falls to a quarter; the
            fourth time, training of the layer stops.
        lr: Adam's first learning rate in units of 1 / width.
        held_out: share of the samples that is not trained on.
        seed: of the split and of the order of training.
        progress: show a bar where it takes longer.
        anatomy: the model's modules, for a model that `dissect` does not know.

    Returns:
        A `TunedLens`: ``Lens(model, ..., readout=tuned)``.

    Raises:
        TypeError: a seed that is not a whole number, or a model that no adapter knows.
        ValueError: no or too few samples, samples without a name, settings out of range, states
            that are not finite, a model loaded in inference mode, or an image that cannot be
            found (``"text"`` alone needs it).

    Warns:
        UserWarning: training mode, fewer than 10 samples to measure on, or layers that are worse
            there than the logit lens.

    Source:
        Eliciting latent predictions from transformers with the tuned lens (Belrose et al.,
        2023), https://arxiv.org/abs/2303.08112

    Example:
        >>> import pid_lens
        >>> from pid_lens.readouts import tune
        >>> model, processor = pid_lens.demo.load()
        >>> tuned = tune(model, pid_lens.demo.batches("language", n=64), epochs=5)
        >>> tuned.divergence[0] < tuned.untuned[0], tuned.divergence[-1]
        (tensor(True), tensor(0.))
    """
    from tqdm import tqdm

    if positions not in ("answer", "text"):
        raise ValueError(f"positions must be 'answer' or 'text'; got {positions!r}")
    if not 0 < held_out < 1 or epochs < 1 or patience < 1 or not lr > 0:
        raise ValueError(
            "epochs and patience must be at least 1, lr above 0 and held_out between 0 and 1; "
            f"got {epochs}, {patience}, {lr}, {held_out}"
        )
    if not isinstance(seed, SupportsIndex):
        raise TypeError(f"seed must be a whole number; got {seed!r}")
    anatomy = anatomy or dissect(model)
    _require_autograd(anatomy)
    with torch.inference_mode(False):
        # Hidden states of all layers, and the three parts of the samples
        gathered = gather_states(anatomy, batches, positions, progress)
        parts = gathered.split(held_out, seed)
        # Train layer by layer; the last one's translator is the identity
        course = TrainingCourse(anatomy, epochs, patience, lr, seed)
        translators: dict[int, Translator] = {}
        layers = range(len(anatomy.layers) - 1)
        for layer in tqdm(layers, "tuning", delay=2, leave=False, disable=not progress):
            translator = course.translator(gathered, layer, *parts[:2])
            if translator is not None:
                translators[layer] = translator
        # KL of tuned lens and logit lens on the part that training did not use
        with torch.no_grad():
            last = parts[2]
            tuned, untuned = (
                torch.tensor([course.divergence(gathered, i, kept.get(i), last) for i in layers])
                for kept in (translators, {})
            )
    # Nats to bits; the last layer is the model's own answer, at divergence 0
    own = torch.zeros(1)
    found = TunedLens(
        model=anatomy.fingerprint(),
        translators=translators,
        divergence=torch.cat([tuned / math.log(2), own]),
        untuned=torch.cat([untuned / math.log(2), own]),
        n=len(gathered.sample[last].unique()),
    )
    _warn_of_doubts(found)
    return found


def _warn_of_doubts(found: TunedLens) -> None:
    """Warn where the divergence is measured on few samples, or exceeds that of the logit lens."""
    if found.n < FEW:
        warnings.warn(
            f"the divergence is measured on {found.n} samples alone, which says little: give more "
            "samples, or hold out more of them (held_out)",
            stacklevel=3,
        )
    worse = (found.divergence > found.untuned).nonzero().flatten().tolist()
    if worse:
        warnings.warn(
            f"layers {worse} are further from the model's answer than under the logit lens, on "
            "samples held out of training: give more samples, or more positions of each "
            "(positions='text')",
            stacklevel=3,
        )


def _require_autograd(anatomy: Anatomy) -> None:
    """Require that gradients pass through the final norm and the unembedding."""
    modules = anatomy.norm, anatomy.unembed
    if any(p.is_inference() for module in modules for p in module.parameters()):
        raise ValueError(
            "the model was loaded inside torch.inference_mode, so nothing can be trained through "
            "it: load it outside (tune itself may be called inside)"
        )


@dataclass(frozen=True, eq=False)
class TrainingCourse:
    """Training of one layer's translator: Adam, a falling learning rate, early stopping.

    Attributes:
        anatomy: the model's modules.
        epochs: passes over the training rows at most.
        patience: epochs without a gain after which the learning rate falls.
        lr: first learning rate in units of 1 / width.
        seed: of the order of rows in each epoch.
    """

    anatomy: Anatomy
    epochs: int
    patience: int
    lr: float
    seed: int

    def translator(
        self,
        gathered: TrainingStates,
        layer: int,
        fit: Int[Tensor, " rows"],
        stop: Int[Tensor, " others"],
    ) -> Translator | None:
        """Train a layer's translator; return that of the best epoch, None if none gains anything.

        Args:
            gathered: hidden states of all layers.
            layer: number of the layer.
            fit: rows to train on.
            stop: rows that determine the learning rate, the best epoch and the end.
        """
        # Standardised basis of the training rows; from the identity on
        basis = TrainingBasis.of(gathered.at(layer, fit))
        weights = basis.zeros()
        optimiser = torch.optim.Adam(weights, lr=self.lr / len(basis.mean))
        kept, best = basis.zeros(), self.divergence(gathered, layer, None, stop)
        untuned, idle, rests = best, 0, 0
        for order in self._orders(fit, layer):
            # One epoch of Adam on minibatches of the KL
            for rows in order.split(BATCH_SIZE):
                loss = self._loss(gathered, layer, basis.translator(*weights), rows)
                for one, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    one.grad = slope
                optimiser.step()
            # Keep the best epoch on the stopping rows
            found = self.divergence(gathered, layer, basis.translator(*weights), stop)
            idle = 0 if found < best else idle + 1
            if found < best:
                best = found
                _copy(weights, kept)
            # Without a gain for some epochs: go back to the best weights, at a smaller step
            if idle == self.patience:
                idle, rests = 0, rests + 1
                optimiser.param_groups[0]["lr"] /= SLOWER
                _copy(kept, weights)
            if rests == RESTS:
                break
        with torch.no_grad():
            return basis.translator(*kept) if best < untuned else None

    @torch.no_grad()
    def divergence(
        self, gathered: TrainingStates, layer: int, translator: Translator | None, rows: Tensor
    ) -> float:
        """Compute the mean over rows of KL(model's answer || translated layer's answer), nats."""
        parts = [self._loss(gathered, layer, translator, part) for part in rows.split(CHUNK)]
        return max(float(torch.stack(parts).double().sum()) / len(rows), 0.0)

    def _loss(
        self, gathered: TrainingStates, layer: int, translator: Translator | None, rows: Tensor
    ) -> Float[Tensor, ""]:
        """Sum the KL over rows: gradients of a mean would underflow in half precision."""
        # p of the model (last layer), q of the translated layer: KL(p || q)
        state = gathered.at(layer, rows)
        with torch.no_grad():
            own = self._answer(gathered.at(-1, rows))
        read = self._answer(state if translator is None else translator(state))
        return kl_div(read, own, reduction="sum", log_target=True)

    def _answer(self, state: Float[Tensor, "n width"]) -> Float[Tensor, "n vocabulary"]:
        return self.anatomy.logits(state).log_softmax(-1)

    def _orders(self, rows: Tensor, layer: int) -> Iterator[Int[Tensor, " rows"]]:
        """Yield the rows in another order every epoch."""
        generator = torch.Generator().manual_seed(self.seed + layer)
        for _ in range(self.epochs):
            yield rows[torch.randperm(len(rows), generator=generator)]


@torch.no_grad()
def _copy(source: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> None:
    for one, other in zip(source, target, strict=True):
        other.copy_(one)
