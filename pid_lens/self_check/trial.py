"""Trial of a model: a batch, and counterfactual batches that differ in one modality alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.forward import intervene
from pid_lens.inputs import Batch
from pid_lens.interventions import Moments, calibrate
from pid_lens.lens import Lens
from pid_lens.model import Anatomy, tolerances_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions import Intervention


@dataclass(frozen=True)
class Trial:
    """A model, a batch, and counterfactual batches that differ from it in one modality alone.

    Attributes:
        anatomy: parts of the model.
        batch: the batch, with spans and names.
        samples: its spans, names and options.
    """

    anatomy: Anatomy
    batch: Batch
    samples: Samples

    @cached_property
    def moments(self) -> Moments:
        """Means and standard deviations for noise, calibrated on the batch."""
        return calibrate(None, [self.batch], anatomy=self.anatomy)

    @cached_property
    def plain(self) -> Float[Tensor, "n vocabulary"]:
        """Logits at the answer position without any intervention."""
        return self.answer(self.batch)

    @cached_property
    def close(self) -> float:
        """Tolerance: how far rounding may move a logit; reads are float32 at best."""
        dtype = self.plain.dtype
        eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        return tolerances_of(dtype).roundings * eps * largest_change(self.plain)

    @cached_property
    def other_pixels(self) -> Batch:
        """The batch with the values of every pixel tensor permuted."""
        inputs = self.batch.inputs
        pixels = [k for k, v in inputs.items() if torch.is_tensor(v) and _is_picture(k, v)]
        if not pixels:
            raise ValueError(f"no pixels among the inputs {', '.join(inputs)}")
        changed = {name: _shuffle(inputs[name]) for name in pixels}
        return replace(self.batch, inputs={**inputs, **changed})

    @cached_property
    def other_words(self) -> Batch:
        """The batch with another token at every position of the question."""
        # A token id from the upper half of the vocabulary that no image or question position has
        ids, vocabulary = self.batch.inputs["input_ids"], len(self.anatomy.unembed.weight)  # type: ignore[arg-type]
        inside = self.samples.spans["question"].to(ids.device)
        words = ids[inside].unique()
        taken = {int(self.anatomy.image_token or -1), *words.tolist()}
        new = next(token for token in range(vocabulary // 2, vocabulary) if token not in taken)
        changed = {"input_ids": ids.where(~inside, new)}
        for name, value in self.batch.inputs.items():
            if name.endswith("_input_ids"):
                changed[name] = torch.full_like(value, int(value.flatten()[0]) + 1)
        return replace(self.batch, inputs={**self.batch.inputs, **changed})

    def answer(self, batch: Batch, *interventions: Intervention) -> Float[Tensor, "n vocabulary"]:
        """Compute the logits at the answer position, under interventions."""
        if interventions:
            how: dict[str, Any] = {"spans": batch.spans, "ids": batch.ids, "moments": self.moments}
            with intervene(None, *interventions, anatomy=self.anatomy, **how):
                return self.answer(batch)
        logits = self.anatomy.model(**batch.inputs).logits
        at = self.samples.spans.positions("answer")[: len(logits)].to(logits.device)
        return logits[torch.arange(len(at), device=logits.device), at]

    def lens(self) -> Lens:
        """Make a lens; without options it reads the first sample's two likeliest tokens."""
        likeliest = self.plain[0].topk(2).indices.tolist()
        choices = likeliest if self.batch.options is None else None
        return Lens(
            anatomy=self.anatomy,
            moments=self.moments,
            choices=choices,
            fork_edits=True,  # hooks that edit belong to what is checked
        )


class UntoldError(ValueError):
    """Inputs that do not determine what a property needs."""


def largest_change(change: Tensor) -> float:
    """Return the largest absolute value."""
    return float(change.float().abs().max())


def first_sample(trial: Trial) -> dict[str, Any]:
    """Cut the first sample's inputs out of the batch's, its pixels included.

    Raises:
        UntoldError: the inputs do not determine which pixels are its own.
    """
    image, inputs = trial.samples.spans["image"], trial.batch.inputs
    begins = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
    counts = [mask.sum(-1).tolist() for mask in (begins, image)]
    return {name: _first_share(name, value, *counts) for name, value in inputs.items()}


def _is_picture(name: str, value: Tensor) -> bool:
    """Return whether an input is pixels or features of them, not a floating-point mask."""
    return value.is_floating_point() and "mask" not in name


def _shuffle(pixels: Tensor) -> Tensor:
    order = torch.randperm(pixels.numel(), generator=torch.Generator().manual_seed(0))
    return pixels.flatten()[order.to(pixels.device)].view_as(pixels)


def _first_share(name: str, value: Any, images: list[int], tokens: list[int]) -> Any:
    """Cut the first sample's rows out of an input.

    Rows are samples, or images, or patches, with the same number of patches per image token.

    Args:
        name: of the input.
        value: of the input.
        images: number of images of each sample.
        tokens: number of image tokens of each sample.
    """
    if not _has_rows(value):
        return value
    if name == "position_ids" and value.ndim == 3:
        return value[:, :1]
    rows = len(value)
    if rows == len(images):
        return value[:1]
    if not _is_of_images(name, value):
        return value
    share = images[0] if rows == sum(images) else rows * tokens[0] / sum(tokens)
    if share != int(share):
        raise UntoldError(
            f"cannot tell how many of the {rows} rows of {name} belong to the first of "
            f"{len(images)} samples: check samples of one image each"
        )
    return value[: int(share)]


def _has_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) or (torch.is_tensor(value) and value.ndim > 0)


def _is_of_images(name: str, value: Any) -> bool:
    """Return whether rows are images or patches: pixels, and sizes and lists per image."""
    sizes = name.endswith(("_sizes", "_thw"))
    return sizes or not torch.is_tensor(value) or _is_picture(name, value)
