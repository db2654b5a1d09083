"""Block rows: the samples of one invoke's batch rows, amid a batch of several invokes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.forward import WholeBatch
from pid_lens.inputs import Batch, Samples, attended_tokens, content_ids, resolve_samples
from pid_lens.interventions import place_among

if TYPE_CHECKING:
    from pid_lens.adapters.nnsight.internals import Run
    from torch import Tensor

    from pid_lens.model import Anatomy

Rows = tuple[int, int]
"""First row and number of rows."""


@dataclass(frozen=True, eq=False)
class BlockRows:
    """A prompt resolver for some rows of a batch: nothing is known of the remaining rows.

    Attributes:
        rows: first row and number of rows.
        own: finds the samples of these rows alone.
    """

    rows: Rows
    own: WholeBatch

    def __call__(self, ids: Tensor, arguments: dict[str, Any]) -> Samples:
        """Resolve the samples of these rows, placed among all rows of the batch."""
        (first, count), own = self.rows, self.own
        if own.said.ids is None and own.by_content:
            names = names_by_content(arguments, self.rows, own.anatomy)
            own = replace(own, said=replace(own.said, ids=names))
        samples = own(ids[first : first + count], narrow_rows(arguments, self.rows))
        return place_among(samples, first, len(ids), image=images_in(ids, own.anatomy))


def resolve_block(
    run: Run, given: Batch, processor: Any, anatomy: Anatomy, options: Tensor | None
) -> Samples:
    """Resolve the samples of a block's own rows, and of no other rows.

    Raises:
        ValueError: the block runs another batch than was described.
    """
    inputs = run.prompt if run.rows is None else narrow_rows(run.prompt, run.rows)
    expected = given.inputs.get("input_ids")
    if expected is not None and not torch.equal(expected.cpu(), inputs["input_ids"].cpu()):
        raise ValueError(
            "these are not the inputs of the batch that was described: hand over the batch that "
            "is traced, readout(model, batch=batch)"
        )
    if run.rows is not None and given.ids is None:
        given = replace(given, ids=names_by_content(run.prompt, run.rows, anatomy))
    return resolve_samples(replace(given, inputs=inputs), processor, anatomy.image_token, options)


def images_in(ids: Tensor, anatomy: Anatomy) -> Tensor | None:
    """Find the tokens that image features replace; None unless every row has such tokens."""
    found = None if anatomy.image_token is None else ids == anatomy.image_token
    return found if found is not None and bool(found.any(-1).all()) else None


def names_by_content(arguments: dict[str, Any], rows: Rows, anatomy: Anatomy) -> tuple[str, ...]:
    """Name some rows by their content.

    This takes the whole batch: pixels may lie in a tensor without one row per prompt.
    """
    first, count = rows
    images = images_in(arguments["input_ids"], anatomy)
    return content_ids(arguments, attended_tokens(arguments), images)[first : first + count]


def narrow_rows(arguments: dict[str, Any], rows: Rows) -> dict[str, Any]:
    """Slice the arguments to some rows of a batch."""
    n, (first, count) = len(arguments["input_ids"]), rows
    return {
        name: value[first : first + count]
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == n
        else value
        for name, value in arguments.items()
    }
