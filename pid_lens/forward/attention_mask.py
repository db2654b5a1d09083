"""Attention: who may look at whom, layer by layer, by a mask that every backend obeys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.interventions import AttentionIntervention
from pid_lens.model import (
    After,
    Before,
    causal_mask,
    mask_pairs,
    named_arguments,
    require_no_checkpointing,
    resolve_indices,
    spans_beside_tokens,
)

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor, nn

    from pid_lens.inputs import Samples
    from pid_lens.interventions import Variation
    from pid_lens.model import Anatomy

MASKABLE = ("eager", "sdpa")
"""Implementations of attention that take a mask of their queries' and keys' pairs."""


@dataclass
class AttentionKnockouts:
    """The attention that interventions close during a forward pass.

    Before each attention module runs, its mask is replaced by one in which more is forbidden;
    masks are shared by layers, so theirs is never edited in place.
    """

    anatomy: Anatomy
    interventions: Sequence[AttentionIntervention] = ()
    """All that may be in force in a block, to know which layers to hook."""
    _samples: Samples | None = None
    _variations: Sequence[Variation] = ()
    _before: int = 0
    _made: dict[Any, tuple[Any, Tensor]] = field(default_factory=dict)
    """Edited masks by what they were made of, with the mask, lest its identity be reused."""

    def __post_init__(self) -> None:
        for intervention in self.interventions:
            knockout_layers(intervention, self.anatomy)
            knockout_heads(intervention, self.anatomy)

    @property
    def before(self) -> list[tuple[nn.Module, Before]]:
        """Attention modules and what is to run before them.

        Raises:
            ValueError: attention that no mask can close, or that runs twice.
        """
        if self._touched:
            require_no_checkpointing(self.anatomy.model)
        found = []
        for layer in self._touched:
            module = self.anatomy.attention(layer)
            if module is not None:
                require_maskable(module, self.anatomy)
                found.append((module, self._hook(layer)))
        return found

    @property
    def after(self) -> list[tuple[nn.Module, After]]:
        """Modules in which tokens look at image states, and what is to run after them.

        With every key closed a softmax is even, and still tells of the image: what such a module
        hands on is set to 0 instead.
        """
        crossings = [(self.anatomy.crossing(layer), layer) for layer in self._touched]
        return [(one, self._silencer(layer)) for one, layer in crossings if one is not None]

    @property
    def _touched(self) -> list[int]:
        chosen = (knockout_layers(one, self.anatomy) for one in self.interventions)
        return sorted({layer for layers in chosen for layer in layers})

    def begin(self, samples: Samples, variations: Sequence[Variation], before: int = 0) -> None:
        """The samples of the pass that comes, n rows for each variation.

        So many tokens of theirs came ``before``, in passes of which a cache holds the keys.
        """
        self._samples, self._variations, self._made = samples, variations, {}
        self._before = before

    def end(self) -> None:
        """The pass is over."""
        self._samples, self._made = None, {}

    def closed(self, layer: int) -> Bool[Tensor, "rows heads tokens tokens"] | None:
        """What is closed at a layer in a pass over whole prompts; None if nothing is."""
        assert self._samples is not None
        tokens = self._samples.spans.shape[1]
        active = [self._active(variation, layer) for variation in self._variations]
        return self._closed(active, tokens, tokens) if any(active) else None

    def _hook(self, layer: int) -> Before:
        def close(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            if self._samples is None:
                return None
            arguments = named_arguments(module, args, kwargs)
            active = [self._active(variation, layer) for variation in self._variations]
            if not any(active):
                return None
            causal = getattr(module, "is_causal", True)
            index = getattr(module, "layer_idx", 0)
            arguments["attention_mask"] = self._mask(arguments, active, causal, index)
            return (), arguments

        return close

    def _silencer(self, layer: int) -> After:
        def silence(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            if self._samples is None:
                return None
            states = output[0] if isinstance(output, tuple) else output
            blind = self._blind(layer, states.shape[1]).to(states.device)
            states = states.masked_fill(blind[..., None], 0.0)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return silence

    def _blind(self, layer: int, queries: int) -> Bool[Tensor, "rows queries"]:
        """Which tokens may not see the image's states."""
        assert self._samples is not None
        before = self._before
        samples = self._samples.extended(before + queries)
        beside = replace(samples, spans=spans_beside_tokens(samples.spans))
        parts = []
        for variation in self._variations:
            blind = torch.zeros(samples.n, queries, dtype=torch.bool)
            for one in self._active(variation, layer):
                if bool(one.ends(beside)[1].any()):
                    blind |= one.ends(samples)[0][:, before : before + queries].cpu()
                    require_all_heads(one, layer)
            parts.append(blind)
        return torch.cat(parts)

    def _active(self, variation: Variation, layer: int) -> tuple[AttentionIntervention, ...]:
        return tuple(
            one for one in variation.attention if layer in knockout_layers(one, self.anatomy)
        )

    def _mask(
        self,
        arguments: Mapping[str, Any],
        active: list[tuple[Any, ...]],
        causal: bool,
        index: int,
    ) -> Tensor:
        """The layer's mask with what is closed; one object for layers that share it."""
        given, states = arguments.get("attention_mask"), arguments["hidden_states"]
        queries, before = states.shape[1], self._before
        keys = _length(arguments, before + queries, index) if given is None else given.shape[-1]
        if given is not None and given.ndim != 4:
            raise ValueError(
                f"an attention mask of {given.ndim} axes cannot close pairs of tokens; a mask "
                "[n, heads, queries, keys] is needed: attn_implementation='sdpa' or 'eager'"
            )
        closing = tuple(tuple(map(id, interventions)) for interventions in active)
        made_of = (id(given), causal, closing, keys, states.device)
        if made_of not in self._made:
            closed = self._closed(active, queries, keys).to(states.device)
            mask = given
            if mask is None:
                mask = causal_mask(before, queries, keys, causal).to(states.device)
            self._made[made_of] = given, mask_pairs(mask, closed)
        return self._made[made_of][1]

    def _closed(
        self, active: list[tuple[Any, ...]], queries: int, keys: int
    ) -> Bool[Tensor, "rows heads queries keys"]:
        """What is closed, for each row of the pass."""
        assert self._samples is not None
        before = self._before
        samples = self._samples.extended(before + queries)
        first = max(before + queries - keys, 0)
        heads = self.anatomy.heads if any(one.heads for row in active for one in row) else 1
        parts = []
        for interventions in active:
            closed = torch.zeros(samples.n, heads, queries, keys, dtype=torch.bool)
            for one in interventions:
                target, source = (end.cpu() for end in one.ends(samples))
                seeing = target[:, before : before + queries]
                seen = torch.nn.functional.pad(source[:, first:], (0, keys))[:, :keys]
                pairs = seeing[:, :, None] & seen[:, None, :]
                at = list(knockout_heads(one, self.anatomy) or range(heads))
                closed[:, at] |= pairs[:, None]
            parts.append(closed)
        itself = torch.arange(before, before + queries)[:, None] == first + torch.arange(keys)
        return torch.cat(parts) & ~itself


