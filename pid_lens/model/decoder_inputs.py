"""Decoder inputs: every way by which image and question come into a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pid_lens.inputs import Spans

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import nn

    from pid_lens.inputs import Samples

EMBEDDINGS = "inputs_embeds"


@dataclass(frozen=True, eq=False)
class Entry:
    """Vectors that enter at one site, and how edited ones are put in their place."""

    vectors: Float[Tensor, "n tokens width"]
    samples: Samples
    """With the spans of these tokens: empty where a span does not enter here."""
    put: Callable[[dict[str, Any], Tensor], None]
    """Puts vectors, of any number of rows, into arguments of as many."""


class ImagePathway(Protocol):
    """A way into the decoder besides its embeddings."""

    @property
    def argument(self) -> str:
        """The decoder's argument that holds it."""

    def entries(self, arguments: Mapping[str, Any], samples: Samples) -> list[Entry]:
        """What enters, site by site."""


def embeddings_of(arguments: Mapping[str, Any], samples: Samples) -> Entry:
    """The main entrance, where images are merged in already."""

    def put(arguments: dict[str, Any], vectors: Tensor) -> None:
        arguments[EMBEDDINGS] = vectors

    return Entry(arguments[EMBEDDINGS], samples, put)


def embed_arguments(decoder: nn.Module, arguments: dict[str, Any]) -> dict[str, Any]:
    """A decoder's arguments with embeddings in place of token ids, where it was given those."""
    ids = arguments.get("input_ids")
    if arguments.get(EMBEDDINGS) is not None or ids is None:
        return arguments
    table: Any = decoder
    return {**arguments, "input_ids": None, EMBEDDINGS: table.get_input_embeddings()(ids)}


def entries_of(
    entrances: Sequence[ImagePathway], arguments: Mapping[str, Any], samples: Samples
) -> list[Entry]:
    """Everything that enters, the embeddings first."""
    given = [one for one in entrances if arguments.get(one.argument) is not None]
    sides = [entry for one in given for entry in one.entries(arguments, samples)]
    return [embeddings_of(arguments, samples), *sides]


def spans_beside_tokens(spans: Spans, seen: Bool[Tensor, "n states"] | None = None) -> Spans:
    """The spans of states that no token holds: all of them the image's."""
    n, _ = spans.shape
    seen = torch.ones(n, 1, dtype=torch.bool) if seen is None else seen
    return spans_of_whole("image", spans, seen)


def spans_of_whole(whole: str, spans: Spans, inside: Bool[Tensor, "n vectors"]) -> Spans:
    """Spans of vectors that stand for all of one span, and for nothing else.

    A span that covers that one is as good as it; of one that covers a part nobody knows which
    vectors are its: asking for it is a ValueError.
    """
    known = spans.get(whole)
    masks, parts = {}, []
    for name, mask in spans.items():
        covered = known is not None and bool((mask | ~known).all())
        if known is not None and not covered and bool((mask & known).any()):
            parts.append(name)
        else:
            masks[name] = inside & (covered or name == whole)
    return _Entering(masks, whole, tuple(parts))


def samples_at_site(samples: Samples, site: str, entering: Bool[Tensor, "n tokens"]) -> Samples:
    """The samples at a site where some tokens alone enter."""
    masks = {name: mask & entering.to(mask.device) for name, mask in samples.spans.items()}
    return replace(samples, spans=_Entering(masks), site=site)


class _Entering(Spans):
    """Spans of which some may have no token, and some are not known."""

    def __init__(
        self, masks: Mapping[str, Tensor], whole: str = "", parts: tuple[str, ...] = ()
    ) -> None:
        """Takes masks, and the names of spans that are parts of the whole one."""
        self._masks, self._whole, self._parts = dict(masks), whole, parts

    def __getitem__(self, name: str) -> Bool[Tensor, "n tokens"]:
        if name in self._parts:
            raise ValueError(
                f"span {name!r} is a part of the {self._whole}, which reaches this decoder in "
                f"another way too, where its parts cannot be told apart: take {self._whole!r}"
            )
        return super().__getitem__(name)
