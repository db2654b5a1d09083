"""Replay: somebody's own block, run once a condition, and its views put together."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pid_lens.reads import Reads, mean_probability, spread_of

if TYPE_CHECKING:
    from pid_lens.interventions import Variation


@dataclass
class View:
    """One condition and draw of a replay: a context in which your own block runs as it is."""

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
    """Views as one record: draws averaged, conditions side by side in their order.

    Raises:
        ValueError: no forward pass ran in a view, or over other samples than in the first.
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
    """Several draws of one condition over the same samples as one."""
    whole = Reads.join(**{str(draw): reads for draw, reads in enumerate(draws)})
    mean = mean_probability(whole.log_probs)[:, None]
    spread = spread_of(whole.log_probs)[:, None] if len(draws) > 1 else None
    return replace(whole, log_probs=mean, spread=spread, conditions=draws[0].conditions)
