"""Fork: a decoder's arguments, one copy a variation, with what each one hides hidden."""

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
    """A decoder's arguments, repeated once a variation, with what each one hides hidden.

    Args:
        anatomy: the model's parts.
        given: the whole model's arguments.
        arguments: the decoder's, for n samples.
        samples: the n samples.
        variations: what to hide in each copy.
    """
    repeated = repeat_rows(arguments, samples.n, len(variations))
    main, *sides = entries_of(anatomy.entrances, arguments, samples)
    for entry in sides:
        entry.put(repeated, torch.cat([v.edit(entry.vectors, entry.samples) for v in variations]))
    embeddings = [v.edit(_unablated(anatomy, given, main, v), samples) for v in variations]
    main.put(repeated, torch.cat(embeddings))
    return renumber_positions(repeated, arguments, samples, variations)


def _unablated(
    anatomy: Anatomy, given: Mapping[str, Any], main: Entry, variation: Variation
) -> Float[Tensor, "n tokens width"]:
    """The embeddings before anything is hidden in them, the image as the variation sees it."""
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
    """The image's features in a variation; None where they are as they were."""
    if aware is None:
        return None
    entry = aware.entry(given, samples)
    words = variation.edit(entry.vectors, entry.samples)
    removed = variation.removed(entry.samples)
    if torch.equal(words, entry.vectors) and not bool(removed.any()):
        return None
    return aware.image_features(given, words, removed)
