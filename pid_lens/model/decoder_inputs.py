"""Decoder inputs: embeddings, and image features that enter the decoder besides them."""

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
    """Embeddings or image features that enter the decoder at one site, and their setter.

    Attributes:
        vectors: what enters, [n, tokens, width].
        samples: with the spans of these tokens: empty where a span does not enter here.
        put: writes vectors, of any number of rows, into arguments of as many.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> from pid_lens.inputs import Samples
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, False]])))
        >>> arguments = {"states": torch.zeros(1, 2, 3)}
        >>> entry = Entry(arguments["states"], samples, lambda call, new: call.update(states=new))
        >>> entry.put(arguments, entry.vectors + 1)
        >>> arguments["states"].sum().item()
        6.0
    """

    vectors: Float[Tensor, "n tokens width"]
    samples: Samples
    put: Callable[[dict[str, Any], Tensor], None]


class ImagePathway(Protocol):
    """Protocol of image features that enter the decoder besides its embeddings.

    Attributes:
        argument: the decoder's argument that holds them.

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> from pid_lens import Spans
        >>> from pid_lens.model import Entry, spans_beside_tokens
        >>> class Side:
        ...     argument = "states"
        ...     def entries(self, arguments, samples):
        ...         def put(given, vectors):
        ...             given["states"] = vectors
        ...         inside = spans_beside_tokens(samples.spans)
        ...         return [Entry(arguments["states"], replace(samples, spans=inside), put)]
        >>> from pid_lens.inputs import Samples
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, False]])))
        >>> [entry] = Side().entries({"states": torch.zeros(1, 1, 3)}, samples)
        >>> entry.samples.spans["image"]
        tensor([[True]])
    """

    @property
    def argument(self) -> str:
        """The decoder's argument that holds them."""

    def entries(self, arguments: Mapping[str, Any], samples: Samples) -> list[Entry]:
        """List the features that enter, site by site."""


def embeddings_of(arguments: Mapping[str, Any], samples: Samples) -> Entry:
    """Return the entry of ``inputs_embeds``, where image features are merged in already."""

    def put(arguments: dict[str, Any], vectors: Tensor) -> None:
        arguments[EMBEDDINGS] = vectors

    return Entry(arguments[EMBEDDINGS], samples, put)


def embed_arguments(decoder: nn.Module, arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace ``input_ids`` among a decoder's arguments by embeddings, where they were given.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> table = torch.nn.Embedding(10, 4)
        >>> decoder = SimpleNamespace(get_input_embeddings=lambda: table)
        >>> arguments = embed_arguments(decoder, {"input_ids": torch.tensor([[3, 7]])})
        >>> arguments["input_ids"], torch.equal(arguments["inputs_embeds"][0, 1], table.weight[7])
        (None, True)
    """
    ids = arguments.get("input_ids")
    if arguments.get(EMBEDDINGS) is not None or ids is None:
        return arguments
    table: Any = decoder
    return {**arguments, "input_ids": None, EMBEDDINGS: table.get_input_embeddings()(ids)}


def entries_of(
    entrances: Sequence[ImagePathway], arguments: Mapping[str, Any], samples: Samples
) -> list[Entry]:
    """List all entries of a decoder call: the embeddings, then image features besides them.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> from pid_lens.inputs import Samples
        >>> from pid_lens.model import CrossAttention
        >>> samples = Samples.of_spans(Spans(image=torch.tensor([[True, False]])))
        >>> call = {"inputs_embeds": torch.zeros(1, 2, 4),
        ...         "cross_attention_states": torch.zeros(1, 6, 4)}
        >>> [(entry.samples.site, entry.vectors.shape[1])
        ...  for entry in entries_of([CrossAttention()], call, samples)]
        [('', 2), ('cross_attention_states', 6)]
    """
    given = [one for one in entrances if arguments.get(one.argument) is not None]
    sides = [entry for one in given for entry in one.entries(arguments, samples)]
    return [embeddings_of(arguments, samples), *sides]


def spans_beside_tokens(spans: Spans, seen: Bool[Tensor, "n states"] | None = None) -> Spans:
    """Make the spans of image features at no token position: all of them are the image's.

    Args:
        spans: the spans of the tokens.
        seen: mask of the features that are not padding; by default one feature per sample.

    Example:
        >>> import torch
        >>> from pid_lens import Spans
        >>> ids = torch.tensor([[9, 5]])
        >>> spans = Spans(image=ids == 9, question=ids == 5)
        >>> beside = spans_beside_tokens(spans, torch.tensor([[True, True, False]]))
        >>> {name: mask.int().tolist() for name, mask in beside.items()}
        {'image': [[1, 1, 0]], 'question': [[0, 0, 0]]}
    """
    n, _ = spans.shape
    seen = torch.ones(n, 1, dtype=torch.bool) if seen is None else seen
    return spans_of_whole("image", spans, seen)


def spans_of_whole(whole: str, spans: Spans, inside: Bool[Tensor, "n vectors"]) -> Spans:
    """Make the spans of vectors that stand for all of one span, and for nothing else.

    A span that covers that one has all the vectors; for one that covers a part of it, it is not
    known which vectors are its: asking for it is a ValueError.
    """
    known = spans.get(whole)
    masks, parts = {}, []
    for name, mask in spans.items():
        covered = known is not None and bool((mask | ~known).all())
        if known is not None and not covered and bool((mask & known).any()):
            parts.append(name)
        else:
            masks[name] = inside & (covered or name == whole)
    return _SiteSpans(masks, whole, tuple(parts))


def samples_at_site(samples: Samples, site: str, entering: Bool[Tensor, "n tokens"]) -> Samples:
    """Restrict the samples' spans to the tokens that enter at a site."""
    masks = {name: mask & entering.to(mask.device) for name, mask in samples.spans.items()}
    return replace(samples, spans=_SiteSpans(masks), site=site)


class _SiteSpans(Spans):
    """Spans at one site, of which some may have no token, and some are not known.

    Args:
        masks: masks of the vectors that enter, by name.
        whole: the span all of which the vectors stand for.
        parts: names of spans that are parts of the whole one.
    """

    def __init__(
        self, masks: Mapping[str, Tensor], whole: str = "", parts: tuple[str, ...] = ()
    ) -> None:
        """Store the masks that the class describes."""
        self._masks, self._whole, self._parts = dict(masks), whole, parts

    def __getitem__(self, name: str) -> Bool[Tensor, "n tokens"]:
        if name in self._parts:
            raise ValueError(
                f"span {name!r} is a part of the {self._whole}, which reaches this decoder by "
                f"another path too, where its parts are not known: take {self._whole!r}"
            )
        return super().__getitem__(name)
