"""Donors of a resample ablation: embeddings of spans, to be patched into other samples."""

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
    """Embeddings of some samples' spans at the decoder's input, for `Resample`.

    Made by `collect`. They belong to one model (its fingerprint) and one site.

    Attributes:
        model: fingerprint of the model that they come from.
        site: the decoder's path and argument that they were recorded at.
        ids: names of the samples, or hashes of their content.
        spans: span -> its embeddings [tokens, width], one tensor per sample; named
            ``span@site`` for what enters the decoder elsewhere than in its embeddings.

    Example:
        >>> import torch
        >>> images = torch.zeros(2, 3), torch.ones(2, 3)
        >>> donors = Donors(model="m", site="s", ids=("a", "b"), spans={"image": images})
        >>> donors.choose("image", "a", tokens=1, key=0)
        tensor([[1., 1., 1.]])
    """

    model: str
    site: str
    ids: tuple[str, ...]
    spans: dict[str, tuple[Float[Tensor, "tokens width"], ...]] = field(default_factory=dict)

    def of(self, span: str, site: str = "") -> tuple[Float[Tensor, "tokens width"], ...]:
        """Look up a span's embeddings, one tensor per sample.

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
        """Choose a donor by a key; return the embeddings of its span's first tokens.

        Args:
            span: name of the span.
            name: id of the sample to be patched; it is not its own donor.
            tokens: how many are needed. Donors with exactly as many are preferred.
            key: a random whole number, 0 or more, which selects the donor.
            site: where the vectors enter the decoder; "" for its embeddings.

        Raises:
            ValueError: no other donor has at least this many tokens, or donors have other numbers
                of vectors at the site than in the prompt.
        """
        lengths = [len(one) for one in self.of(span, site)]
        if site and len({*lengths, tokens}) > 1 and lengths != [len(one) for one in self.of(span)]:
            raise ValueError(
                f"donors have other numbers of vectors of {span!r} at {site} than in the prompt, "
                "so that one and the same donor cannot be taken for both: use Noise"
            )
        # Candidates: not the sample itself; of the same length, or else longer
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
        """A short hash of model, site, ids and all embeddings."""
        digest = hashlib.sha256(f"{self.model}{self.site}{self.ids}".encode())
        for name in sorted(self.spans):
            for one in self.spans[name]:
                digest.update(name.encode() + one.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, model: str, site: str) -> None:
        """Raise a ValueError unless they come from this model and site."""
        if (self.model, self.site) != (model, site):
            raise ValueError(
                f"these donors come from model {self.model} at {self.site}, not from {model} at "
                f"{site}: run pid_lens.collect(model, batches) on this model"
            )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self.spans.items())
        return f"Donors({sizes} samples, {self.fingerprint})"
