"""Cache sharing: whether options may run on the keys and values of their prompt, as measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pid_lens.model import tolerances_of
from pid_lens.per_object import PerObject
from pid_lens.scoring.continuation import chosen_log_probs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from pid_lens.model import Anatomy
    from pid_lens.scoring.continuation import PromptRun

STEADY = 10
"""A model that differs from itself by so many tolerances is too noisy to be judged."""


class Verdict(NamedTuple):
    """What was found of one model."""

    sound: bool
    steps: int
    """Tokens of the longest options that it was found with."""


_VERDICTS: PerObject[dict[tuple[Any, ...], Verdict]] = PerObject(dict)
"""Of each model: what else decides how it computes -> what was found."""


def may_share(
    run: PromptRun,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    shared: Float[Tensor, "n answers later"],
    intervened: bool,
) -> bool:
    """Whether what was found on the prompts' keys and values is to be trusted.

    It is measured once for a model in evaluation mode in its precision and with its kind of
    attention, and again where options are longer than those before.
    """
    model, steps = run.anatomy.model, tokens.shape[-1]
    if steps == 1:
        return True
    known = known_verdict(run, intervened)
    if known is not None and (not known.sound or steps <= known.steps):
        return known.sound
    sound = _is_sound(run, tokens, present, shared)
    if not model.training:
        _VERDICTS.of(model)[_conditions(run, intervened)] = Verdict(sound, steps)
    return sound


def known_verdict(run: PromptRun, intervened: bool) -> Verdict | None:
    """What was found of this model before; nothing while it is in training mode."""
    model = run.anatomy.model
    if model.training:
        return None
    return _VERDICTS.of(model).get(_conditions(run, intervened))


def _conditions(run: PromptRun, intervened: bool) -> tuple[Any, ...]:
    """What else decides how a model computes."""
    config = getattr(run.anatomy.model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    return _dtype(run.anatomy), attention, intervened


def _is_sound(
    run: PromptRun,
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
    idle = run.compute_logits(option, torch.zeros_like(there))[:, 0].float().log_softmax(-1)
    idle, whole = idle.to(option.device), run.compute_logits(option, there)
    ahead = whole[:, 0].float().log_softmax(-1).to(option.device)
    usual = tolerances_of(_dtype(run.anatomy)).cached_prompt
    if not _are_alike(idle, run.log_probs, STEADY * usual):
        return False
    noise = float((idle - run.log_probs).nan_to_num(nan=0.0).abs().max())
    if not _are_alike(ahead, idle, usual + noise):
        return True
    plain, scored = chosen_log_probs(whole, option)[:, 1:], there[:, 1:]
    return _are_alike(plain[scored], shared[rows, longest][scored], usual + noise)


def _are_alike(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Log-probabilities that hardly differ; infinite ones must be equal, and NaN is like none."""
    return bool(((one == other) | ((one - other).abs() < tolerance)).all())


def _dtype(anatomy: Anatomy) -> torch.dtype:
    weight: Any = anatomy.unembed.weight
    dtype: torch.dtype = weight.dtype
    return dtype
