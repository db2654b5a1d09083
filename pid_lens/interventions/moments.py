"""Moments: mean and variance of embeddings, which calibrate noise and mean ablation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pid_lens.inputs import UnknownSpan
from pid_lens.records import load_record, save_record

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moment:
    """Running mean and variance of vectors, float64, by Chan's pairwise update.

    Attributes:
        count: number of vectors.
        mean: their mean in each dimension, [width].
        square: sum of squared deviations from the mean in each dimension, [width].

    Example:
        >>> import torch
        >>> both = Moment.of(torch.tensor([[0.], [2.]])) + Moment.of(torch.tensor([[7.]]))
        >>> both.count, both.mean, both.square
        (3, tensor([3.], dtype=torch.float64), tensor([26.], dtype=torch.float64))
    """

    count: int
    mean: Float[Tensor, " width"]
    square: Float[Tensor, " width"]

    @classmethod
    def of(cls, vectors: Float[Tensor, "tokens width"]) -> Moment:
        """Compute the moment of some vectors, in two passes over them."""
        # Mean, then M2 = sum_i (x_i - mean)^2
        vectors = vectors.detach().cpu().double()
        mean = vectors.mean(0)
        return cls(len(vectors), mean, (vectors - mean).square().sum(0))

    def __add__(self, other: Moment) -> Moment:
        """Merge two moments into that of both sets of vectors.

        Source:
            Updating formulae and a pairwise algorithm for computing sample variances (Chan,
            Golub, LeVeque, 1979), https://doi.org/10.1007/978-3-642-51461-6_3
        """
        # Chan's update of the mean: d = mean_b - mean_a, mean = mean_a + d n_b / n
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        # ... and of the squares: M2 = M2_a + M2_b + d^2 n_a n_b / n
        spread = step.square() * (self.count * other.count / count)
        return Moment(count, mean, self.square + other.square + spread)

    @property
    def std(self) -> Float[Tensor, " width"]:
        """Population standard deviation in each dimension."""
        return (self.square / self.count).sqrt()


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments(Mapping[str, Moment]):
    """Per-dimension moments of the embeddings at the decoder's input, span by span.

    A mapping span -> `Moment`, made by `calibrate`. They belong to one model (its fingerprint) and
    one site.

    Attributes:
        model: fingerprint of the model that they were measured on.
        site: the decoder's path and argument that they were measured at.
        spans: span -> the moment of its embeddings; named ``span@site`` for what enters the
            decoder elsewhere than in its embeddings.

    Raises:
        UnknownSpan: ``moments[span]`` of a span that was not measured.

    Example:
        >>> import torch
        >>> from pid_lens.interventions import Moment
        >>> parts = [Moments(model="m", site="s", spans={"image": Moment.of(x)})
        ...          for x in (torch.zeros(3, 2), torch.ones(3, 2))]
        >>> (parts[0] + parts[1])["image"].std
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    model: str
    site: str
    spans: dict[str, Moment] = field(default_factory=dict)

    def __getitem__(self, span: str) -> Moment:
        if span not in self.spans:
            raise UnknownSpan(
                f"no moments for span {span!r}; there are {', '.join(self.spans)}. Calibrate "
                "with batches that have it"
            )
        return self.spans[span]

    def __iter__(self) -> Any:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __add__(self, other: Moments) -> Moments:
        """Merge the moments of two data sets.

        Raises:
            ValueError: they belong to different models or sites.
        """
        other.check(self.model, self.site)
        names = dict.fromkeys((*self.spans, *other.spans))
        merged = {
            name: self.spans[name] + other.spans[name]
            if name in self.spans and name in other.spans
            else self.spans.get(name) or other.spans[name]
            for name in names
        }
        return Moments(model=self.model, site=self.site, spans=merged)

    def check(self, model: str, site: str) -> None:
        """Raise a ValueError unless they were measured on this model and site."""
        if (self.model, self.site) != (model, site):
            raise ValueError(
                f"these moments belong to model {self.model} at {self.site}, not to {model} at "
                f"{site}: noise from them would not look like its embeddings. Run "
                "pid_lens.calibrate(model, batches) on this model"
            )

    @property
    def fingerprint(self) -> str:
        """A short hash of model, site and all means and squares."""
        digest = hashlib.sha256(f"{self.model}{self.site}".encode())
        for name in sorted(self.spans):
            digest.update(name.encode() + self.spans[name].mean.numpy().tobytes())
            digest.update(self.spans[name].square.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        tensors = {f"{name}.mean": moment.mean for name, moment in self.spans.items()}
        tensors |= {f"{name}.square": moment.square for name, moment in self.spans.items()}
        counts = {name: moment.count for name, moment in self.spans.items()}
        about = {"model": self.model, "site": self.site, "counts": counts}
        save_record(path, "pid_lens.Moments", tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Load what `save` wrote.

        Raises:
            ValueError: the file is not a safetensors file, or holds another kind of record.
            FileNotFoundError: there is no such file.
        """
        tensors, about = load_record(path, "pid_lens.Moments")
        spans = {
            name: Moment(count, tensors[f"{name}.mean"], tensors[f"{name}.square"])
            for name, count in about["counts"].items()
        }
        return cls(model=about["model"], site=about["site"], spans=spans)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {m.count} tokens" for name, m in self.spans.items())
        return f"Moments({sizes}, model {self.model}, at {self.site})"


def span_at_site(span: str, site: str) -> str:
    """Name a span at a site where vectors enter the decoder; "" for its embeddings."""
    return f"{span}@{site}" if site else span


def moments_of(asking: Any, moments: Moments | None, span: str, site: str = "") -> Moment:
    """Look up the moment of a span at a site, for the intervention that asks.

    Raises:
        ValueError: there are no moments at all, or none for this span.
    """
    if moments is None:
        raise ValueError(
            f"{asking!r} needs the moments of the {span}'s embeddings: moments = "
            "pid_lens.calibrate(model, batches, processor=processor), then "
            "Lens(..., moments=moments)"
        )
    return moments[span_at_site(span, site)]
