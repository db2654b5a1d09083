"""Plans: a forward pass's interventions and readouts as plain tensors, for a remote trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.forward import (
    AttentionKnockouts,
    Stream,
    complete_interventions,
    require_maskable,
    require_options,
)
from pid_lens.inputs import Batch, as_batch, option_table, resolve_samples
from pid_lens.interventions import Moment, Moments, Variation
from pid_lens.model import dissect, resolve_indices

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor, nn

    from pid_lens.inputs import Samples
    from pid_lens.interventions import EmbeddingIntervention, Intervention
    from pid_lens.model import Anatomy
    from pid_lens.reads import Reads


@dataclass(frozen=True, eq=False)
class Plan:
    """One forward pass under one condition, worked out as plain tensors and module names.

    Attributes:
        sent: what `pid_lens.adapters.nnsight.remote.carry_out` needs; it travels with the trace.
        stream: the `Stream` that the answers are put into.
    """

    sent: dict[str, Any]
    stream: Stream

    def reads(self, answers: Float[Tensor, "layers n answers"]) -> Reads:
        """Wrap the answers that came back as `Reads` of one condition.

        Args:
            answers: what `carry_out` returned, natural log, [layers, n, answers].

        Raises:
            ValueError: answers of another shape than planned.
        """
        assert self.stream.samples is not None
        expected = [len(self.stream.layers), *self.stream.samples.options.shape]
        if list(answers.shape) != expected:
            raise ValueError(
                f"answers of this plan are [layers, n, answers] = {expected}; got "
                f"{list(answers.shape)}: hand over what carry_out(model, plan.sent) returned"
            )
        self.stream.answers = dict(zip(self.stream.layers, answers, strict=True))
        return self.stream.reads


def plan(
    model: Any,
    batch: Batch | dict[str, Any],
    *interventions: Intervention,
    choices: Sequence[str | int] | None = None,
    layers: Iterable[int] | int | None = None,
    moments: Moments | None = None,
    seed: int = 0,
    draw: int = 0,
    processor: Any = None,
) -> Plan:
    """Work out one forward pass: replaced embeddings, masked attention, layers to read.

    All that needs pid_lens happens here; what is sent are tensors and the names of modules. What
    cannot be proven without a server: that a deployed model keeps its parts under the names that
    it has here, and that its server accepts torch functions that are sent by value. Everything
    else is tested, in a process that cannot import pid_lens.

    Args:
        model: the nnsight model that will be traced; its weights may be elsewhere.
        batch: the inputs of the trace, with spans, options, ids; the plan is for them alone.
        interventions: ablations and knockouts: `Noise`, `Zero`, `Mean`, `Resample`, `Knockout`.
        choices: the options of every sample, where the batch does not say them.
        layers: numbers of layers to read; all by default.
        moments: mean and variance of noise (`moments`).
        seed: of the noise.
        draw: which of its independent draws.
        processor: finds the question and token ids, where the batch does not say them.

    Raises:
        TypeError: something other than interventions.
        ValueError: image or question enter this family's decoder besides its embeddings;
            `Remove`, which renumbers positions; no options; as `pid_lens.intervene`.

    Example:
        >>> import pid_lens
        >>> from nnsight import NNsight
        >>> model = NNsight(pid_lens.demo.load()[0])
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=4)))
        >>> sent = plan(model, batch, pid_lens.Zero("image")).sent
        >>> sent["at"].sum(-1), sent["layers"][3]["layer"]
        (tensor([16, 16, 16, 16]), 'model.language_model.layers.3')
    """
    anatomy = dissect(model)
    _require_embeddings_alone(anatomy)
    options = None if choices is None else option_table(choices, 1, processor)
    samples = resolve_samples(as_batch(batch), processor, anatomy.image_token, options)
    completed = (
        complete_interventions(interventions, anatomy, moments=moments, seed=seed)
        if interventions
        else ()
    )
    variation = Variation("", draw, completed)
    if bool(variation.removed(samples).any()):
        raise ValueError(
            "Remove renumbers positions inside the model, which a remote pass cannot: trace the "
            "prompt without the span instead"
        )
    stream = Stream(anatomy=anatomy, layers=resolve_indices(layers, len(anatomy.layers)))
    stream.begin(samples)
    at, vectors = _vectors(variation, samples, anatomy)
    sent = {
        "decoder": _path(anatomy, anatomy.decoder),
        "norm": _path(anatomy, anatomy.norm),
        "unembed": _path(anatomy, anatomy.unembed),
        "layers": [_layer(anatomy, layer, stream) for layer in range(len(anatomy.layers))],
        "closed": _blocked_by_layer(anatomy, variation, samples),
        "at": at,
        "vectors": vectors,
        "positions": samples.spans.positions("answer").cpu(),
        "options": samples.options.cpu(),
        "scale": anatomy.scale,
        "softcap": anatomy.softcap,
    }
    if samples.options.numel():
        require_options(samples.options, anatomy)
    return Plan(sent, stream)


def moments(
    model: Any,
    batch: Batch | dict[str, Any],
    embeddings: Float[Tensor, "n tokens width"],
    *,
    processor: Any = None,
) -> Moments:
    """Compute mean and variance of each span's embeddings, which a remote trace returned.

    Args:
        model: the nnsight model.
        batch: the inputs of the trace, with spans.
        embeddings: what `pid_lens.adapters.nnsight.remote.entering` returned.
        processor: finds the question, where the batch does not say it.

    Raises:
        ValueError: embeddings of another batch.

    Example:
        >>> import pid_lens, torch
        >>> from nnsight import NNsight
        >>> model = NNsight(pid_lens.demo.load()[0])
        >>> [batch] = pid_lens.demo.batches("vision", n=4)
        >>> image = batch.spans["image"].float()[..., None]  # embeddings: 3 in the image, else 1
        >>> found = moments(model, batch, 1 + 2 * image)
        >>> found
        Moments(image 64 tokens, question 20 tokens, model ..., at ...inputs_embeds)
        >>> found["image"].mean.item(), found["question"].mean.item()
        (3.0, 1.0)
    """
    anatomy = dissect(model)
    samples = resolve_samples(as_batch(batch), processor, anatomy.image_token)
    if embeddings.shape[:2] != samples.spans.shape:
        raise ValueError(
            f"embeddings must be [n, tokens, width] with {list(samples.spans.shape)} as this "
            f"batch has; got {list(embeddings.shape)}"
        )
    spans = {
        name: Moment.of(embeddings[samples.spans[name].to(embeddings.device)].float().cpu())
        for name in samples.spans
        if name != "answer"
    }
    return Moments(model=anatomy.fingerprint(), site=anatomy.site, spans=spans)


def _require_embeddings_alone(anatomy: Anatomy) -> None:
    if anatomy.entrances or anatomy.question_aware is not None:
        raise ValueError(
            f"{type(anatomy.model).__name__} receives image or question through more than its "
            "embeddings, and a remote pass ablates these alone: use pid_lens.Lens where the "
            "weights are"
        )


def _path(anatomy: Anatomy, module: nn.Module) -> str:
    """Look up a module's name, as ``model.get`` takes it."""
    return next(name for name, one in anatomy.model.named_modules() if one is module)


