"""Whole options: how probable answers of several tokens are, the prompt read once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.anatomy import Anatomy, dissect
from pid_lens.intervening import intervene
from pid_lens.options.continuing import Asked, left_padded, refuse_broken
from pid_lens.options.scores import OptionScores
from pid_lens.options.sharing import may_share
from pid_lens.options.tokens import Options, collisions, option_tokens, whole_options
from pid_lens.samples import Batch, as_batch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from pid_lens.moments import Moments
    from pid_lens.protocols import Intervention


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
    """Log-probability of every whole option after its prompt.

    ::

        log p(option | prompt) = sum_j log p(token_j | prompt, token_1 .. token_{j-1})

    The prompt runs once; options of all samples then run as rows of a call on copies of its keys
    and values. Whether a model can be trusted with that is tested in its first call, and again
    with longer options, another precision, another kind of attention or with interventions: the
    longest options also run the plain way, prompt and option together without a cache. Where
    the two differ by more than the precision explains, the plain way is used from then on, and
    the result says so. (Where a prompt's own tokens look ahead at an option that follows them, as
    in PaliGemma, the plain way is the wrong one, and sharing is what ``generate`` does.)

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        batch: a `Batch`, or the model's inputs, padded on either side.
        options: texts, or lists of token ids: one list for all samples, or one list a sample.
            They are tokenised as they stand and put behind the prompt's last token. Where the
            answer begins with a space, as after ``ASSISTANT:``, write ``" A"`` if the tokenizer
            keeps the space in the word (Qwen, Llama 3, Gemma), but ``"A"`` if it puts a space
            before every text by itself (Llama 2, Mistral): ``tokenizer.tokenize("A")`` shows it.
        processor: needed for options that are text, and to find a question for interventions.
        interventions: in force for prompts and options, which continue the ``answer`` span.
        spans: masks [n, tokens] by name for the interventions, where the batch has none.
        moments: what noise looks like, of `calibrate`.
        seed: of the noise.
        share: True and False settle which way is taken, without a test.
        rows: rows of one call on shared keys and values at most, though at least one option of
            every sample. Memory grows with it: each row has a copy of its prompt's keys and
            values and an answer over the vocabulary at each of its tokens. Interventions know the
            prompts' rows, so under them options run one after another.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Returns:
        `OptionScores`, with the length-normalised and the first-token rule beside the sum.

    Raises:
        TypeError: options that are neither texts nor lists of token ids.
        ValueError: no samples, an empty option, one with an unknown word or no token id of the
            model, two of the same tokens, sharing asked for from a model that gives no keys and
            values, or an answer of the model that is not finite.

    Warns:
        UserWarning: the model is in training mode.

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
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}")
    anatomy = anatomy or dissect(model)
    if anatomy.model.training:
        warnings.warn(
            "the model is in training mode, so dropout may blur its answers: call model.eval()",
            stacklevel=3,
        )
    given = as_batch(batch).to(anatomy.device)
    chosen = whole_options(options, given.n, processor)
    _refuse_strangers(chosen, anatomy)
    given = left_padded(given if spans is None else replace(given, spans=spans))
    tokens, present = (one.to(anatomy.device) for one in option_tokens(chosen))
    with _in_force(anatomy, interventions, given, processor, moments, seed):
        asked = Asked.run(anatomy, given.inputs)
        sharing = _sharing(share, asked, tokens, present, intervened=bool(interventions))
        together = 1 if interventions else max(1, rows // given.n)
        scores = _pieces(asked, tokens, present, sharing, together)
    refuse_broken((present & ~scores.isfinite()).flatten(1).any(-1))
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
    asked: Asked,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    sharing: bool,
    together: int,
) -> Float[Tensor, "n answers steps"]:
    """Log-probability of each token, given all before it; so many options in one call."""
    first = asked.first(tokens)
    if tokens.shape[-1] == 1:
        return first
    if not sharing:
        return torch.cat([first, asked.again(tokens, present)[..., 1:]], -1)
    parts = zip(tokens.split(together, 1), present.split(together, 1), strict=True)
    return torch.cat([first, torch.cat([asked.shared(*part) for part in parts], 1)], -1)


def _sharing(
    share: bool | None,
    asked: Asked,
    tokens: Int[Tensor, "n answers steps"],
    present: Bool[Tensor, "n answers steps"],
    intervened: bool,
) -> bool:
    """Whether options run on the prompt's keys and values."""
    if asked.cache is None:
        if share:
            raise ValueError(
                f"{type(asked.anatomy.model).__name__} gives no keys and values that can be "
                "copied: leave share out"
            )
        return False
    if share is None:
        return tokens.shape[-1] == 1 or may_share(asked, tokens, present, intervened)
    return share


def _total(
    scores: Float[Tensor, "n answers steps"], present: Bool[Tensor, "n answers steps"]
) -> Float[Tensor, "n answers"]:
    total = scores.masked_fill(~present, 0).sum(-1)
    return total.masked_fill(~present[..., 0], -math.inf).cpu()


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
