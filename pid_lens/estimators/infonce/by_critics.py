"""Settings that contrastive estimators share: critics, principal components, folds, groups."""

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
    """An estimator by contrastive critics; its own fields come first, from a base of their own.

    Dataclasses collect fields from the last base to the first, so that
    ``class Own(ByCritics, Sides)`` takes those of ``Sides`` before these.

    Attributes:
        constants: name of the critics' recipe, ``"default"`` or ``"paper"``.
        components: principal components kept of each hidden state's normal scores; None keeps
            all, as ``constants="paper"`` always does.
        folds: number of parts of the samples; each is the held-out fold in turn.
        seed: of folds, weights and batches.
        unit: ``"bits"`` or ``"nats"``.
        groups: sample id -> its group of dependent samples (several questions on one image); None
            where all samples are independent.
        progress: whether to show a bar when it takes longer than two seconds.

    Raises:
        ValueError: unknown constants or unit, fewer than one component (or any with
            ``constants="paper"``), or fewer than two folds.
    """

    constants: CriticConstants = "default"
    components: int | None = 64
    folds: int = 3
    seed: int = 0
    unit: Unit = "bits"
    groups: Groups | None = field(default=None, repr=False)
    progress: bool = field(default=True, repr=False, compare=False)

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
        """These settings by name, for another estimator with the same critics."""
        return {one.name: getattr(self, one.name) for one in fields(ByCritics) if one.init}

    def settings_of(self, *own: str) -> dict[str, Any]:
        """Collect the settings that a result depends on: the estimator's own and the critics'."""
        names = (*own, "constants", "components", "folds", "seed")
        said = {name: getattr(self, name) for name in names}
        return {**said, "clustered": self.groups is not None}


def require_known(name: str, given: str, known: Iterable[str]) -> None:
    """Require that a setting has one of its known values.

    Raises:
        ValueError: it has another one.
    """
    if given not in known:
        raise ValueError(f"{name} must be one of {tuple(known)}; got {given!r}")


def near_cap_layers(curve: Curve) -> str:
    """List the layers at which a curve is near its cap, as text."""
    layers = curve.near_cap.nonzero().flatten().tolist()
    return ", ".join(str(curve.layers[at]) for at in layers)


def _require_all_components(given: int | None) -> None:
    """Require all components: the paper's encoder takes raw hidden states.

    Raises:
        ValueError: another number of components was asked for.
    """
    if given not in (None, ByCritics.components):
        raise ValueError(
            f"constants='paper' takes raw states, without components; got components={given}: "
            "leave it out, or take constants='default'"
        )
