"""Sharing: whether options may run on the keys and values of their prompt, as measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pid_lens.scoring.continuation import chosen_log_probs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from pid_lens.model import Anatomy
    from pid_lens.scoring.continuation import PromptRun

TOLERANCE = 1e-3
"""Nats by which the same log-probability may differ on its two ways."""
TOLERANCE_HALF = 0.05
"""The same in half precision."""
STEADY = 10
"""A model that differs from itself by so many tolerances is too noisy to be judged."""


class Verdict(NamedTuple):
    """What was found of one model."""

    sound: bool
    steps: int
    """Tokens of the longest options that it was found with."""


_found: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Verdict]] = WeakKeyDictionary()
"""Verdicts by model, and by what else decides how it computes."""


def may_share(
    asked: PromptRun,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    shared: Float[Tensor, "n answers later"],
    intervened: bool,
) -> bool:
    """Whether what was found on the prompts' keys and values is to be trusted.

    It is measured once for a model in evaluation mode in its precision and with its kind of
    attention, and again where options are longer than those before.
    """
    model, steps = asked.anatomy.model, tokens.shape[-1]
    if steps == 1:
        return True
    known = known_verdict(asked, intervened)
    if known is not None and (not known.sound or steps <= known.steps):
        return known.sound
    sound = _sound(asked, tokens, present, shared)
    if not model.training:
        _found.setdefault(model, {})[_conditions(asked, intervened)] = Verdict(sound, steps)
    return sound


def known_verdict(asked: PromptRun, intervened: bool) -> Verdict | None:
    """What was found of this model before; nothing while it is in training mode."""
    model = asked.anatomy.model
    if model.training:
        return None
    return _found.get(model, {}).get(_conditions(asked, intervened))


def _conditions(asked: PromptRun, intervened: bool) -> tuple[Any, ...]:
    """What else decides how a model computes."""
    config = getattr(asked.anatomy.model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    return _dtype(asked.anatomy), attention, intervened


def _sound(
    asked: PromptRun,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    shared: Float[Tensor, "n answers later"],
) -> bool:
    """Whether each sample's longest option is as probable on either way.

    How far the model differs from itself is seen in the answer to the prompt, which masked tokens
    behind it cannot change. Where others do, the prompt looks ahead, and sharing alone is right.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    longest = present.sum(-1).argmax(-1)
    option, there = tokens[rows, longest], present[rows, longest]
    idle = asked.plain(option, torch.zeros_like(there))[:, 0].float().log_softmax(-1)
    idle, whole = idle.to(option.device), asked.plain(option, there)
    ahead = whole[:, 0].float().log_softmax(-1).to(option.device)
    usual = TOLERANCE_HALF if _dtype(asked.anatomy).itemsize < 4 else TOLERANCE
    if not _alike(idle, asked.log_probs, STEADY * usual):
        return False
    noise = float((idle - asked.log_probs).nan_to_num(nan=0.0).abs().max())
    if not _alike(ahead, idle, usual + noise):
        return True
    plain, scored = chosen_log_probs(whole, option)[:, 1:], there[:, 1:]
    return _alike(plain[scored], shared[rows, longest][scored], usual + noise)


def _alike(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Log-probabilities that hardly differ; infinite ones must be equal, and NaN is like none."""
    return bool(((one == other) | ((one - other).abs() < tolerance)).all())


def _dtype(anatomy: Anatomy) -> torch.dtype:
    weight: Any = anatomy.unembed.weight
    dtype: torch.dtype = weight.dtype
    return dtype
