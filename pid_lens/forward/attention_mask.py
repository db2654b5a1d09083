"""Attention knockout: edit the attention mask [rows, heads, queries, keys] of each layer.

The implementations of attention that take such a mask (eager, sdpa) apply it; flash and flex
attention are refused. In a boolean mask a blocked pair becomes False, in an additive one the
lowest finite number of its dtype (``torch.finfo(dtype).min``, not -inf). A mask of None (sdpa's
``is_causal``) is written out first: a boolean causal mask, or all True where the layer's attention
is not causal. Pairs that the model's own mask blocks (padding) stay blocked. A knockout never
blocks a query's own key, so that every attended token keeps a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pid_lens.forward.blocked_pairs import BlockedPairs, knockout_heads, knockout_layers
from pid_lens.interventions import AttentionIntervention
from pid_lens.model import (
    After,
    Before,
    causal_mask,
    mask_pairs,
    named_arguments,
    require_no_checkpointing,
)

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor, nn

    from pid_lens.inputs import Samples
    from pid_lens.interventions import Variation
    from pid_lens.model import Anatomy

MASKABLE = ("eager", "sdpa")
"""Implementations of attention that take a 4-D mask, with an entry for each query and key."""


@dataclass
class AttentionKnockouts:
    """Attention knockouts in a forward pass: hooks that edit the attention mask of each layer.

    Before an attention module runs, its mask is replaced by one in which more (query, key) pairs
    are masked. `begin` names the samples of the next pass, `end` ends it; in between, the hooks
    of `before` and `after` take effect.

    Attributes:
        anatomy: the model's parts.
        interventions: all that any pass in the block may apply: their layers are hooked.

    Raises:
        ValueError: an intervention names a layer or head that the model does not have.

    Example:
        >>> import pid_lens
        >>> from pid_lens.inputs import resolve_samples
        >>> from pid_lens.interventions import Knockout, Variation
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=2)))
        >>> knockout = Knockout("image", "question", layers=[1])
        >>> found = AttentionKnockouts(pid_lens.dissect(pid_lens.demo.load()[0]), [knockout])
        >>> found.begin(resolve_samples(batch), [Variation("blind", 0, (knockout,))])
        >>> found.blocked_pairs(1).any(-1).equal(batch.spans["question"][:, None])
        True
        >>> found.blocked_pairs(2) is None
        True
    """

    anatomy: Anatomy
    interventions: Sequence[AttentionIntervention] = ()
    _now: _PassMasks | None = None

    def __post_init__(self) -> None:
        for intervention in self.interventions:
            knockout_layers(intervention, self.anatomy)
            knockout_heads(intervention, self.anatomy)

    @property
    def before(self) -> list[tuple[nn.Module, Before]]:
        """Attention modules, each with the pre-hook that edits its mask.

        Raises:
            ValueError: attention that takes no 4-D mask, or that runs twice (gradient
                checkpointing).
        """
        if self._touched:
            require_no_checkpointing(self.anatomy.model)
        found = []
        for layer in self._touched:
            module = self.anatomy.attention(layer)
            if module is not None:
                require_maskable(module, self.anatomy)
                found.append((module, self._masker(layer)))
        return found

    @property
    def after(self) -> list[tuple[nn.Module, After]]:
        """Cross-attention modules, each with the hook that zeroes its output at blocked queries.

        With every key masked the softmax is uniform, and its output still carries information
        about the image; so the module's output is set to 0 at these query positions.
        """
        crossings = [(self.anatomy.crossing(layer), layer) for layer in self._touched]
        return [(one, self._silencer(layer)) for one, layer in crossings if one is not None]

    @property
    def _touched(self) -> list[int]:
        chosen = (knockout_layers(one, self.anatomy) for one in self.interventions)
        return sorted({layer for layers in chosen for layer in layers})

    def begin(self, samples: Samples, variations: Sequence[Variation], before: int = 0) -> None:
        """Begin a pass over ``samples``, with a block of n rows for each variation.

        ``before`` is the number of tokens of each sample that ran in earlier passes, whose keys
        the KV cache holds.
        """
        self._now = _PassMasks(BlockedPairs(self.anatomy, samples, variations, before))

    def end(self) -> None:
        """End the pass: from here on the hooks leave masks as they are."""
        self._now = None

    def blocked_pairs(self, layer: int) -> Bool[Tensor, "rows heads tokens tokens"] | None:
        """Compute a layer's blocked (query, key) pairs in whole prompts; None if none is."""
        assert self._now is not None
        blocked = self._now.blocked
        tokens, active = blocked.samples.spans.shape[1], blocked.active(layer)
        return blocked.mask(active, tokens, tokens) if any(active) else None

    def _masker(self, layer: int) -> Before:
        def mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            if self._now is None:
                return None
            arguments = named_arguments(module, args, kwargs)
            edited = self._now.edit(module, layer, arguments)
            return None if edited is None else ((), {**arguments, "attention_mask": edited})

        return mask

    def _silencer(self, layer: int) -> After:
        def silence(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            if self._now is None:
                return None
            states = output[0] if isinstance(output, tuple) else output
            blind = self._now.blocked.blind_queries(layer, states.shape[1]).to(states.device)
            states = states.masked_fill(blind[..., None], 0.0)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return silence


class _Origin(NamedTuple):
    """What an edited mask was made from: layers of the same origin share one edited mask.

    Attributes:
        given: ``id`` of the layer's own mask.
        causal: whether the layer's attention is causal.
        active: ``id`` of each active intervention, variation by variation.
        keys: number of key positions.
        device: where the layer's hidden states are.
    """

    given: int
    causal: bool
    active: tuple[tuple[int, ...], ...]
    keys: int
    device: torch.device


@dataclass(eq=False)
class _PassMasks:
    """The edited attention masks of one pass.

    A model gives one mask to many layers: it is copied, never edited in place, and layers with
    the same blocked pairs share the copy.

    Attributes:
        blocked: the blocked pairs of the pass.
        made: edited masks, each with the mask that was given: while that is kept, Python cannot
            give its ``id`` to another tensor.
    """

    blocked: BlockedPairs
    made: dict[_Origin, tuple[Tensor | None, Tensor]] = field(default_factory=dict)

    def edit(self, module: nn.Module, layer: int, arguments: Mapping[str, Any]) -> Tensor | None:
        """Mask a layer's blocked pairs in a copy of its mask; return None if there is none.

        Raises:
            ValueError: the layer's mask does not have an entry for each query and key.
        """
        active = self.blocked.active(layer)
        if not any(active):
            return None
        given, states = arguments.get("attention_mask"), arguments["hidden_states"]
        require_mask_of_pairs(given)
        queries, causal = states.shape[1], getattr(module, "is_causal", True)
        keys = self._key_count(module, arguments) if given is None else given.shape[-1]
        named = tuple(tuple(map(id, interventions)) for interventions in active)
        origin = _Origin(id(given), causal, named, keys, states.device)
        if origin not in self.made:
            own = given
            if own is None:  # sdpa's shortcut for the causal mask (or for none): write it out
                own = causal_mask(self.blocked.before, queries, keys, causal).to(states.device)
            pairs = self.blocked.mask(active, queries, keys).to(states.device)
            self.made[origin] = given, mask_pairs(own, pairs)
        return self.made[origin][1]

    def _key_count(self, module: nn.Module, arguments: Mapping[str, Any]) -> int:
        """Count a layer's key positions: a static cache has all its slots, filled or not."""
        cache, queries = arguments.get("past_key_values"), arguments["hidden_states"].shape[1]
        tokens = self.blocked.before + queries
        if cache is None or not hasattr(cache, "get_mask_sizes"):
            return tokens
        sizes = cache.get_mask_sizes(queries, getattr(module, "layer_idx", 0))
        return max(int(sizes[0]), tokens)


def require_mask_of_pairs(mask: Tensor | None) -> None:
    """Raise a ValueError unless a mask has an entry for each query and key, or is None."""
    if mask is not None and mask.ndim != 4:
        raise ValueError(
            f"an attention mask of {mask.ndim} axes cannot mask single pairs of tokens; a mask "
            "[n, heads, queries, keys] is needed: attn_implementation='sdpa' or 'eager'"
        )


def require_maskable(module: nn.Module, anatomy: Anatomy) -> None:
    """Require that an attention module takes a 4-D attention mask.

    Raises:
        ValueError: flash or flex attention.

    Example:
        >>> import pid_lens, torch
        >>> anatomy = pid_lens.dissect(pid_lens.demo.load()[0])
        >>> require_maskable(anatomy.attention(0), anatomy)  # sdpa
        >>> flash = torch.nn.Identity()
        >>> flash.config = type(anatomy.decoder.config)(attn_implementation="flash_attention_2")
        >>> require_maskable(flash, anatomy)
        Traceback (most recent call last):
            ...
        ValueError: flash_attention_2 takes no mask of pairs of tokens, so attention cannot ...
    """
    config: Any = getattr(module, "config", None) or getattr(anatomy.model, "config", None)
    kind = getattr(config, "_attn_implementation", None)
    if kind is not None and kind not in MASKABLE:
        raise ValueError(
            f"{kind} takes no mask of pairs of tokens, so attention cannot be knocked out: load "
            "the model with attn_implementation='sdpa' (or 'eager'), or call "
            "model.set_attn_implementation('sdpa')"
        )
