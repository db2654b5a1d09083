"""Where a model keeps its parts: the plain modules that every framework wraps."""

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
"""Names under which layers keep their attention."""
CROSSINGS = ("cross_attn", "cross_attention")
"""Names under which they keep their attention to the image, where no tokens hold it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Anatomy:
    """The modules of one model that a Lens hooks and reads.

    `dissect` finds them; for a model that nobody knows, build one by hand.

    Example:
        >>> from torch import nn
        >>> norm, unembed = nn.LayerNorm(4), nn.Linear(4, 10)
        >>> decoder = nn.ModuleList([nn.Linear(4, 4)])
        >>> Anatomy(model=decoder, decoder=decoder, layers=list(decoder), norm=norm,
        ...         unembed=unembed, image_token=3)
        Anatomy(ModuleList, 1 layers, width 4, 10 tokens)
    """

    model: nn.Module
    """The whole model: its forward sees ``input_ids`` and the pixels."""
    decoder: nn.Module
    """The language tower: its forward sees ``inputs_embeds``, images merged in."""
    layers: Sequence[nn.Module]
    """The decoder's blocks, in order; each returns the residual stream (first, if a tuple)."""
    norm: nn.Module
    """The final norm, between the last layer and the unembedding."""
    unembed: nn.Module
    """The unembedding, with ``weight`` [vocabulary, width] and perhaps ``bias``."""
    attentions: Sequence[nn.Module] | None = None
    """Each layer's attention module, called with an ``attention_mask``; found by its name in
    the layer where they are not given."""
    image_token: int | None = None
    """The id that holds an image's place in ``input_ids``."""
    entrances: Sequence[ImagePathway] = ()
    """How image features come into the decoder besides its embeddings (`ImagePathway`)."""
    question_aware: QuestionAwareImage | None = None
    """How the question comes into the image's features, where it does."""
    softcap: float | None = None
    """c of a final soft-capping c tanh(logits / c), where the model applies one."""
    scale: float = 1.0
    """Factor on the logits, where the model has one."""

    def logits(self, state: Float[Tensor, "n width"]) -> Float[Tensor, "n vocabulary"]:
        """The model's own last step on a raw layer output, float32.

        Nobody's hooks fire again, and no framework takes the call for the model's own.
        """
        normed = forward_without_hooks(self.norm)(state).to(self.unembed.weight.dtype)
        logits = self.scale * forward_without_hooks(self.unembed)(normed).float()
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def attention(self, layer: int) -> nn.Module | None:
        """The module of a layer in which tokens look at each other.

        None where they look at the image alone (`crossing`).

        Raises:
            ValueError: there is none to be found.
        """
        if self.attentions is not None:
            return self.attentions[layer]
        found = _named(self.layers[layer], ATTENTIONS)
        if found is None and self.crossing(layer) is None:
            raise ValueError(
                f"layer {layer} ({type(self.layers[layer]).__name__}) has none of "
                f"{', '.join(ATTENTIONS)}, so its attention cannot be knocked out: hand over the "
                "modules, dataclasses.replace(pid_lens.dissect(model), attentions=[...]) as "
                "anatomy="
            )
        return found

    def crossing(self, layer: int) -> nn.Module | None:
        """The module of a layer in which tokens look at image states that no token holds."""
        return _named(self.layers[layer], CROSSINGS)

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
        """Where embeddings are measured and replaced, as a name."""
        named = self.model.named_modules(remove_duplicate=False)
        path = next((name for name, module in named if module is self.decoder), "decoder")
        return f"{path}.inputs_embeds"

    @property
    def known_ways(self) -> tuple[str, ...]:
        """Arguments of the decoder that its entrances take care of."""
        return tuple(one.argument for one in self.entrances)

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        devices = (parameter.device for parameter in self.model.parameters())
        return next((one for one in devices if one.type != "meta"), torch.device("cpu"))

    def fingerprint(self) -> str:
        """A short hash that tells this model from any other, trained a step further included.

        It covers every parameter's name, shape and dtype, and up to 257 of its values; what a
        framework puts around modules does not count.
        """
        digest = hashlib.sha256()
        elsewhere = _offloaded(self.model)
        for name, parameter in sorted(self.model.named_parameters(), key=_plainly):
            digest.update(f"{plain_name(name)}{tuple(parameter.shape)}{parameter.dtype}".encode())
            weight = parameter if parameter.device.type != "meta" else elsewhere.get(name)
            if weight is not None:
                digest.update(_sampled(weight.detach()).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def versions(self) -> tuple[int, str]:
        """What changes when a weight is changed in place or cast, at next to no cost."""
        parameters = list(self.model.parameters())
        dtypes = " ".join(sorted({str(parameter.dtype) for parameter in parameters}))
        return sum(0 if p.is_inference() else p._version for p in parameters), dtypes

    def __repr__(self) -> str:
        weight: Any = self.unembed.weight
        tokens, width = weight.shape
        name = type(self.model).__name__
        return f"Anatomy({name}, {len(self.layers)} layers, width {width}, {tokens} tokens)"


def _named(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    found = (getattr(module, name, None) for name in names)
    return next((one for one in found if isinstance(one, nn.Module)), None)


def _offloaded(model: nn.Module) -> dict[str, Tensor]:
    """Weights that accelerate keeps elsewhere while they are not needed, by their names."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        weights = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        for name, parameter in module.named_parameters(recurse=False):
            if weights is not None and parameter.device.type == "meta":
                found[f"{path}.{name}" if path else name] = weights[name]
    return found


def _plainly(parameter: tuple[str, nn.Parameter]) -> str:
    return plain_name(parameter[0])


def _sampled(parameter: Tensor) -> Tensor:
    flat = parameter.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED].float().cpu()
