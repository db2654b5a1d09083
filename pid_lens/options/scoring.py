"""Whole options: how probable answers of several tokens are, the prompt read once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pid_lens.anatomy import Anatomy, dissect
from pid_lens.intervening import intervene
from pid_lens.options.continuing import Prompt, left_padded
from pid_lens.options.scores import OptionScores
from pid_lens.options.tokens import Options, collisions, option_tokens, whole_options
from pid_lens.samples import Batch, as_batch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from pid_lens.moments import Moments
    from pid_lens.protocols import Intervention

_shares: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Models of which it is known whether a prompt's keys and values can be shared."""


@torch.no_grad()
def score_options(
    model: Any,
    batch: Batch | Mapping[str, Any],
    options: Sequence[Any],
    *,
    processor: Any = None,
    interventions: Sequence[Intervention] = (),
    spans: Mapping[str, Bool[Tensor, "n tokens"]] | None = None,
    moments: Moments | None = None,
    seed: int = 0,
    share: bool | None = None,
    anatomy: Anatomy | None = None,
) -> OptionScores:
    """Log-probability of every whole option after its prompt.

    ::

        log p(option | prompt) = sum_j log p(token_j | prompt, token_1 .. token_{j-1})

    The prompt runs once; all options of all samples then run as rows of one call on copies of
    its keys and values. In a model's first call the longest options also run the plain way,
    prompt and option together without a cache; where the two differ the plain way is used from
    then on, and the result says so. (Where a prompt's own tokens look ahead at an option that
    follows them, as in PaliGemma, the plain way is the wrong one, and sharing is what
    ``generate`` does.)

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        batch: a `Batch`, or the model's inputs, padded on either side.
        options: texts, or lists of token ids: one list for all samples, or one list a sample.
            They are tokenised as they stand and put behind the prompt's last token: write
            ``" A"`` where the answer begins with a space, as after ``ASSISTANT:``.
        processor: needed for options that are text, and to find a question for interventions.
        interventions: in force for prompts and options, which continue the ``answer`` span.
        spans: masks [n, tokens] by name for the interventions, where the batch has none.
        moments: what noise looks like, of `calibrate`.
        seed: of the noise.
        share: True and False settle which way is taken, without a test.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Returns:
        `OptionScores`, with the length-normalised and the first-token rule beside the sum.

    Raises:
        TypeError: options that are neither texts nor lists of token ids.
        ValueError: an empty option, one with an unknown word or no token id of the model, two of
            the same tokens, or sharing asked for from a model that gives no keys and values.

    Source:
        Language models are few-shot learners (Brown et al., 2020),
        https://arxiv.org/abs/2005.14165: options scored by log-probability a token

    Example:
        >>> import pid_lens
        >>> from pid_lens.options.scoring import score_options
        >>> model, processor = pid_lens.demo.load()
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=8)))
        >>> found = score_options(model, batch, ("A", "B", "B ."), processor=processor)
        >>> found.best("whole").tolist() == batch.labels.tolist()
        True
        >>> found.collisions[0]
        (('B', 'B .'),)
    """
    anatomy = anatomy or dissect(model)
    given = as_batch(batch).to(anatomy.device)
    chosen = whole_options(options, given.n, processor)
    _refuse_strangers(chosen, anatomy)
    given = left_padded(given if spans is None else replace(given, spans=spans))
    tokens, present = (one.to(anatomy.device) for one in option_tokens(chosen))
    with _in_force(anatomy, interventions, given, processor, moments, seed):
        prompt = Prompt.run(anatomy, given.inputs)
        sharing = _sharing(share, prompt, tokens, present)
        scores = _pieces(prompt, tokens, present, sharing, together=not interventions)
    return OptionScores(
        log_probs=_total(scores, present),
        first=scores[..., 0].masked_fill(~present[..., 0], -math.inf).cpu(),
        tokens=present.sum(-1).cpu(),
        names=tuple(tuple(option.name for option in row) for row in chosen),
        collisions=collisions(chosen),
        shared=sharing,
        ids=given.ids,
    )


def _pieces(
    prompt: Prompt,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    sharing: bool,
    together: bool,
) -> Float[Tensor, "n answers steps"]:
    """Log-probability of each token, given all before it.

    Interventions know the prompts' rows, so under them options run one after another.
    """
    answers, steps = tokens.shape[1:]
    first = prompt.log_probs.gather(1, tokens[..., 0])[..., None]
    if steps == 1:
        return first
    fed, there = tokens[..., :-1], present[..., :-1]
    if sharing:
        columns = [slice(None)] if together else [slice(k, k + 1) for k in range(answers)]
        later = torch.cat([prompt.shared(fed[:, at], there[:, at]) for at in columns], 1)
    else:
        later = prompt.again(fed, there)[:, :, 1:]
    return torch.cat([first, later.gather(-1, tokens[..., 1:, None])[..., 0]], -1)


def _sharing(
    asked: bool | None,
    prompt: Prompt,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
) -> bool:
    """Whether options run on the prompt's keys and values."""
    if prompt.cache is None:
        if asked:
            raise ValueError(
                f"{type(prompt.anatomy.model).__name__} gives no keys and values that can be "
                "copied: leave share out"
            )
        return False
    if asked is None:
        return tokens.shape[-1] == 1 or _sound(prompt, tokens, present)
    return asked


def _total(
    scores: Float[Tensor, "n answers steps"], present: Bool[Tensor, "n answers steps"]
) -> Float[Tensor, "n answers"]:
    total = scores.masked_fill(~present, 0).sum(-1)
    return total.masked_fill(~present[..., 0], -math.inf).cpu()


def _sound(
    prompt: Prompt,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
) -> bool:
    """Whether sharing may be trusted on this model, seen once on its longest options."""
    model = prompt.anatomy.model
    if model not in _shares:
        rows = torch.arange(len(tokens), device=tokens.device)
        longest = present.sum(-1).argmax(-1)
        fed, there = (one[rows, longest][:, None, :-1] for one in (tokens, present))
        plain, shared = prompt.again(fed, there), prompt.shared(fed, there)
        looks_ahead = not _alike(plain[:, 0, 0], prompt.log_probs, prompt.anatomy)
        scored = present[rows, longest][:, 1:]
        alike = _alike(plain[:, 0, 1:][scored], shared[:, 0][scored], prompt.anatomy)
        _shares[model] = looks_ahead or alike
    return _shares[model]


def _alike(one: Tensor, other: Tensor, anatomy: Anatomy) -> bool:
    """Log-probabilities that differ by no more than the model's precision explains."""
    weight: Any = anatomy.unembed.weight
    tolerance = 0.5 if weight.dtype in (torch.bfloat16, torch.float16) else 1e-3
    return bool(((one - other).nan_to_num(nan=0.0).abs() < tolerance).all())


def _in_force(
    anatomy: Anatomy,
    interventions: Sequence[Intervention],
    batch: Batch,
    processor: Any,
    moments: Moments | None,
    seed: int,
) -> AbstractContextManager[None]:
    if not interventions:
        return nullcontext()
    return intervene(
        None,
        *interventions,
        processor=processor,
        spans=batch.spans,
        ids=batch.ids,
        moments=moments,
        seed=seed,
        anatomy=anatomy,
    )


def _refuse_strangers(options: Options, anatomy: Anatomy) -> None:
    """Token ids must be the model's."""
    weight: Any = anatomy.unembed.weight
    largest = max(max(option.tokens) for row in options for option in row)
    if largest >= len(weight):
        raise ValueError(f"{largest} is no token id: this model has {len(weight)} tokens")
