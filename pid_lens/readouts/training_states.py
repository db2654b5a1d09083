"""Hidden states that a tuned lens is trained on: of every layer, at chosen positions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs import (
    Batch,
    as_batch,
    as_batches,
    as_lists,
    attended_tokens,
    content_ids,
    find_answer,
    find_image,
)
from pid_lens.model import hooked

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from pid_lens.model import Anatomy


@dataclass(frozen=True, eq=False)
class TrainingStates:
    """Hidden states of every layer at the chosen positions, on the CPU, sample by sample.

    Attributes:
        states: the residual stream after each layer, one tensor [rows, width] per layer.
        sample: number of the sample that each row is of, in the order of their names, [rows].
        device: where to train.
    """

    states: tuple[Float[Tensor, "rows width"], ...]
    sample: Int[Tensor, " rows"]
    device: torch.device

    def split(self, held_out: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Split the rows into training, stopping and measuring rows; no sample is in two of them.

        Args:
            held_out: share of the samples that is not trained on, half of it for stopping.
            seed: of the split.

        Raises:
            ValueError: fewer than three samples.
        """
        n = len(self.sample.unique())
        half = max(1, round(n * held_out / 2))
        if n - 2 * half < 1:
            raise ValueError(
                f"{n} samples cannot be split into training and two held-out parts with "
                f"held_out={held_out}: give more samples"
            )
        # A random order of samples, cut in three; then the rows of each part's samples
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        parts = order[2 * half :], order[:half], order[half : 2 * half]
        fit, stop, last = (torch.isin(self.sample, one).nonzero().flatten() for one in parts)
        return fit, stop, last

    def at(self, layer: int, rows: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        """Move rows of a layer to the device that trains on them."""
        return self.states[layer][rows].to(self.device)


@torch.no_grad()
def gather_states(
    anatomy: Anatomy, batches: Any, positions: str, progress: bool
) -> TrainingStates:
    """Gather every layer's hidden states of all batches at ``positions``.

    A sample is identified by its id, or else by its content. A repeated one replaces the earlier.

    Raises:
        ValueError: no samples, samples without a name, an image that cannot be found, or states
            that are not finite.
    """
    from tqdm import tqdm

    if anatomy.model.training:
        warnings.warn(
            "the model is in training mode, so dropout may blur its states: call model.eval()",
            stacklevel=3,
        )
    found: list[list[Tensor]] = [[] for _ in anatomy.layers]
    sample: list[Tensor] = []
    device, names = anatomy.device, list[str]()
    for given in tqdm(as_batches(batches), "reading", delay=2, leave=False, disable=not progress):
        batch = as_batch(given).to(anatomy.device)
        if not batch.n:
            continue
        mask = _positions(batch, positions, anatomy.image_token)
        for layer, states in enumerate(_states(anatomy, batch.inputs, mask)):
            device = states.device
            found[layer].append(states.cpu())
        sample.append(len(names) + mask.nonzero()[:, 0].cpu())
        names += _names(batch, anatomy.image_token)
    if not names:
        raise ValueError("no batch came with a sample, so there is nothing to tune on")
    rank, rows = _order(torch.cat(sample), names)
    whole = tuple(torch.cat(layer)[rows] for layer in found)
    broken = [layer for layer, one in enumerate(whole) if not bool(one.isfinite().all())]
    if broken:
        raise ValueError(f"the states of layers {broken} are not finite: is the model in order?")
    return TrainingStates(whole, rank, device)


def _order(
    sample: Int[Tensor, " all"], names: list[str]
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Order rows by their samples' names, keeping the last sample of each name.

    Returns:
        Each row's sample, and its place among all rows.
    """
    # Rank of each sample kept: that of its name; -1 for one that was replaced
    last = {name: at for at, name in enumerate(names)}
    rank = torch.full((len(names),), -1)
    rank[[last[name] for name in sorted(last)]] = torch.arange(len(last))
    # Stable: rows of one sample stay in the order of their positions
    ranks, rows = rank[sample].sort(stable=True)
    return ranks[ranks >= 0], rows[ranks >= 0]


def _names(batch: Batch, image_token: int | None) -> list[str]:
    """Name each sample by its id, or else by a hash of its content."""
    ids = batch.inputs["input_ids"]
    if batch.ids is not None:
        if len(batch.ids) != len(ids):
            raise ValueError(f"{len(ids)} samples need as many ids; got {len(batch.ids)}")
        return [str(name) for name in as_lists(batch.ids)]
    image = (batch.spans or {}).get("image")
    if image is None and image_token is not None:
        image = ids == image_token
    return list(content_ids(batch.inputs, attended_tokens(batch.inputs), image))


def _positions(batch: Batch, positions: str, image_token: int | None) -> Bool[Tensor, "n tokens"]:
    """Mask the answer position, or every attended token that is not the image's."""
    ids, said = batch.inputs["input_ids"], batch.spans or {}
    attended = attended_tokens(batch.inputs)
    if positions == "answer":
        mask = said["answer"] if "answer" in said else find_answer(attended)
        return mask.to(ids.device)
    image = said["image"] if "image" in said else find_image(ids, image_token)
    return attended & ~image.to(ids.device)


def _states(
    anatomy: Anatomy, inputs: Mapping[str, Any], mask: Bool[Tensor, "n tokens"]
) -> list[Float[Tensor, "rows width"]]:
    """Record the residual stream after every layer, by hooks, at the positions of the mask."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def read(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            if states.shape[:2] != mask.shape:
                raise ValueError(
                    f"layer {layer} returned states of [n, tokens] = {list(states.shape[:2])} "
                    f"for an input of {list(mask.shape)}: this model widens its prompt, which "
                    "cannot be followed"
                )
            kept[layer] = states[mask.to(states.device)].clone()

        return read

    with hooked(after=[(module, keep(layer)) for layer, module in enumerate(anatomy.layers)]):
        anatomy.model(**inputs)
    return [kept[layer] for layer in range(len(anatomy.layers))]