def _layer(anatomy: Anatomy, layer: int, stream: Stream) -> dict[str, Any]:
    attention = anatomy.attention(layer)
    assert attention is not None
    return {
        "layer": _path(anatomy, anatomy.layers[layer]),
        "attention": _path(anatomy, attention),
        "causal": getattr(attention, "is_causal", True),
        "read": layer in stream.layers,
    }


def _blocked_by_layer(
    anatomy: Anatomy, variation: Variation, samples: Samples
) -> dict[int, Tensor]:
    """Compute the blocked (query, key) pairs of each layer that has any, bool."""
    knockouts = AttentionKnockouts(anatomy, variation.attention)
    knockouts.begin(samples, [variation])
    found = {layer: knockouts.blocked_pairs(layer) for layer in range(len(anatomy.layers))}
    for layer in found:
        attention = anatomy.attention(layer)
        if found[layer] is not None and attention is not None:
            require_maskable(attention, anatomy)
    return {layer: pairs for layer, pairs in found.items() if pairs is not None}


def _vectors(
    variation: Variation, samples: Samples, anatomy: Anatomy
) -> tuple[Bool[Tensor, "n tokens"] | None, Float[Tensor, "ablated width"] | None]:
    """Compute which tokens' embeddings are replaced, and the vectors that replace them.

    Raises:
        ValueError: the vectors depend on the embeddings, which only the server has.
    """
    if not variation.embedding:
        return None, None
    weight: Any = anatomy.unembed.weight
    at = torch.zeros(samples.spans.shape, dtype=torch.bool)
    for one in variation.embedding:
        at |= samples.spans[_span(one)].cpu()
    # The edit of embeddings of 0 and of 1 agrees exactly if it does not depend on them
    empty = torch.zeros(*samples.spans.shape, weight.shape[1])
    edited, other = (variation.edit(start, samples) for start in (empty, empty + 1))
    if not torch.equal(edited[at], other[at]):
        raise ValueError(
            f"{list(variation.embedding)} depend on the embeddings that they replace, which are "
            "not known here: a remote pass takes Noise, Zero, Mean, Resample and Knockout"
        )
    return at, edited[at]


def _span(intervention: EmbeddingIntervention) -> str:
    """Return the span whose embeddings an intervention replaces.

    Raises:
        ValueError: it has none, so its edit can be computed only where the embeddings are.
    """
    span = getattr(intervention, "span", None)
    if not isinstance(span, str):
        raise ValueError(
            f"{intervention!r} has no span, so its vectors cannot be worked out here: a remote "
            "pass takes Noise, Zero, Mean, Resample and Knockout"
        )
    return span
