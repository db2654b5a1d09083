"""Anatomy: a model's decoder, layers, attention, final norm and unembedding, as plain modules."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pid_lens.model.frameworks import forward_without_hooks, plain_name

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.model.decoder_inputs import ImagePathway
    from pid_lens.model.families import QuestionAwareImage

SAMPLED = 257
"""Values of each parameter that enter a model's fingerprint."""

ATTENTIONS = ("self_attn", "attn", "self_attention", "attention")
"""Names under which layers keep their self-attention."""
CROSSINGS = ("cross_attn", "cross_attention")
"""Names under which they keep their cross-attention to image features."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Anatomy:
    """The modules of one model that a Lens hooks and reads: layers, final norm, unembedding.

    `dissect` finds them; for a model that no adapter knows, build one by hand.

    Attributes:
        model: the whole model: its forward takes ``input_ids`` and the pixels.
        decoder: the language tower: its forward takes ``inputs_embeds``, images merged in.
        layers: the decoder's blocks, in order; each returns the residual stream (first, if a
            tuple).
        norm: the final norm, between the last layer and the unembedding.
        unembed: the unembedding, with ``weight`` [vocabulary, width] and perhaps ``bias``.
        attentions: each layer's attention module, called with an ``attention_mask``; None: found
            by its name in the layer.
        image_token: the id that holds an image's place in ``input_ids``.
        entrances: how image features enter the decoder besides its embeddings (`ImagePathway`).
        question_aware: how the question enters the image features, where it does (Q-Former).
        softcap: c of a final soft-capping c tanh(logits / c), where the model applies one.
        scale: factor on the logits, where the model has one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> decoder, unembed = nn.ModuleList([nn.Linear(2, 2)]), nn.Linear(2, 3, bias=False)
        >>> _ = nn.init.eye_(unembed.weight)
        >>> anatomy = Anatomy(model=decoder, decoder=decoder, layers=list(decoder), softcap=2.0,
        ...                   norm=nn.Identity(), unembed=unembed, image_token=1)
        >>> anatomy
        Anatomy(ModuleList, 1 layers, width 2, 3 tokens)
        >>> anatomy.logits(torch.tensor([[0.0, 2.0]])).detach()  # 2 tanh(2 / 2)
        tensor([[0.0000, 1.5232, 0.0000]])
    """

    model: nn.Module
    decoder: nn.Module
    layers: Sequence[nn.Module]
    norm: nn.Module
    unembed: nn.Module
    attentions: Sequence[nn.Module] | None = None
    image_token: int | None = None
    entrances: Sequence[ImagePathway] = ()
    question_aware: QuestionAwareImage | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, state: Float[Tensor, "n width"]) -> Float[Tensor, "n vocabulary"]:
        """Compute logits from the residual stream after a layer: final norm, unembedding, float32.

        scale unembed(norm(h)), and c tanh(logits / c) where the model soft-caps. No hook fires
        again, and no framework takes the call for the model's own.
        """
        normed = forward_without_hooks(self.norm)(state).to(self.unembed.weight.dtype)
        logits = self.scale * forward_without_hooks(self.unembed)(normed).float()
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def attention(self, layer: int) -> nn.Module | None:
        """Find a layer's self-attention, in which tokens attend to each other.

        None where they attend to image features alone (`crossing`).

        Raises:
            ValueError: it cannot be found by its name.
        """
        if self.attentions is not None:
            return self.attentions[layer]
        found = _find_module(self.layers[layer], ATTENTIONS)
        if found is None and self.crossing(layer) is None:
            raise ValueError(
                f"layer {layer} ({type(self.layers[layer]).__name__}) has none of "
                f"{', '.join(ATTENTIONS)}, so its attention cannot be knocked out: hand over the "
                "modules, dataclasses.replace(pid_lens.dissect(model), attentions=[...]) as "
                "anatomy="
            )
        return found

    def crossing(self, layer: int) -> nn.Module | None:
        """Find a layer's cross-attention, to image features at no token position; else None."""
        return _find_module(self.layers[layer], CROSSINGS)

    @property
    def heads(self) -> int:
        """Number of query heads of the decoder's attention.

        Raises:
            ValueError: the decoder's configuration does not say it.
        """
        config = getattr(self.decoder, "config", None)
        count = getattr(config, "num_attention_heads", None)
        if count is None:
            raise ValueError(
                f"{type(self.decoder).__name__} has no config.num_attention_heads, so heads "
                "cannot be chosen: leave heads out"
            )
        return int(count)

    @property
    def site(self) -> str:
        """Argument whose embeddings are ablated: ``inputs_embeds`` after the decoder's path."""
        named = self.model.named_modules(remove_duplicate=False)
        path = next((name for name, module in named if module is self.decoder), "decoder")
        return f"{path}.inputs_embeds"

    @property
    def known_ways(self) -> tuple[str, ...]:
        """Arguments of the decoder that its ``entrances`` cover."""
        return tuple(one.argument for one in self.entrances)

    @property
    def device(self) -> torch.device:
        """Device on which the model takes its inputs."""
        devices = (parameter.device for parameter in self.model.parameters())
        return next((one for one in devices if one.type != "meta"), torch.device("cpu"))

    def fingerprint(self) -> str:
        """Hash a sample of the weights, to identify the model: a training step changes the hash.

        It covers every parameter's name, shape and dtype, and up to 257 of its values; what a
        framework puts around modules does not count.
        """
        digest = hashlib.sha256()
        offloaded = _offloaded_weights(self.model)
        for name, parameter in sorted(self.model.named_parameters(), key=_plain_key):
            digest.update(f"{plain_name(name)}{tuple(parameter.shape)}{parameter.dtype}".encode())
            weight = parameter if parameter.device.type != "meta" else offloaded.get(name)
            if weight is not None:
                digest.update(_sample(weight.detach()).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def versions(self) -> tuple[int, str]:
        """Version counters and dtypes: they change when a weight is edited in place or cast."""
        parameters = list(self.model.parameters())
        dtypes = " ".join(sorted({str(parameter.dtype) for parameter in parameters}))
        return sum(0 if p.is_inference() else p._version for p in parameters), dtypes

    def __repr__(self) -> str:
        weight: Any = self.unembed.weight
        tokens, width = weight.shape
        name = type(self.model).__name__
        return f"Anatomy({name}, {len(self.layers)} layers, width {width}, {tokens} tokens)"


def _find_module(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    found = (getattr(module, name, None) for name in names)
    return next((one for one in found if isinstance(one, nn.Module)), None)


def _offloaded_weights(model: nn.Module) -> dict[str, Tensor]:
    """Collect the weights that accelerate offloads while they are not needed, by their names."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        weights = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        for name, parameter in module.named_parameters(recurse=False):
            if weights is not None and parameter.device.type == "meta":
                found[f"{path}.{name}" if path else name] = weights[name]
    return found


def _plain_key(parameter: tuple[str, nn.Parameter]) -> str:
    return plain_name(parameter[0])


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED].float().cpu()
