"""Moments: mean and deviation of a span's embeddings, so that noise looks like them."""

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
    """Running mean and variance of vectors, float64, by Chan's pairwise update."""

    count: int
    mean: Float[Tensor, " width"]
    square: Float[Tensor, " width"]
    """Sum of squared deviations from the mean."""

    @classmethod
    def of(cls, vectors: Float[Tensor, "tokens width"]) -> Moment:
        """The moment of some vectors."""
        vectors = vectors.detach().cpu().double()
        mean = vectors.mean(0)
        return cls(len(vectors), mean, (vectors - mean).square().sum(0))

    def __add__(self, other: Moment) -> Moment:
        """The moment of both together.

        Source:
            Updating formulae and a pairwise algorithm for computing sample variances (Chan,
            Golub, LeVeque, 1979), https://doi.org/10.1007/978-3-642-51461-6_3
        """
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        spread = step.square() * (self.count * other.count / count)
        return Moment(count, mean, self.square + other.square + spread)

    @property
    def std(self) -> Float[Tensor, " width"]:
        """Population standard deviation."""
        return (self.square / self.count).sqrt()


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments(Mapping[str, Moment]):
    """Per-dimension moments of the embeddings at the decoder's input, span by span.

    Made by `calibrate`. They belong to one model (its fingerprint) and one site.

    Example:
        >>> import torch
        >>> parts = [Moments(model="m", site="s", spans={"image": Moment.of(x)})
        ...          for x in (torch.zeros(3, 2), torch.ones(3, 2))]
        >>> (parts[0] + parts[1])["image"].std
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    model: str
    """Fingerprint of the model they were measured on."""
    site: str
    """Where: the decoder's path and argument."""
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
        """The moments of both samples together; ValueError if model or site differ."""
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
        """Refuses to serve another model than the one they were measured on."""
        if (self.model, self.site) != (model, site):
            raise ValueError(
                f"these moments belong to model {self.model} at {self.site}, not to {model} at "
                f"{site}: noise from them would not look like its embeddings. Run "
                "pid_lens.calibrate(model, batches) on this model"
            )

    @property
    def fingerprint(self) -> str:
        """A short hash of all numbers."""
        digest = hashlib.sha256(f"{self.model}{self.site}".encode())
        for name in sorted(self.spans):
            digest.update(name.encode() + self.spans[name].mean.numpy().tobytes())
            digest.update(self.spans[name].square.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file."""
        tensors = {f"{name}.mean": moment.mean for name, moment in self.spans.items()}
        tensors |= {f"{name}.square": moment.square for name, moment in self.spans.items()}
        counts = {name: moment.count for name, moment in self.spans.items()}
        about = {"model": self.model, "site": self.site, "counts": counts}
        save_record(path, "pid_lens.Moments", tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Reads what `save` wrote."""
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
    """What a span is called at an entrance of the decoder; "" is that of its embeddings."""
    return f"{span}@{site}" if site else span


def moments_of(asking: Any, moments: Moments | None, span: str, site: str = "") -> Moment:
    """The moment of a span at a site.

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
