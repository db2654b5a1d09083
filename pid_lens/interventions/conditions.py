"""Conditions: the interventions of each condition that a decomposition needs.

By default ``full`` ablates nothing, ``vision`` ablates the question and ``language`` the image,
both by `Noise` in one draw (``draws=1``) of seed 0. D draws of a condition take D row blocks.
"""

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
"""What each default condition ablates; it is named after the modality that is left."""


def as_conditions(conditions: Mapping[str, Any]) -> dict[str, tuple[Intervention, ...]]:
    """Require conditions by name, each with a list of interventions; return these as tuples.

    Raises:
        TypeError: the interventions of a condition are not a list of interventions.
        ValueError: there is no condition.
    """
    if not conditions:
        raise ValueError("a Lens needs at least one condition; {'full': []} ablates nothing")
    return {
        str(name): as_interventions(f"condition {name!r}", interventions)
        for name, interventions in conditions.items()
    }


def as_interventions(name: str, interventions: Any) -> tuple[Intervention, ...]:
    """Require a list of interventions whose reprs say their settings; return it as a tuple.

    Args:
        name: what the list is called in an error.
        interventions: the list as the user gave it.

    Raises:
        TypeError: it is not a list of interventions, or the repr of one does not say its settings.

    Example:
        >>> from pid_lens import Noise
        >>> as_interventions("interventions", [Noise("image", draws=4)])
        (Noise(span='image', seed=None, draws=4),)
        >>> as_interventions("interventions", Noise("image"))
        Traceback (most recent call last):
            ...
        TypeError: interventions must be a list of interventions, [] for none; got Noise(...)
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
    """Fill in the settings that interventions left open.

    Args:
        interventions: as the user made them.
        moments: mean and standard deviation of embeddings, for noise and mean ablation.
        seed: for random interventions without one.
        draws: for random interventions that do not say how many.

    Raises:
        ValueError: an intervention needs moments of a span, and there are none.

    Example:
        >>> import torch
        >>> from pid_lens import Noise
        >>> from pid_lens.interventions import Moment, Moments
        >>> moments = Moments(model="m", site="s", spans={"image": Moment.of(torch.eye(2))})
        >>> noise = Noise("image"), Noise("image", draws=5)
        >>> complete_each(noise, moments=moments, seed=7, draws=2)
        (Noise(span='image', seed=7, draws=2), Noise(span='image', seed=7, draws=5))
    """
    return tuple(one.complete(moments=moments, seed=seed, draws=draws) for one in interventions)


@dataclass(frozen=True, eq=False)
class Conditions:
    """The interventions of every condition of a reading, with no setting left open.

    Attributes:
        named: condition -> the interventions that it adds to those in ``always``.
        always: the interventions common to all conditions.

    Example:
        >>> from pid_lens.interventions import Zero
        >>> conditions = Conditions.of({"blind": [Zero("image")], "full": []})
        >>> conditions.named["blind"], conditions.drawn
        ((Zero(span='image'),), {'blind': 1, 'full': 1})
    """

    named: dict[str, tuple[Intervention, ...]]
    always: tuple[Intervention, ...] = ()

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
        """Complete the conditions that a user gives.

        Args:
            conditions: name -> interventions; None for ``full`` (nothing ablated), ``vision``
                (question noised) and ``language`` (image noised).
            always: interventions common to all conditions.
            moments: mean and standard deviation of embeddings, for interventions without their
                own.
            seed: of the noise, for interventions without their own.
            draws: how often noise is drawn, for interventions that do not say.

        Raises:
            TypeError: not lists of interventions.
            ValueError: no condition, or no moments for the noise.
        """
        complete = partial(complete_each, moments=moments, seed=seed, draws=draws)
        completed = complete(as_interventions("interventions", always))
        given = as_conditions(CONDITIONS if conditions is None else conditions)
        return cls({name: complete(ablations) for name, ablations in given.items()}, completed)

    @property
    def every(self) -> tuple[Intervention, ...]:
        """All interventions: those common to all conditions, then those of each condition."""
        return (*self.always, *chain(*self.named.values()))

    @property
    def drawn(self) -> dict[str, int]:
        """Number of draws of each condition.

        Raises:
            ValueError: interventions of one condition with different numbers of draws.
        """
        return {
            name: draws_of(name, (*self.always, *ablations))
            for name, ablations in self.named.items()
        }

    @property
    def variations(self) -> tuple[Variation, ...]:
        """Every condition and draw, one block of batch rows each.

        First comes one with the interventions of ``always`` alone: its rows are those that the
        caller's forward pass returns. It is a condition without interventions of its own, or
        else a nameless one.

        Raises:
            ValueError: as `drawn`.

        Example:
            >>> conditions = Conditions({"blind": (Noise("image", draws=2),), "full": ()})
            >>> [variation.condition for variation in conditions.variations]
            ['full', 'blind', 'blind']
        """
        drawn = self.drawn
        every = [
            Variation(name, draw, (*self.always, *ablations))
            for name, ablations in self.named.items()
            for draw in range(drawn[name])
        ]
        plain = next((v for v in every if v.interventions == self.always), None)
        plain = plain or Variation("", 0, self.always)
        return (plain, *(v for v in every if v is not plain))

    @property
    def moments(self) -> list[str]:
        """Fingerprints of the moments that interventions use, which their reprs leave out."""
        found = (getattr(one, "moments", None) for one in self.every)
        return sorted({moments.fingerprint for moments in found if moments is not None})


def draws_of(name: str, interventions: tuple[Intervention, ...]) -> int:
    """Return a condition's number of draws: the one that its random interventions ask for.

    Raises:
        ValueError: they ask for different numbers.
    """
    counts = {i.draws or 1 for i in interventions} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"condition {name!r} has interventions of {sorted(counts)} draws: give them the same "
            "number, so that each draw counts alike"
        )
    return max(counts, default=1)


def require_same_model(
    interventions: Iterable[Intervention], anatomy: Anatomy, fingerprint: str | None = None
) -> None:
    """Require that the moments and donors of interventions were measured on this model.

    Args:
        interventions: with moments, donors or neither.
        anatomy: the model's modules.
        fingerprint: the model's, where it is known; else it is computed if it is needed.

    Raises:
        ValueError: they come from another model, or from another site of this one.

    Example:
        >>> import pid_lens
        >>> from pid_lens import Noise
        >>> model, _ = pid_lens.demo.load()
        >>> elsewhere = Noise("image", pid_lens.Moments(model="another", site="s"))
        >>> require_same_model([elsewhere], pid_lens.dissect(model))
        Traceback (most recent call last):
            ...
        ValueError: these moments belong to model another at s, not to ...
    """
    found = [getattr(one, name, None) for one in interventions for name in ("moments", "donors")]
    measured = [one for one in found if one is not None]
    if measured:
        model, site = fingerprint or anatomy.fingerprint(), anatomy.site
        for one in measured:
            one.check(model, site)