def _length(arguments: Mapping[str, Any], tokens: int, index: int) -> int:
    """How many keys a layer will hand out: a static cache has all its places, filled or not."""
    cache, queries = arguments.get("past_key_values"), arguments["hidden_states"].shape[1]
    if cache is None or not hasattr(cache, "get_mask_sizes"):
        return tokens
    return max(int(cache.get_mask_sizes(queries, index)[0]), tokens)


def require_maskable(module: nn.Module, anatomy: Anatomy) -> None:
    """Attention must be of a kind that takes masks.

    Raises:
        ValueError: flash or flex attention.
    """
    config: Any = getattr(module, "config", None) or getattr(anatomy.model, "config", None)
    kind = getattr(config, "_attn_implementation", None)
    if kind is not None and kind not in MASKABLE:
        raise ValueError(
            f"{kind} takes no mask of pairs of tokens, so attention cannot be knocked out: load "
            "the model with attn_implementation='sdpa' (or 'eager'), or call "
            "model.set_attn_implementation('sdpa')"
        )


def require_all_heads(intervention: AttentionIntervention, layer: int) -> None:
    """A ValueError where heads were chosen in a layer that is silenced as a whole."""
    if intervention.heads is not None:
        raise ValueError(
            f"{intervention!r}: in layer {layer} tokens look at image states by cross-attention, "
            "which is closed as a whole: leave heads out"
        )


def knockout_layers(intervention: AttentionIntervention, anatomy: Anatomy) -> tuple[int, ...]:
    """The layers that an intervention closes attention in.

    Raises:
        ValueError: there is no such layer.
    """
    return resolve_indices(intervention.layers, len(anatomy.layers), "layers", of=intervention)


def knockout_heads(intervention: AttentionIntervention, anatomy: Anatomy) -> tuple[int, ...]:
    """The heads that an intervention closes attention in.

    Raises:
        ValueError: there is no such head.
    """
    if intervention.heads is None:
        return ()
    return resolve_indices(intervention.heads, anatomy.heads, "heads", of=intervention)
