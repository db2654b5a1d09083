"""KV cache sharing: measure whether options may run on the keys and values of their prompt."""

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
"""Tolerances by which a model may differ from itself before it is too noisy to be judged."""


class Verdict(NamedTuple):
    """Result of a trial of one model.

    Attributes:
        sound: whether sharing the KV cache gives the same log-probabilities.
        steps: number of tokens of the longest options of the trial.
    """

    sound: bool
    steps: int


_VERDICTS: PerObject[dict[tuple[Any, ...], Verdict]] = PerObject(dict)
"""Per model: precision, attention implementation, interventions or none -> verdict."""


def may_share(
    run: PromptRun,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    shared: Float[Tensor, "n answers later"],
    intervened: bool,
) -> bool:
    """Return whether log-probabilities on the prompts' KV cache are to be trusted.

    Measured once for a model in evaluation mode in its precision and with its kind of attention,
    and again where options are longer than those before.
    """
    model, steps = run.anatomy.model, tokens.shape[-1]
    if steps == 1:
        return True
    known = known_verdict(run, intervened)
    if known is not None and (not known.sound or steps <= known.steps):
        return known.sound
    sound = _is_sound(run, tokens, present, shared)
    if not model.training:
        _VERDICTS.of(model)[_verdict_key(run, intervened)] = Verdict(sound, steps)
    return sound


def known_verdict(run: PromptRun, intervened: bool) -> Verdict | None:
    """Look up the verdict on this model; None without one, and in training mode."""
    model = run.anatomy.model
    if model.training:
        return None
    return _VERDICTS.of(model).get(_verdict_key(run, intervened))


def _verdict_key(run: PromptRun, intervened: bool) -> tuple[Any, ...]:
    """Collect the key of a verdict: precision, attention implementation, interventions or none."""
    config = getattr(run.anatomy.model, "config", None)
    attention = getattr(config, "_attn_implementation", None)
    return _dtype(run.anatomy), attention, intervened


def _is_sound(
    run: PromptRun,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    shared: Float[Tensor, "n answers later"],
) -> bool:
    """Return whether each sample's longest option is as probable with and without the KV cache.

    The noise of the model is measured on the answer to the prompt, which masked tokens after it
    cannot change. Where unmasked ones do, prompt tokens attend to later ones (no causal mask
    within the prompt), and sharing alone is right.
    """
    # The longest option of each sample, with its tokens masked (idle) and present (whole)
    rows = torch.arange(len(tokens), device=tokens.device)
    longest = present.sum(-1).argmax(-1)
    option, there = tokens[rows, longest], present[rows, longest]
    idle = run.compute_logits(option, torch.zeros_like(there))[:, 0].float().log_softmax(-1)
    idle, whole = idle.to(option.device), run.compute_logits(option, there)
    ahead = whole[:, 0].float().log_softmax(-1).to(option.device)
    # Noise of the model: the answer to the prompt alone, and before masked tokens
    usual = tolerances_of(_dtype(run.anatomy)).cached_prompt
    if not _are_alike(idle, run.log_probs, STEADY * usual):
        return False
    noise = float((idle - run.log_probs).nan_to_num(nan=0.0).abs().max())
    # An answer to the prompt that changes with its option: prompt tokens attend to it
    if not _are_alike(ahead, idle, usual + noise):
        return True
    # Compare the log-probabilities of the option's later tokens, without and with the KV cache
    plain, scored = chosen_log_probs(whole, option)[:, 1:], there[:, 1:]
    return _are_alike(plain[scored], shared[rows, longest][scored], usual + noise)


def _are_alike(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Compare log-probabilities within a tolerance; infinite ones must be equal, NaN never is."""
    return bool(((one == other) | ((one - other).abs() < tolerance)).all())


def _dtype(anatomy: Anatomy) -> torch.dtype:
    weight: Any = anatomy.unembed.weight
    dtype: torch.dtype = weight.dtype
    return dtype
