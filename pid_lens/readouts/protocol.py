"""Protocol of readouts: from a residual stream to log-probabilities of the options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from pid_lens.model import Anatomy


@runtime_checkable
class Readout(Protocol):
    """A readout of the residual stream at the answer position: log-probability of each option.

    An object with this method plugs in, ``Lens(..., readout=...)``. Its ``repr`` must say its
    settings, as that of a frozen dataclass does.

    Example:
        >>> from dataclasses import dataclass
        >>> from pid_lens.readouts import LogitLens
        >>> @dataclass(frozen=True)
        ... class Scaled:
        ...     factor: float
        ...
        ...     def __call__(self, state, options, anatomy, layer):
        ...         return LogitLens()(self.factor * state, options, anatomy, layer)
        >>> isinstance(Scaled(0.5), Readout), isinstance("logit lens", Readout)
        (True, False)
    """

    def __call__(
        self,
        state: Float[Tensor, "n width"],
        options: Int[Tensor, "n answers"],
        anatomy: Anatomy,
        layer: int,
    ) -> Float[Tensor, "n answers"]:
        """Compute full-vocabulary log-probabilities of the options, -inf where one is absent.

        Args:
            state: the residual stream after a layer, at the answer position.
            options: token id of each option, -1 where a sample has fewer.
            anatomy: the model's modules, the final norm and the unembedding among them.
            layer: number of the layer.
        """
