"""Interventions on prompts, and on prompts that an option continues."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pid_lens.forward import intervene
from pid_lens.inputs import Batch, attended_tokens, content_ids, find_spans

if TYPE_CHECKING:
    from pid_lens.inputs import Spans
    from pid_lens.interventions import Intervention, Moments
    from pid_lens.model import Anatomy


@dataclass(frozen=True, eq=False)
class UnderInterventions:
    """Interventions on prompts, whose spans and names do not depend on the option after them.

    Attributes:
        anatomy: parts of the model.
        interventions: applied in every forward pass.
        batch: the prompts, padded on the left.
        processor: finds the question in prompts of its chat template.
        moments: means and standard deviations for noise.
        seed: of the noise.
    """

    anatomy: Anatomy
    interventions: tuple[Intervention, ...]
    batch: Batch
    processor: Any
    moments: Moments | None
    seed: int

    def __call__(self, more: int = 0) -> AbstractContextManager[None]:
        """Apply the interventions in a context, to prompts with ``more`` tokens after them."""
        if not self.interventions:
            return nullcontext()
        return intervene(
            None,
            *self.interventions,
            spans=self._spans.longer(more),
            ids=self._ids,
            moments=self.moments,
            seed=self.seed,
            anatomy=self.anatomy,
        )

    @cached_property
    def _spans(self) -> Spans:
        return find_spans(self.batch, self.processor, self.anatomy.image_token)

    @cached_property
    def _ids(self) -> tuple[str, ...] | None:
        """Names of the samples; None where they have none, which noise alone needs."""
        if self.batch.ids is not None:
            return tuple(self.batch.ids)
        inputs = self.batch.inputs
        try:
            return content_ids(inputs, attended_tokens(inputs), self._spans.get("image"))
        except ValueError:
            return None
