"""What estimators by critics share: how critics are built, trained and held out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from pid_lens.estimators.common.clusters import Groups
from pid_lens.estimators.common.over_reads import OverReads
from pid_lens.estimators.infonce.critics import CRITIC_RECIPES, CriticConstants
from pid_lens.results import Curve, Unit, require_unit


@dataclass
class ByCritics(OverReads):
    """An estimator by critics; its own fields come first, from a base of their own.

    Dataclasses collect fields from the last base to the first, so that
    ``class Own(ByCritics, Sides)`` takes those of ``Sides`` before these.
    """

    constants: CriticConstants = "default"
    components: int | None = 64
    """Keep so many principal components of each state's normal scores; None keeps all, as
    ``constants="paper"`` always does."""
    folds: int = 3
    """In how many parts samples are held out."""
    seed: int = 0
    """Of folds, weights and batches."""
    unit: Unit = "bits"
    groups: Groups | None = field(default=None, repr=False)
    """Sample id -> its cluster, where samples are not independent (several questions on one
    image)."""
    progress: bool = field(default=True, repr=False, compare=False)
    """Whether to show a bar when it takes longer than two seconds."""

    def __post_init__(self) -> None:
        require_known("constants", self.constants, CRITIC_RECIPES)
        require_unit(self.unit)
        if self.components is not None and self.components < 1:
            raise ValueError(f"components must be at least 1, or None; got {self.components}")
        if not CRITIC_RECIPES[self.constants].gaussian:
            _require_all_components(self.components)
            self.components = None
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2; got {self.folds}")

    @property
    def critic_settings(self) -> dict[str, Any]:
        """These fields by name, for another estimator by the same critics."""
        return {one.name: getattr(self, one.name) for one in fields(ByCritics) if one.init}

    def settings_of(self, *own: str) -> dict[str, Any]:
        """What a result depends on: some settings of the estimator's own, and the critics'."""
        names = (*own, "constants", "components", "folds", "seed")
        said = {name: getattr(self, name) for name in names}
        return {**said, "clustered": self.groups is not None}


def require_known(name: str, given: str, known: Iterable[str]) -> None:
    """A setting must be one of those that there are.

    Raises:
        ValueError: it is none of them.
    """
    if given not in known:
        raise ValueError(f"{name} must be one of {tuple(known)}; got {given!r}")


def near_cap_layers(curve: Curve) -> str:
    """The layers at which a curve is near its cap, as a list."""
    layers = curve.near_cap.nonzero().flatten().tolist()
    return ", ".join(str(curve.layers[at]) for at in layers)


def _require_all_components(given: int | None) -> None:
    """The paper's encoder takes states as they are.

    Raises:
        ValueError: some other number of components was asked for.
    """
    if given not in (None, ByCritics.components):
        raise ValueError(
            f"constants='paper' takes raw states, without components; got components={given}: "
            "leave it out, or take constants='default'"
        )
