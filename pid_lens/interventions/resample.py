"""Resample ablation: activation patching of a span's embeddings with another sample's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions.donors import Donors
    from pid_lens.interventions.moments import Moments


@dataclass(frozen=True)
class Resample:
    """Resample ablation: activation patching of a span's embeddings with another sample's.

    At the decoder's input: the model gets a real image (or question), but not this sample's.
    Donors come from a fixed collection (`Donors`) and are chosen by (seed, sample id, span, draw):
    never from the batch, so that results do not depend on its other rows. A sample is never its
    own donor. Donors with as many tokens as the span are preferred; else the first tokens of a
    longer one are taken.

    Attributes:
        span: name of the span to ablate.
        donors: embeddings of other samples, from `pid_lens.collect`.
        seed: of the choice of donors; by default the Lens's seed (0).
        draws: independent donors to average over; by default the Lens's number (1).

    Raises:
        TypeError: donors that are not from `pid_lens.collect`.
        ValueError: fewer than one draw, or donors without this span.

    Source:
        Interpretability in the wild: a circuit for indirect object identification in GPT-2 small
        (Wang et al., 2022), https://arxiv.org/abs/2211.00593: ablation by other samples

    Example:
        >>> import torch
        >>> from pid_lens import Donors, Spans
        >>> from pid_lens.inputs import Samples
        >>> donors = Donors(model="m", site="s", ids=("0", "1"),
        ...                 spans={"image": (torch.zeros(2, 3), torch.ones(2, 3))})
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, True, False]] * 2)))
        >>> patch = Resample("image", donors, seed=0)
        >>> patch.edit(torch.full((2, 3, 3), 5.), samples, draw=0)[..., 0]
        tensor([[1., 1., 5.],
                [0., 0., 5.]])
    """

    span: str
    donors: Donors
    seed: int | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.draws is not None and self.draws < 1:
            raise ValueError(f"resampling needs at least one draw; got draws={self.draws}")
        if not hasattr(self.donors, "choose"):
            raise TypeError(f"donors must be those of pid_lens.collect; got {self.donors!r}")
        self.donors.of(self.span)

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Fill in the seed and draws that were left to the Lens."""
        return replace(
            self,
            seed=seed if self.seed is None else self.seed,
            draws=draws if self.draws is None else self.draws,
        )

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """Patch the span's embeddings with those of other samples, one donor per sample.

        Raises:
            ValueError: no donor has as many tokens as a sample's span.
        """
        mask = samples.spans[self.span].cpu()
        if not bool(mask.any()):
            return embeddings
        # One donor per sample, and as many of its embeddings as the span has tokens
        counts = mask.sum(-1).tolist()
        given = [
            self.donors.choose(self.span, name, count, self._key(name, draw), samples.site)
            for name, count in zip(samples.ids, counts, strict=True)
        ]
        edited = embeddings.clone()
        edited[mask.to(embeddings.device)] = torch.cat(given).to(embeddings)
        return edited

    def _key(self, name: str, draw: int) -> int:
        digest = hashlib.sha256(f"{self.seed}/{name}/{self.span}/{draw}".encode()).digest()
        return int.from_bytes(digest[:8], "big")
