"""Several images in one prompt: split the image tokens into one mask per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs.prompts.chat_template import image_id, render, special_tokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from PIL.Image import Image
    from torch import Tensor


def single_images(
    processor: Any,
    image: Bool[Tensor, "n tokens"],
    albums: Sequence[list[Image]],
) -> dict[str, Bool[Tensor, "n tokens"]]:
    """Split the image tokens by image: ``image_0``, ``image_1``, ... as far as all samples go.

    Images whose tokens are contiguous are split where other tokens lie between them; the rest
    (rows that end with a break, tiles with a marker each) by how many tokens each image makes on
    its own.

    Args:
        processor: it made the inputs.
        image: the tokens of all images.
        albums: each sample's images.

    Returns:
        No mask at all where no sample has several images.

    Raises:
        ValueError: an image makes another number of tokens on its own than in its prompt.
    """
    if max(map(len, albums)) == 1:
        return {}
    masks = {f"image_{k}": torch.zeros_like(image) for k in range(min(map(len, albums)))}
    for row, album in enumerate(albums):
        places = image[row].nonzero().flatten()
        parts: Sequence[Tensor] = places.tensor_split((places.diff() > 1).nonzero().flatten() + 1)
        if len(parts) != len(album):
            parts = _by_count(processor, places, album)
        for mask, part in zip(masks.values(), parts, strict=False):
            mask[row, part] = True
    return masks


def _by_count(processor: Any, places: Int[Tensor, " k"], album: list[Image]) -> Sequence[Tensor]:
    """Split an album's tokens by how many each image makes when processed on its own."""
    prompt = render(processor, "")
    counts = []
    for one in album:
        made = processor(images=[[one]], text=[prompt], **special_tokens(processor, prompt))
        counts.append(list(map(int, made["input_ids"][0])).count(image_id(processor)))
    if sum(counts) != len(places):
        raise ValueError(
            f"{len(album)} images have {len(places)} tokens together, but {counts} each on its "
            "own, so the tokens of each are not known: hand over one image per sample"
        )
    return places.split(counts)
