"""Given batches: hook points carry no token ids, so hooks are made for a batch that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pid_lens.forward import require_options
from pid_lens.inputs import Batch, Samples, as_batch, option_table, resolve_samples

if TYPE_CHECKING:
    from pid_lens.model import Anatomy

GivenBatch = Batch | Mapping[str, Any]
"""A batch, or a mapping of a model's inputs."""


def resolve_given(
    anatomy: Anatomy,
    batch: GivenBatch,
    processor: Any,
    choices: Sequence[str | int] | None = None,
) -> Samples:
    """Resolve the samples of the batch that will run: their spans, options and ids.

    Raises:
        TypeError: no batch.
        ValueError: a span that cannot be found.
    """
    options = None if choices is None else option_table(choices, 1, processor)
    return resolve_samples(as_batch(batch), processor, anatomy.image_token, options)


def resolve_with_options(
    anatomy: Anatomy, batch: GivenBatch, processor: Any, choices: Sequence[str | int] | None
) -> Samples:
    """Resolve the samples of the batch that will run, and require that they have options.

    Raises:
        TypeError: no batch.
        ValueError: a span that cannot be found, or no options.
    """
    samples = resolve_given(anatomy, batch, processor, choices)
    require_options(samples.options, anatomy)
    return samples


def require_batch(shape: Sequence[int], samples: Samples, where: str) -> None:
    """Require that an activation has the rows and positions of the batch that its hook is for.

    Raises:
        ValueError: it has other rows, or other positions.
    """
    n, tokens = samples.spans.shape
    if tuple(shape) != (n, tokens):
        raise ValueError(
            f"these functions are for a batch of [n, tokens] = {[n, tokens]}, and {where} got "
            f"{list(shape)}: make them anew for each batch, and run its prompts whole, without "
            "generate and without remove_batch_dim. Inside a pid_lens.Lens hand interventions "
            "over to the lens, Lens(..., interventions=[...])"
        )
