"""Noise ablation: calibrated Gaussian noise in place of a span's embeddings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from pid_lens.interventions.moments import moments_of, span_at_site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.interventions.moments import Moments


@dataclass(frozen=True)
class Noise:
    """Noise ablation: calibrated Gaussian noise in place of a span, at the decoder's input.

    The noise has the embeddings' mean and standard deviation in each dimension, and carries no
    information about this sample's.

    ::

        e[token] <- mu + sigma * z,    z ~ N(0, I)

    with mu, sigma the span's per-dimension moments (`calibrate`). z is a function of (seed,
    sample id, span, site, rank of the token in its span, draw) alone: never of the batch, the
    order, the padding or the device. What a Lens averages over draws is p(y | the other modality),
    an expectation over this noise.

    Attributes:
        span: name of the span to ablate, ``"image"``, ``"question"`` or one of your own.
        moments: mean and standard deviation of its embeddings, from `calibrate`; by default the
            Lens's moments.
        seed: of the noise; by default the Lens's seed (0).
        draws: independent draws to average over; by default the Lens's number (1).

    Raises:
        ValueError: fewer than one draw.

    Source:
        A comprehensive information-decomposition analysis of large vision-language models (ICLR
        2026), https://openreview.net/forum?id=6WsBGk4Iag: the ablation, there with one draw

    Example:
        >>> import torch
        >>> from pid_lens import Moments, Spans
        >>> from pid_lens.inputs import Samples
        >>> from pid_lens.interventions import Moment
        >>> measured = Moment.of(torch.tensor([[4.], [6.]]))  # mean 5, deviation 1
        >>> moments = Moments(model="m", site="s", spans={"image": measured})
        >>> samples = Samples.of_spans(Spans(image=torch.arange(1000)[None] < 999))
        >>> noise = Noise("image", moments, seed=0, draws=1)
        >>> noised = noise.edit(torch.zeros(1, 1000, 1), samples, draw=0).flatten()
        >>> round(noised[:999].mean().item()), round(noised[:999].std().item()), noised[999].item()
        (5, 1, 0.0)
    """

    span: str
    moments: Moments | None = field(default=None, repr=False, compare=False)
    seed: int | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.draws is not None and self.draws < 1:
            raise ValueError(f"noise needs at least one draw; got draws={self.draws}")

    def complete(self, *, moments: Moments | None, seed: int, draws: int) -> Self:
        """Fill in the moments, seed and draws that were left to the Lens.

        Raises:
            ValueError: there are no moments at all, or none for this span.
        """
        found = moments if self.moments is None else self.moments
        moments_of(self, found, self.span)
        return replace(
            self,
            moments=found,
            seed=seed if self.seed is None else self.seed,
            draws=draws if self.draws is None else self.draws,
        )

    def edit(
        self, embeddings: Float[Tensor, "n tokens width"], samples: Samples, draw: int
    ) -> Float[Tensor, "n tokens width"]:
        """Ablate the span's embeddings with a draw of the noise."""
        mask = samples.spans[self.span]
        if not bool(mask.any()):
            return embeddings
        span = span_at_site(self.span, samples.site)
        moment = moments_of(self, self.moments, self.span, samples.site)
        # z ~ N(0, I) for each sample's tokens, keyed by the sample and not by its row
        width = embeddings.shape[-1]
        z = [
            gaussian_noise(f"{self.seed}/{name}/{span}/{draw}", count, width)
            for name, count in zip(samples.ids, mask.sum(-1).tolist(), strict=True)
        ]
        # mu + sigma z, written to the span's positions
        noise = moment.mean + moment.std * torch.from_numpy(np.concatenate(z))
        edited = embeddings.clone()
        edited[mask.to(embeddings.device)] = noise.to(embeddings)
        return edited


def gaussian_noise(key: str, tokens: int, width: int) -> np.ndarray:
    """Draw standard normal numbers [tokens, width] that depend on the key alone.

    Row r is the same for any number of rows. The generator is counter-based (Philox),
    keyed by a hash, and runs on the CPU, so that models on all devices get the same numbers.

    Source:
        Parallel random numbers: as easy as 1, 2, 3 (Salmon, Moraes, Dror, Shaw, 2011),
        https://doi.org/10.1145/2063384.2063405

    Example:
        >>> bool((gaussian_noise("a", 3, 8)[:2] == gaussian_noise("a", 2, 8)).all())
        True
    """
    # Philox is keyed by 128 bits: the first half of SHA-256(key)
    digest = hashlib.sha256(key.encode()).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return stream.standard_normal((tokens, width), dtype=np.float32)
