"""Prompt resolvers: find the samples (spans, ids) of the prompts that a model is called with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from pid_lens.inputs import Batch, Samples, Spans, resolve_samples

if TYPE_CHECKING:
    from torch import Tensor

    from pid_lens.model import Anatomy


class PromptResolver(Protocol):
    """Callable that finds the samples of the prompts in a call of the model.

    Example:
        >>> import pid_lens
        >>> anatomy = pid_lens.dissect(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> resolve: PromptResolver = WholeBatch(anatomy, batch)
        >>> resolve(batch.inputs["input_ids"], batch.inputs).spans["image"].sum(-1).tolist()
        [16, 16, 16, 16]
    """

    def __call__(self, ids: Tensor, arguments: dict[str, Any]) -> Samples:
        """Find the samples of prompts.

        Args:
            ids: token ids of the prompts, [rows, tokens], beams among the rows.
            arguments: the model's arguments, by name.

        Raises:
            ValueError: a span that cannot be found, or of another shape than the prompts.
        """


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """Prompt resolver for calls on a whole batch: each row is a prompt, or a beam of one.

    The beams of a prompt have its name and spans.

    Attributes:
        anatomy: the model's parts.
        said: the spans and ids that the caller gave; None for those to be found.
        processor: finds the question where no span is given.
        by_content: whether prompts without ids are named by a hash of their content, as noise
            needs, or by their numbers.

    Example:
        >>> import pid_lens
        >>> from pid_lens import Batch
        >>> anatomy = pid_lens.dissect(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=2)))
        >>> resolve = WholeBatch(anatomy, Batch(inputs={}, spans=batch.spans, ids=("a", "b")))
        >>> beams = {name: one.repeat_interleave(2, 0) for name, one in batch.inputs.items()}
        >>> resolve(beams["input_ids"], beams).ids
        ('a', 'a', 'b', 'b')
    """

    anatomy: Anatomy
    said: Batch
    processor: Any = None
    by_content: bool = False

    def __call__(self, ids: Tensor, arguments: dict[str, Any]) -> Samples:
        """Find the samples of prompts; the beams of one have its name."""
        names = self._names(ids)
        apart = None if names is None else tuple(map(str, range(len(ids))))
        given = replace(self.said, inputs=arguments, spans=self._spans(ids), ids=apart)
        samples = resolve_samples(given, self.processor, self.anatomy.image_token)
        return samples if names is None else replace(samples, ids=names)

    def _spans(self, ids: Tensor) -> Spans | None:
        """Repeat the given spans once for each beam of a sample; None if none was given."""
        if self.said.spans is None:
            return None
        masks = {k: torch.as_tensor(m) for k, m in self.said.spans.items()}
        times = _beams(ids, len(next(iter(masks.values()))))
        return Spans(**{k: m.repeat_interleave(times, 0) for k, m in masks.items()})

    def _names(self, ids: Tensor) -> tuple[str, ...] | None:
        """Repeat the given ids once per beam; without ids, number the rows, or None to hash."""
        if self.said.ids is not None:
            times = _beams(ids, len(self.said.ids))
            return tuple(name for name in self.said.ids for _ in range(times))
        return None if self.by_content else tuple(map(str, range(len(ids))))


def _beams(ids: Tensor, n: int) -> int:
    """Count the beams of each of n samples: equal rows, one after the other."""
    times = len(ids) // max(n, 1)
    same = times > 1 and torch.equal(ids, ids[::times].repeat_interleave(times, 0))
    return times if same else 1
