"""Donors: the embeddings of some samples' spans, to be put in the place of others'."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from pid_lens.inputs import UnknownSpan
from pid_lens.interventions.moments import span_at_site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Donors:
    """What spans of some samples look like at the decoder's input; made by `collect`."""

    model: str
    """Fingerprint of the model they come from."""
    site: str
    """Where: the decoder's path and argument."""
    ids: tuple[str, ...]
    """Names of the samples, or hashes of their content."""
    spans: dict[str, tuple[Float[Tensor, "tokens width"], ...]] = field(default_factory=dict)
    """The embeddings of each sample's span, one tensor a sample; ``span@site`` where a decoder
    has further entrances."""

    def of(self, span: str, site: str = "") -> tuple[Float[Tensor, "tokens width"], ...]:
        """The embeddings of a span.

        Raises:
            UnknownSpan: it was not collected.
        """
        name = span_at_site(span, site)
        if name not in self.spans:
            raise UnknownSpan(
                f"no donors for span {name!r}; there are {', '.join(self.spans)}: collect them, "
                f"pid_lens.collect(model, batches, spans=({span!r},))"
            )
        return self.spans[name]

    def choose(
        self, span: str, name: str, tokens: int, key: int, site: str = ""
    ) -> Float[Tensor, "tokens width"]:
        """The first tokens of a donor's span, the donor being chosen by a key.

        Args:
            span: of which.
            name: of the sample that is given; it is not its own donor.
            tokens: how many are needed. Donors with the same number are preferred.
            key: any number.
            site: another entrance than the embeddings.

        Raises:
            ValueError: nobody else has as many tokens.
        """
        lengths = [len(one) for one in self.of(span, site)]
        if site and len({*lengths, tokens}) > 1 and lengths != [len(one) for one in self.of(span)]:
            raise ValueError(
                f"donors have other numbers of vectors of {span!r} at {site} than in the prompt, "
                "so that one and the same donor cannot be taken for both: use Noise"
            )
        others = [row for row, donor in enumerate(self.ids) if donor != name]
        same = [row for row in others if lengths[row] == tokens]
        fitting = same or [row for row in others if lengths[row] > tokens]
        if not fitting:
            raise ValueError(
                f"no donor but {name!r} itself has {tokens} tokens of {span!r} or more (the most "
                f"are {max(lengths)}): collect more samples"
            )
        return self.of(span, site)[fitting[key % len(fitting)]][:tokens]

    @property
    def fingerprint(self) -> str:
        """A short hash of all numbers."""
        digest = hashlib.sha256(f"{self.model}{self.site}{self.ids}".encode())
        for name in sorted(self.spans):
            for one in self.spans[name]:
                digest.update(name.encode() + one.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, model: str, site: str) -> None:
        """Refuses to serve another model than the one they come from."""
        if (self.model, self.site) != (model, site):
            raise ValueError(
                f"these donors come from model {self.model} at {self.site}, not from {model} at "
                f"{site}: run pid_lens.collect(model, batches) on this model"
            )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self.spans.items())
        return f"Donors({sizes} samples, {self.fingerprint})"
