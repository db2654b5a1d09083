"""Prompt resolvers: which samples the prompts of a call are, inside a block of interventions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from pid_lens.inputs import Batch, Samples, Spans, resolve_samples

if TYPE_CHECKING:
    from torch import Tensor

    from pid_lens.model import Anatomy


class PromptResolver(Protocol):
    """Finds the samples of prompts, when the model is called with them.

    Example:
        >>> import pid_lens
        >>> anatomy = pid_lens.dissect(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> resolve: PromptResolver = WholeBatch(anatomy, batch)
        >>> resolve(batch.inputs["input_ids"], batch.inputs).n
        4
    """

    def __call__(self, ids: Tensor, arguments: dict[str, Any]) -> Samples:
        """The samples of prompts.

        Args:
            ids: the token ids of the prompts, beams among them.
            arguments: all that the model is called with, by name.

        Raises:
            ValueError: a span that cannot be found, or of another shape than the prompts.
        """


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """Every row of a call is a prompt, or a beam of one, which has its prompt's name and spans."""

    anatomy: Anatomy
    said: Batch
    """Spans and ids, as far as they are known."""
    processor: Any = None
    by_content: bool = False
    """Whether prompts without ids are named by their content, as noise needs."""

    def __call__(self, ids: Tensor, arguments: dict[str, Any]) -> Samples:
        """The samples of prompts; the beams of one have its name."""
        names = self._names(ids)
        apart = None if names is None else tuple(map(str, range(len(ids))))
        given = replace(self.said, inputs=arguments, spans=self._spans(ids), ids=apart)
        samples = resolve_samples(given, self.processor, self.anatomy.image_token)
        return samples if names is None else replace(samples, ids=names)

    def _spans(self, ids: Tensor) -> Spans | None:
        """The masks that were said, once for each beam of a sample."""
        if self.said.spans is None:
            return None
        masks = {k: torch.as_tensor(m) for k, m in self.said.spans.items()}
        times = _beams(ids, len(next(iter(masks.values()))))
        return Spans(**{k: m.repeat_interleave(times, 0) for k, m in masks.items()})

    def _names(self, ids: Tensor) -> tuple[str, ...] | None:
        """Those that were said; None, a hash of the content, where noise is drawn by them."""
        if self.said.ids is not None:
            times = _beams(ids, len(self.said.ids))
            return tuple(name for name in self.said.ids for _ in range(times))
        return None if self.by_content else tuple(map(str, range(len(ids))))


def _beams(ids: Tensor, n: int) -> int:
    """How often each of n samples stands beside itself."""
    times = len(ids) // max(n, 1)
    same = times > 1 and torch.equal(ids, ids[::times].repeat_interleave(times, 0))
    return times if same else 1
