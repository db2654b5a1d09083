"""Fork: repeat the batch rows once per variation, and ablate the embeddings of each row block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pid_lens.forward.position_ids import renumber_positions
from pid_lens.forward.rows import repeat_rows
from pid_lens.model import Entry, entries_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from pid_lens.inputs import Samples
    from pid_lens.interventions import Variation
    from pid_lens.model import Anatomy, QuestionAwareImage


def fork_arguments(
    anatomy: Anatomy,
    given: Mapping[str, Any],
    arguments: dict[str, Any],
    samples: Samples,
    variations: Sequence[Variation],
) -> dict[str, Any]:
    """Repeat a decoder's arguments once per variation, and ablate the embeddings of each copy.

    Args:
        anatomy: the model's parts.
        given: the whole model's arguments, by name.
        arguments: the decoder's, by name, for n samples.
        samples: the n samples.
        variations: what to ablate in each copy.

    Returns:
        The decoder's arguments with [variations * n] rows, one block of n per variation.
    """
    repeated = repeat_rows(arguments, samples.n, len(variations))
    main, *sides = entries_of(anatomy.entrances, arguments, samples)
    # Image features that enter besides the embeddings (DeepStack, cross-attention)
    for entry in sides:
        entry.put(repeated, torch.cat([v.edit(entry.vectors, entry.samples) for v in variations]))
    # The embeddings, image features merged in
    embeddings = [v.edit(_unablated(anatomy, given, main, v), samples) for v in variations]
    main.put(repeated, torch.cat(embeddings))
    return renumber_positions(repeated, arguments, samples, variations)


def _unablated(
    anatomy: Anatomy, given: Mapping[str, Any], main: Entry, variation: Variation
) -> Float[Tensor, "n tokens width"]:
    """Return the embeddings before ablation, with the image features of this variation."""
    seen = _image_seen(anatomy.question_aware, given, main.samples, variation)
    if seen is None:
        return main.vectors
    at = main.samples.spans["image"].to(main.vectors.device)
    return main.vectors.masked_scatter(at[..., None], seen.to(main.vectors))


@torch.no_grad()
def _image_seen(
    aware: QuestionAwareImage | None,
    given: Mapping[str, Any],
    samples: Samples,
    variation: Variation,
) -> Float[Tensor, "n tokens width"] | None:
    """Compute the image features from a variation's question (Q-Former); None if unchanged."""
    if aware is None:
        return None
    entry = aware.entry(given, samples)
    words = variation.edit(entry.vectors, entry.samples)
    removed = variation.removed(entry.samples)
    if torch.equal(words, entry.vectors) and not bool(removed.any()):
        return None
    return aware.image_features(given, words, removed)
