"""Attention knockout by editing the attention mask [rows, heads, queries, keys] of each layer.

Every backend that takes a mask of pairs obeys (eager, sdpa); flash and flex attention are refused.
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
"""Implementations of attention that take a mask of their queries' and keys' pairs."""


@dataclass
class AttentionKnockouts:
    """The attention that interventions mask during a forward pass.

    Before each attention module runs, its mask is replaced by one in which more pairs are masked.
    `begin` says which samples the pass that comes is of, `end` that it is over; in between the
    hooks of `before` and `after` do the work.
    """

    anatomy: Anatomy
    interventions: Sequence[AttentionIntervention] = ()
    """All that may be in force in a block, to know which layers to hook."""
    _now: _PassMasks | None = None
    """The masks of the pass that runs."""

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
                found.append((module, self._masker(layer)))
        return found

    @property
    def after(self) -> list[tuple[nn.Module, After]]:
        """Modules in which tokens attend to image states, and what is to run after them.

        With every key masked a softmax is even, and still tells of the image: what such a module
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
        self._now = _PassMasks(BlockedPairs(self.anatomy, samples, variations, before))

    def end(self) -> None:
        """The pass is over."""
        self._now = None

    def blocked_pairs(self, layer: int) -> Bool[Tensor, "rows heads tokens tokens"] | None:
        """The pairs that are masked at a layer in a pass over whole prompts; None if none is."""
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
    """What an edited mask was made of: layers of one origin share one mask."""

    given: int
    """Identity of the layer's own mask."""
    causal: bool
    active: tuple[tuple[int, ...], ...]
    """Identities of the interventions in force, variation by variation."""
    keys: int
    device: torch.device


@dataclass(eq=False)
class _PassMasks:
    """The edited masks of one pass.

    A model hands one mask to many layers, so theirs is never edited in place, and what is made of
    it is made once.
    """

    blocked: BlockedPairs
    made: dict[_Origin, tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    """Edited masks, each with the one that was given, lest its identity be reused."""

    def edit(self, module: nn.Module, layer: int, arguments: Mapping[str, Any]) -> Tensor | None:
        """A layer's mask with the pairs that are blocked there; None if none is.

        Raises:
            ValueError: a mask that is none of pairs.
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
            if own is None:
                own = causal_mask(self.blocked.before, queries, keys, causal).to(states.device)
            closed = self.blocked.mask(active, queries, keys).to(states.device)
            self.made[origin] = given, mask_pairs(own, closed)
        return self.made[origin][1]

    def _key_count(self, module: nn.Module, arguments: Mapping[str, Any]) -> int:
        """How many keys a layer will see: a static cache has all its places, filled or not."""
        cache, queries = arguments.get("past_key_values"), arguments["hidden_states"].shape[1]
        tokens = self.blocked.before + queries
        if cache is None or not hasattr(cache, "get_mask_sizes"):
            return tokens
        sizes = cache.get_mask_sizes(queries, getattr(module, "layer_idx", 0))
        return max(int(sizes[0]), tokens)


def require_mask_of_pairs(mask: Tensor | None) -> None:
    """A ValueError unless a mask has an entry for each pair of query and key, or is None."""
    if mask is not None and mask.ndim != 4:
        raise ValueError(
            f"an attention mask of {mask.ndim} axes cannot close pairs of tokens; a mask "
            "[n, heads, queries, keys] is needed: attn_implementation='sdpa' or 'eager'"
        )


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
