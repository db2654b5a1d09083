"""Replay: a user's block runs once per condition and draw, unforked; its reads are joined."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pid_lens.reads import Reads, mean_probability, spread_of

if TYPE_CHECKING:
    from pid_lens.interventions import Variation


@dataclass
class View:
    """Context of a replay in which a forward pass runs under one condition and draw.

    `Lens.views` yields last the view that no condition ablates, where there is one.

    Attributes:
        variation: the condition, the draw and their interventions.
        seen: reads of the passes that ran in the view.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=32)))
        >>> conditions = {"full": [], "blind": [pid_lens.Zero("image")]}
        >>> lens = pid_lens.Lens(model, processor, conditions=conditions)
        >>> for view in lens.views(batch):
        ...     with view:
        ...         print(view, len(model(**batch.inputs).logits))
        View(blind, draw 0) 32
        View(full, draw 0) 32
        >>> lens.reads.accuracy(condition="full"), lens.reads.accuracy(condition="blind") < 0.8
        (1.0, True)
    """

    variation: Variation
    seen: list[Reads]
    _opened: AbstractContextManager

    @property
    def condition(self) -> str:
        """Name of the condition."""
        return self.variation.condition

    def __enter__(self) -> Self:
        self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def __repr__(self) -> str:
        return f"View({self.condition}, draw {self.variation.draw})"


def join_views(views: list[View], conditions: tuple[str, ...]) -> Reads:
    """Join the reads of views: average the draws of each condition, stack the conditions.

    Args:
        views: one for each condition and draw.
        conditions: names of the conditions, in the order that the reads are to have.

    Raises:
        ValueError: no forward pass ran in a view, or over other samples than in the first.

    Example:
        >>> import torch
        >>> from contextlib import nullcontext
        >>> from pid_lens import Reads
        >>> from pid_lens.forward import View
        >>> from pid_lens.interventions import Variation
        >>> views = []
        >>> for draw, p in enumerate((0.2, 0.6)):
        ...     reads = Reads.from_posteriors(
        ...         torch.tensor([[[[p, 1 - p]]]]).log(), conditions=["blind"]
        ...     )
        ...     views.append(View(Variation("blind", draw), [reads], nullcontext()))
        >>> join_views(views, ("blind",)).log_probs.exp()
        tensor([[[[0.4000, 0.6000]]]])
    """
    draws: dict[str, list[Reads]] = {}
    for view in views:
        if not view.seen:
            raise ValueError(
                f"no forward pass ran in the view of {view.condition!r}: run your block in every "
                "view, `for view in lens.views(): with view: model(**inputs)`"
            )
        draws.setdefault(view.condition, []).append(Reads.concat(view.seen))
    whole = Reads.join(**{name: _average_draws(draws[name]) for name in conditions})
    kept = next((reads for parts in draws.values() for reads in parts if reads.states), None)
    if kept is None:
        return whole
    return replace(whole, states=kept.rows(map(kept.ids.index, whole.ids)).states)


def _average_draws(draws: list[Reads]) -> Reads:
    """Average the probabilities over several draws of one condition over the same samples."""
    whole = Reads.join(**{str(draw): reads for draw, reads in enumerate(draws)})
    mean = mean_probability(whole.log_probs)[:, None]
    spread = spread_of(whole.log_probs)[:, None] if len(draws) > 1 else None
    return replace(whole, log_probs=mean, spread=spread, conditions=draws[0].conditions)
