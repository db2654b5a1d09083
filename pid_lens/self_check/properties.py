"""Checking: a model's own proof that nothing leaks, property by property, with numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.inputs import Batch, Spans, as_batch, resolve_samples
from pid_lens.interventions import Knockout, Noise
from pid_lens.lens import Lens
from pid_lens.model import Anatomy, dissect, processor_of
from pid_lens.self_check.report import Checked, Property
from pid_lens.self_check.trial import _alone, _largest, _Trial, _UntoldError

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor


def check(
    model: Any = None,
    inputs: Batch | Mapping[str, Any] | None = None,
    *,
    spans: Mapping[str, Bool[Tensor, "n tokens"]] | None = None,
    processor: Any = None,
    anatomy: Anatomy | None = None,
) -> Checked:
    """Proves on a model at hand that its results may be trusted, or says what may not.

    =========== ===============================================================================
    lens        the last layer, normed and unembedded, is the model's own answer
    untouched   with nothing hidden the model's logits are what they are without a lens, to the bit
    fork        one forked pass reads, in nats, what a pass for each condition reads
    sighted     other pixels, and other words, do change the answer: else nothing is proved below
    image       with the image noised other pixels change no logit at the answer
    question    with the question noised other words change none
    knockout    with the image closed to all other tokens other pixels change none
    batch       a sample's answer does not depend on the batch that it stands in
    hooks       nothing is left behind in the model
    =========== ===============================================================================

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        inputs: a `Batch`, or a mapping of the model's inputs; two or more samples.
        spans: masks [n, tokens] by name, where neither the batch nor a processor says them.
        processor: finds the question in prompts of its chat template.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Returns:
        `Checked`, with ``ok`` and a line a property. A property that cannot be measured has
        failed, and says why. One exception: where the inputs do not tell which pixels are the
        first sample's (images in unequal tiles), ``batch`` is neither held nor failed.

    Raises:
        TypeError: no inputs.
        ValueError: spans that cannot be found.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> batch = next(iter(pid_lens.demo.batches("synergy", n=4)))
        >>> check(model, batch, processor=processor).ok
        True
    """
    if inputs is None:
        raise TypeError("check needs inputs: check(model, batch) or check(model, inputs, ...)")
    found = anatomy or dissect(model)
    batch = as_batch(inputs)
    batch = replace(batch, spans=batch.spans if spans is None else spans).to(found.device)
    samples = resolve_samples(batch, processor_of(model, processor), found.image_token)
    options = None if batch.options is None else samples.options
    batch = replace(batch, spans=samples.spans, ids=samples.ids, options=options, labels=None)
    trial = _Trial(found, batch, samples)
    with torch.no_grad():
        properties = tuple(_tried(name, prove, trial) for name, prove in _PROPERTIES.items())
    return Checked(type(found.model).__name__, properties)


def _tried(name: str, prove: Callable[[_Trial], Property], trial: _Trial) -> Property:
    try:
        return prove(trial)
    except _UntoldError as error:
        return Property(name, None, None, str(error))
    except Exception as error:
        return Property(name, False, None, f"{type(error).__name__}: {error}")


def _lens(trial: _Trial) -> Property:
    seen: list[Tensor] = []

    def keep(module: Any, args: tuple, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hook = trial.anatomy.layers[-1].register_forward_hook(keep)
    try:
        own = trial.answer(trial.batch)
    finally:
        hook.remove()
    at = trial.samples.spans.positions("answer").to(seen[0].device)
    read = trial.anatomy.logits(seen[0][torch.arange(len(at), device=at.device), at])
    off = _largest(read.to(own.device).log_softmax(-1) - own.float().log_softmax(-1))
    return Property("lens", off <= trial.close, off, "nats off the model's own answer at most")


def _untouched(trial: _Trial) -> Property:
    lens = Lens(anatomy=trial.anatomy, conditions={"full": []}, choices=[0, 1])
    with lens(replace(trial.batch, options=None)):
        seen = trial.answer(trial.batch)
    off = _largest(seen - trial.plain)
    return Property("untouched", off == 0, off, "between logits in a lens and without one")


def _fork(trial: _Trial) -> Property:
    fork, replay = trial.lens(), trial.lens()
    with fork(trial.batch):
        trial.answer(trial.batch)
    for view in replay.views(trial.batch):
        with view:
            trial.answer(trial.batch)
    one, other = (lens.reads.log_probs for lens in (fork, replay))
    off = _largest((one - other).masked_fill(one == other, 0.0))
    return Property("fork", off <= trial.close, off, "nats between both ways to read, at most")


def _sighted(trial: _Trial) -> Property:
    moved = [
        _largest(trial.answer(other) - trial.plain)
        for other in (trial.other_pixels, trial.other_words)
    ]
    rounding = 2 * torch.finfo(trial.plain.dtype).eps * _largest(trial.plain)
    ok = min(moved) > rounding
    return Property("sighted", ok, min(moved), "is what other pixels or words move a logit by")


def _hidden(name: str, span: str, other: str) -> Callable[[_Trial], Property]:
    def prove(trial: _Trial) -> Property:
        hidden = Noise(span, trial.moments, seed=0, draws=1)
        swapped = getattr(trial, other)
        off = _largest(trial.answer(trial.batch, hidden) - trial.answer(swapped, hidden))
        return Property(name, off == 0, off, f"is what {OTHERS[other]} move a logit by")

    return prove


OTHERS = {
    "other_pixels": "other pixels behind a noised image",
    "other_words": "other words behind a noised question",
}


def _knockout(trial: _Trial) -> Property:
    image = trial.samples.spans["image"]
    spans = Spans(image=image, rest=~image)
    closed = Knockout("image", "rest")
    found = [
        trial.answer(replace(batch, spans=spans), closed)
        for batch in (trial.batch, trial.other_pixels)
    ]
    off = _largest(found[0] - found[1])
    return Property("knockout", off == 0, off, "is what unseen pixels move a logit by")


def _batch(trial: _Trial) -> Property:
    n = trial.samples.n
    if n < 2:
        return Property("batch", False, None, "needs two samples or more")
    alone = trial.answer(replace(trial.batch, inputs=_alone(trial)))
    off = _largest(alone[0] - trial.plain[0])
    return Property("batch", off <= trial.close, off, "between a sample alone and in its batch")


def _hooks(trial: _Trial) -> Property:
    every = [
        hook
        for module in trial.anatomy.model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    left = sum(_maker(hook) == "pid_lens" for hook in every)
    return Property("hooks", left == 0, float(left), "hooks of ours are left in the model")


def _maker(hook: Any) -> str:
    """The package that a hook is of."""
    return str(getattr(hook, "__module__", "")).partition(".")[0]


_PROPERTIES: dict[str, Callable[[_Trial], Property]] = {
    "lens": _lens,
    "untouched": _untouched,
    "fork": _fork,
    "sighted": _sighted,
    "image": _hidden("image", "image", "other_pixels"),
    "question": _hidden("question", "question", "other_words"),
    "knockout": _knockout,
    "batch": _batch,
    "hooks": _hooks,
}
