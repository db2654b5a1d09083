"""Conditions: what is ablated in each of the passes that a decomposition needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from pid_lens.interventions.noise import Noise
from pid_lens.interventions.protocol import (
    AttentionIntervention,
    EmbeddingIntervention,
    Intervention,
)
from pid_lens.interventions.variation import Variation
from pid_lens.records import settings_repr

if TYPE_CHECKING:
    from pid_lens.interventions.moments import Moments
    from pid_lens.model import Anatomy

CONDITIONS: Mapping[str, tuple[Intervention, ...]] = {
    "full": (),
    "vision": (Noise("question"),),
    "language": (Noise("image"),),
}
"""What each default condition hides: what is left gives it its name."""


def as_conditions(conditions: Mapping[str, Any]) -> dict[str, tuple[Intervention, ...]]:
    """Conditions by name, each with a tuple of interventions.

    Raises:
        TypeError: a condition is no list of interventions.
        ValueError: there is no condition.
    """
    if not conditions:
        raise ValueError("a Lens needs at least one condition; {'full': []} hides nothing")
    return {
        str(name): as_interventions(f"condition {name!r}", hidden)
        for name, hidden in conditions.items()
    }


def as_interventions(name: str, interventions: Any) -> tuple[Intervention, ...]:
    """A list of interventions.

    Raises:
        TypeError: it is none, or they do not say their settings.
    """
    kinds = EmbeddingIntervention, AttentionIntervention
    sound = isinstance(interventions, list | tuple)
    if not sound or not all(isinstance(one, kinds) for one in interventions):
        raise TypeError(
            f"{name} must be a list of interventions, [] for none; got {interventions!r}"
        )
    for one in interventions:
        settings_repr(one)
    return tuple(interventions)


def complete_each(
    interventions: Iterable[Intervention], *, moments: Moments | None, seed: int, draws: int
) -> tuple[Intervention, ...]:
    """Interventions with nothing left open.

    Raises:
        ValueError: no moments for the noise of one.
    """
    return tuple(one.complete(moments=moments, seed=seed, draws=draws) for one in interventions)


@dataclass(frozen=True, eq=False)
class Conditions:
    """All conditions of a reading, with nothing left open in their interventions.

    Example:
        >>> Conditions.of({"blind": [], "full": []}).drawn
        {'blind': 1, 'full': 1}
    """

    named: dict[str, tuple[Intervention, ...]]
    """What each of them ablates beyond what is always in force."""
    always: tuple[Intervention, ...] = ()
    """What is in force in every one of them."""

    @classmethod
    def of(
        cls,
        conditions: Mapping[str, Any] | None,
        always: Any = (),
        *,
        moments: Moments | None = None,
        seed: int = 0,
        draws: int = 1,
    ) -> Self:
        """Conditions as a user gives them, completed.

        Args:
            conditions: name -> interventions; None for ``full``, ``vision`` and ``language``.
            always: interventions in force in every condition.
            moments: what noise looks like, where an intervention does not say.
            seed: of the noise.
            draws: how often noise is drawn.

        Raises:
            TypeError: no lists of interventions.
            ValueError: no condition, or no moments for the noise.
        """
        complete = partial(complete_each, moments=moments, seed=seed, draws=draws)
        completed = complete(as_interventions("interventions", always))
        given = as_conditions(CONDITIONS if conditions is None else conditions)
        return cls({name: complete(hidden) for name, hidden in given.items()}, completed)

    @property
    def every(self) -> tuple[Intervention, ...]:
        """All interventions."""
        return (*self.always, *chain(*self.named.values()))

    @property
    def drawn(self) -> dict[str, int]:
        """How often each condition is drawn.

        Raises:
            ValueError: interventions of one condition with different numbers of draws.
        """
        return {
            name: draws_of(name, (*self.always, *hidden)) for name, hidden in self.named.items()
        }

    @property
    def variations(self) -> tuple[Variation, ...]:
        """Every condition and draw, one that ablates nothing first: its rows are the caller's.

        Raises:
            ValueError: as `drawn`.

        Example:
            >>> conditions = Conditions({"blind": (Noise("image", draws=2),), "full": ()})
            >>> [variation.condition for variation in conditions.variations]
            ['full', 'blind', 'blind']
        """
        drawn = self.drawn
        every = [
            Variation(name, draw, (*self.always, *hidden))
            for name, hidden in self.named.items()
            for draw in range(drawn[name])
        ]
        plain = next((v for v in every if v.interventions == self.always), None)
        plain = plain or Variation("", 0, self.always)
        return (plain, *(v for v in every if v is not plain))

    @property
    def moments(self) -> list[str]:
        """Fingerprints of the moments behind interventions, whose reprs do not say them."""
        found = (getattr(one, "moments", None) for one in self.every)
        return sorted({moments.fingerprint for moments in found if moments is not None})


def draws_of(name: str, hidden: tuple[Intervention, ...]) -> int:
    """How often a condition is drawn: what all its random interventions ask for."""
    counts = {i.draws or 1 for i in hidden} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"condition {name!r} has interventions of {sorted(counts)} draws: give them the same "
            "number, so that each draw counts alike"
        )
    return max(counts, default=1)


def require_same_model(
    interventions: Iterable[Intervention], anatomy: Anatomy, fingerprint: str | None = None
) -> None:
    """Moments and donors must come from this model.

    Args:
        interventions: which may have some.
        anatomy: the model's.
        fingerprint: the model's, where it is known; else it is taken if it is needed.

    Raises:
        ValueError: they come from another one.
    """
    found = [getattr(one, name, None) for one in interventions for name in ("moments", "donors")]
    measured = [one for one in found if one is not None]
    if measured:
        model, site = fingerprint or anatomy.fingerprint(), anatomy.site
        for one in measured:
            one.check(model, site)
