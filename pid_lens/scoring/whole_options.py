"""Whole options: log-probability of answers of several tokens, with one pass of the prompt."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs import Batch, as_batch
from pid_lens.model import Anatomy, dissect
from pid_lens.scoring.cache_sharing import known_verdict, may_share
from pid_lens.scoring.continuation import PromptRun, pad_left, require_finite_answers
from pid_lens.scoring.option_scores import OptionScores
from pid_lens.scoring.option_tokens import Options, collisions, stack_tokens, tokenise_options
from pid_lens.scoring.under_interventions import UnderInterventions

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from pid_lens.interventions import Intervention, Moments


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
    rows: int = 64,
    anatomy: Anatomy | None = None,
) -> OptionScores:
    """Compute the log-probability of every whole option after its prompt.

    ::

        log p(option | prompt) = sum_j log p(token_j | prompt, token_1 .. token_{j-1})

    The prompt runs once; options of all samples then run as batch rows of a call on copies of its
    KV cache. Whether that is sound for a model is tested in its first call, and again with longer
    options, another precision, another kind of attention or with interventions: the longest
    options also run in full, prompt and option together without a cache. Where the two differ by
    more than the precision explains, options run in full from then on, and ``shared`` of the
    result is False. (Where a prompt's own tokens attend to an option that follows them, as in
    PaliGemma, the full run is the wrong one, and sharing is what ``generate`` does.)

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        batch: a `Batch`, or the model's inputs, padded on either side.
        options: texts, or lists of token ids: one list for all samples, or one per sample.
            They are tokenised as they stand and put after the prompt's last token. Where the
            answer begins with a space, as after ``ASSISTANT:``, write ``" A"`` if the tokenizer
            keeps the space in the word (Qwen, Llama 3, Gemma), but ``"A"`` if it puts a space
            before every text by itself (Llama 2, Mistral): ``tokenizer.tokenize("A")`` shows it.
        processor: needed for options that are text, and to find a question for interventions.
        interventions: applied to prompts and options, which extend the ``answer`` span.
        spans: masks [n, tokens] by name for the interventions, in place of the batch's.
        moments: means and standard deviations for noise, from `calibrate`.
        seed: of the noise.
        share: True shares the KV cache, False runs in full, both without a test.
        rows: batch rows of one call on a shared KV cache at most, though at least one option of
            every sample. Memory grows with it: each row has a copy of its prompt's keys and
            values and logits over the vocabulary at each of its tokens. Interventions know the
            prompts' rows, so under them options run one after another.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Returns:
        `OptionScores`, with the length-normalised and the first-token rule along with the sum.

    Raises:
        TypeError: options that are neither texts nor lists of token ids.
        ValueError: no samples, fewer than one of ``rows``, an empty option, one with an unknown
            word or with an id that is not a token of the model, two of the same tokens,
            ``share=True`` for a model that gives no keys and values, or log-probabilities that
            are not finite.
        RuntimeError: interventions while a lens is open on this model.

    Warns:
        UserWarning: the model is in training mode.

    Source:
        Language models are few-shot learners (Brown et al., 2020),
        https://arxiv.org/abs/2005.14165: options scored by log-probability per token

    Example:
        >>> import pid_lens
        >>> from pid_lens.scoring import score_options
        >>> model, processor = pid_lens.demo.load()
        >>> batch = next(iter(pid_lens.demo.batches("vision", n=8)))
        >>> found = score_options(model, batch, ("A", "B", "B ."), processor=processor)
        >>> found.best("whole").tolist() == batch.labels.tolist()
        True
        >>> found.collisions[0]
        (('B', 'B .'),)
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}")
    anatomy = anatomy or dissect(model)
    if anatomy.model.training:
        warnings.warn(
            "the model is in training mode, so dropout may blur its answers: call model.eval()",
            stacklevel=3,
        )
    given = as_batch(batch).to(anatomy.device)
    chosen = tokenise_options(options, given.n, processor)
    _require_known_tokens(chosen, anatomy)
    given = pad_left(given if spans is None else replace(given, spans=spans))
    tokens, present = (one.to(anatomy.device) for one in stack_tokens(chosen))
    scope = UnderInterventions(anatomy, tuple(interventions), given, processor, moments, seed)
    scores, shared = _score_tokens(scope, tokens, present, share, rows)
    require_finite_answers((present & ~scores.isfinite()).flatten(1).any(-1))
    return OptionScores(
        log_probs=_sum_tokens(scores, present),
        first=scores[..., 0].masked_fill(~present[..., 0], -math.inf).cpu(),
        tokens=present.sum(-1).cpu(),
        names=tuple(tuple(option.name for option in row) for row in chosen),
        collisions=collisions(chosen),
        shared=shared,
        ids=given.ids,
    )


def _score_tokens(
    scope: UnderInterventions,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    share: bool | None,
    rows: int,
) -> tuple[Float[Tensor, "n answers steps"], bool]:
    """Compute the log-probability of each token, with whether options ran on the KV cache.

    They do if the caller asked for it, or if a trial finds it sound (`may_share`). Otherwise each
    option runs with its prompt, without a cache.
    """
    intervened = bool(scope.interventions)
    together = 1 if intervened else max(1, rows // len(tokens))
    with scope():  # prompts, and options on their KV cache
        run = PromptRun.run(scope.anatomy, scope.batch.inputs)
        _require_shareable(share, run)
        sharing = _is_worth_sharing(share, run, intervened)
        later = _score_together(run, tokens, present, together) if sharing else None
    first = run.score_first(tokens)
    with scope(tokens.shape[-1] - 1):  # prompts with an option after them
        if later is not None and (share or may_share(run, tokens, present, later, intervened)):
            return torch.cat([first, later], -1), True
        return torch.cat([first, run.score_with_prompt(tokens, present)], -1), False


def _require_shareable(share: bool | None, run: PromptRun) -> None:
    if share and run.cache is None:
        raise ValueError(
            f"{type(run.anatomy.model).__name__} gives no keys and values that can be copied: "
            "leave share out"
        )


def _is_worth_sharing(share: bool | None, run: PromptRun, intervened: bool) -> bool:
    """Return whether sharing can be sound, as far as is known before it is tried."""
    if run.cache is None or share is not None:
        return bool(share)
    known = known_verdict(run, intervened)
    return known is None or known.sound


def _score_together(
    run: PromptRun,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    together: int,
) -> Float[Tensor, "n answers later"]:
    """Compute the log-probability of each token but the first, ``together`` options per call."""
    parts = zip(tokens.split(together, 1), present.split(together, 1), strict=True)
    return torch.cat([run.score_on_cache(*part) for part in parts], 1)


def _sum_tokens(
    scores: Float[Tensor, "n answers steps"], present: Bool[Tensor, "n answers steps"]
) -> Float[Tensor, "n answers"]:
    total = scores.masked_fill(~present, 0).sum(-1)
    return total.masked_fill(~present[..., 0], -math.inf).cpu()


def _require_known_tokens(options: Options, anatomy: Anatomy) -> None:
    """Require token ids of the model's vocabulary."""
    weight: Any = anatomy.unembed.weight
    largest = max(max(option.tokens) for row in options for option in row)
    if largest >= len(weight):
        raise ValueError(f"{largest} is not a token id: this model has {len(weight)} tokens")
