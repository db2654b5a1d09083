"""Attention knockout in a bridge: attention scores of minus infinity, or the attention mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pid_lens.adapters.transformer_lens.given_batch import require_batch
from pid_lens.adapters.transformer_lens.internals import TransformerBridge, dissect
from pid_lens.adapters.transformer_lens.liveness import TOKENS, Hook, moves_logits, some_text
from torch import Tensor, nn

from pid_lens.forward import AttentionKnockouts, knockout_layers
from pid_lens.inputs import Batch, Samples, Spans, resolve_samples
from pid_lens.interventions import Knockout, Variation
from pid_lens.model import Anatomy, Before, named_arguments
from pid_lens.per_object import PerObject

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch.utils.hooks import RemovableHandle


@dataclass
class Progress:
    """The layer that a forward pass is at: no hook point reports that another pass begins.

    Attributes:
        at: number of the layer that ran last, None before the first.
    """

    at: int | None = None

    def begins(self, layer: int) -> bool:
        """Return whether a layer that runs now is the first of another pass."""
        first = self.at is None or layer <= self.at
        self.at = layer
        return first


def run_once(module: nn.Module, hook: Before, within: nn.Module) -> None:
    """Run a pre-hook at a module's next call, unless another call of its parent comes first.

    A parent that raised before it called the module leaves nothing in force.
    """
    handles: list[RemovableHandle] = []

    def drop(*call: Any) -> None:
        for handle in handles:
            handle.remove()

    def run(called: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        drop()
        return hook(called, args, kwargs)

    handles.append(module.register_forward_pre_hook(run, with_kwargs=True))
    handles.append(within.register_forward_pre_hook(drop))


# ---------------------------------------------------------------- attention knockouts


@dataclass(eq=False)
class KnockoutHooks:
    """Attention knockout in passes of one batch, by attention scores or by the attention mask.

    Attributes:
        anatomy: the parts of the model.
        knockout: spans, layers and heads.
        samples: those of the batch that will run.
        progress: the layer that the pass is at.

    Raises:
        ValueError: a span, layer or head that is not there, or layers with cross-attention.
    """

    anatomy: Anatomy
    knockout: Knockout
    samples: Samples
    progress: Progress = field(default_factory=Progress)
    _knockouts: AttentionKnockouts = field(init=False)
    _before: dict[nn.Module, Before] = field(init=False)
    _open_masks: dict[tuple[int, int, torch.device], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.knockout.ends(self.samples)
        self._knockouts = AttentionKnockouts(self.anatomy, [self.knockout])
        if self._knockouts.after:
            raise ValueError(
                "in some of these layers tokens attend to image features by cross-attention, "
                "which no hook point masks: leave them out, or use pid_lens.intervene"
            )
        self._before = dict(self._knockouts.before)

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers in which attention is masked."""
        return knockout_layers(self.knockout, self.anatomy)

    def by_scores(self, layer: int) -> Hook:
        """Set blocked scores to minus infinity, where a bridge computes attention itself."""

        def mask(
            scores: Float[Tensor, "n heads queries keys"], hook: Any
        ) -> Float[Tensor, "n heads queries keys"]:
            n, _, queries, keys = scores.shape
            open_mask = self._open_mask(queries, keys, scores.device)
            nothing = scores.new_empty(n, queries, 0)
            arguments = {"hidden_states": nothing, "attention_mask": open_mask}
            # softmax over keys: a score of -inf is an attention weight of 0
            allowed = self._mask_attention(layer, arguments)["attention_mask"]
            return scores.masked_fill(~allowed, -math.inf)

        return f"blocks.{layer}.attn.hook_attn_scores", mask

    def by_mask(self, layer: int) -> Hook:
        """Replace the attention mask of the layer's attention, set when the layer begins."""
        block, attention = self.anatomy.layers[layer], self.anatomy.attention(layer)
        assert attention is not None

        def mask(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return (), self._mask_attention(layer, named_arguments(module, args, kwargs))

        def prepare(states: Float[Tensor, "n tokens width"], hook: Any) -> None:
            run_once(attention, mask, within=block)

        return f"blocks.{layer}.hook_in", prepare

    def _mask_attention(self, layer: int, arguments: dict[str, Any]) -> dict[str, Any]:
        """Block the knockout's (query, key) pairs in the mask of a layer's attention arguments."""
        where = f"attention in layer {layer}"
        require_batch(arguments["hidden_states"].shape[:2], self.samples, where)
        if self.progress.begins(layer):
            self._knockouts.begin(self.samples, [Variation("", 0, (self.knockout,))])
        attention = self.anatomy.attention(layer)
        assert attention is not None
        masked = self._before[attention](attention, (), arguments)
        assert masked is not None
        n, *_, keys = masked[1]["attention_mask"].shape
        require_batch((n, keys), self.samples, f"the keys of {where}")
        return masked[1]

    def _open_mask(
        self, queries: int, keys: int, device: torch.device
    ) -> Bool[Tensor, "1 1 queries keys"]:
        """Make a mask that blocks no pair; layers share it, and so what is computed from it."""
        size = queries, keys, device
        if size not in self._open_masks:
            mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
            self._open_masks[size] = mask
        return self._open_masks[size]


KnockoutMethod = Callable[[KnockoutHooks, int], Hook]

_METHODS: PerObject[dict[tuple[type, ...], KnockoutMethod]] = PerObject(dict)
"""Of each bridge: how attention is computed -> the method of masking it that works."""


def knockout_method(bridge: TransformerBridge, anatomy: Anatomy, layer: int) -> KnockoutMethod:
    """Choose the method of masking attention that moves the logits, tried on four text tokens.

    Raises:
        ValueError: neither does.
    """
    known, kind = _METHODS.of(bridge), _kind(anatomy, layer)
    if kind not in known:
        trial = KnockoutHooks(anatomy, Knockout("keys", "query", layers=[layer]), _trial(anatomy))
        methods = (KnockoutHooks.by_scores, KnockoutHooks.by_mask)
        found = next((one for one in methods if _works(bridge, one(trial, layer))), None)
        if found is None:
            raise ValueError(
                f"attention in layer {layer} ({kind[0].__name__} around {kind[1].__name__}) obeys "
                "neither its scores nor its mask, so it cannot be knocked out"
            )
        known[kind] = found
    return known[kind]


def _kind(anatomy: Anatomy, layer: int) -> tuple[type, ...]:
    """Return what determines how a layer computes attention: its class and the class it wraps."""
    module: Any = anatomy.attention(layer)
    return type(module), type(getattr(module, "original_component", None))


def _works(bridge: TransformerBridge, hook: Hook) -> bool:
    text = some_text(dissect(bridge))
    return hook[0] in bridge.hook_dict and moves_logits(bridge, [hook], text)


def _trial(anatomy: Anatomy) -> Samples:
    """Make a text with the last token as query and the earlier ones as keys to be masked."""
    text = some_text(anatomy)
    last = torch.arange(TOKENS, device=text["input_ids"].device)[None] == TOKENS - 1
    return resolve_samples(Batch(inputs=text, spans=Spans(keys=~last, query=last)))
