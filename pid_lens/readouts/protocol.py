"""Readout: the extension point; anything with its method plugs in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from pid_lens.model import Anatomy


@runtime_checkable
class Readout(Protocol):
    """From the state at the answer position to the log-probability of each option."""

    def __call__(
        self,
        state: Float[Tensor, "n width"],
        options: Int[Tensor, "n answers"],
        anatomy: Anatomy,
        layer: int,
    ) -> Float[Tensor, "n answers"]:
        """Full-vocabulary log-probabilities of the options, -inf where an option is absent."""
