"""Tests of a model: exact logit lens, no leak past ablation or knockout, no hook left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.forward import is_own_hook
from pid_lens.inputs import Batch, Spans, as_batch, resolve_samples
from pid_lens.interventions import Knockout, Noise
from pid_lens.lens import Lens
from pid_lens.model import Anatomy, dissect, processor_of
from pid_lens.self_check.report import Checked, Property
from pid_lens.self_check.trial import Trial, UntoldError, first_sample, largest_change

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
    """Check on a given model that its results may be trusted, property by property.

    =========== ===============================================================================
    lens        the last layer, normed and unembedded, is the model's own answer
    untouched   without interventions the logits are what they are without a lens, to the bit
    fork        one forked forward pass reads, in nats, what a pass per condition reads
    sighted     other pixels, and other words, do change the answer: else nothing is proved below
    image       with the image noised other pixels change no logit at the answer
    question    with the question noised other words change no logit
    knockout    with attention from all other tokens to the image masked other pixels change none
    batch       a sample's answer does not depend on the rest of its batch
    hooks       no hook of ours is left in the model
    =========== ===============================================================================

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        inputs: a `Batch`, or a mapping of the model's inputs; two or more samples.
        spans: masks [n, tokens] by name, in place of those of the batch and the processor.
        processor: finds the question in prompts of its chat template.
        anatomy: the model's parts, for a model that `dissect` does not know.

    Returns:
        `Checked`, with ``ok`` and one line per property. A property that cannot be measured has
        failed, and its line says why. One exception: where the inputs do not determine which
        pixels are the first sample's (images in unequal tiles), ``batch`` neither holds nor fails.

    Raises:
        TypeError: no inputs.
        ValueError: spans that cannot be found.

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> batch = next(iter(pid_lens.demo.batches("synergy", n=4)))
        >>> check(model, batch, processor=processor).ok
        True
        >>> from dataclasses import replace
        >>> wrong = replace(pid_lens.dissect(model), scale=2.0)
        >>> check(None, batch, processor=processor, anatomy=wrong).failed
        ('lens', 'untouched', 'fork')
    """
    if inputs is None:
        raise TypeError("check needs inputs: check(model, batch) or check(model, inputs, ...)")
    found = anatomy or dissect(model)
    batch = as_batch(inputs)
    batch = replace(batch, spans=batch.spans if spans is None else spans).to(found.device)
    samples = resolve_samples(batch, processor_of(model, processor), found.image_token)
    options = None if batch.options is None else samples.options
    batch = replace(batch, spans=samples.spans, ids=samples.ids, options=options, labels=None)
    trial = Trial(found, batch, samples)
    with torch.no_grad():
        properties = tuple(_try(name, prove, trial) for name, prove in _PROPERTIES.items())
    return Checked(type(found.model).__name__, properties)


def _try(name: str, prove: Callable[[Trial], Property], trial: Trial) -> Property:
    try:
        return prove(trial)
    except UntoldError as error:
        return Property(name, None, None, str(error))
    except Exception as error:
        return Property(name, False, None, f"{type(error).__name__}: {error}")


def _prove_lens(trial: Trial) -> Property:
    states: list[Tensor] = []

    def keep(module: Any, args: tuple, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hook = trial.anatomy.layers[-1].register_forward_hook(keep)
    try:
        own = trial.answer(trial.batch)
    finally:
        hook.remove()
    # Logit lens on the last residual stream, against the model's own log-probabilities
    at = trial.samples.spans.positions("answer").to(states[0].device)
    read = trial.anatomy.logits(states[0][torch.arange(len(at), device=at.device), at])
    off = largest_change(read.to(own.device).log_softmax(-1) - own.float().log_softmax(-1))
    return Property("lens", off <= trial.close, off, "nats off the model's own answer at most")


def _prove_untouched(trial: Trial) -> Property:
    lens = Lens(anatomy=trial.anatomy, conditions={"full": []}, choices=[0, 1])
    with lens(replace(trial.batch, options=None)):
        seen = trial.answer(trial.batch)
    off = largest_change(seen - trial.plain)
    return Property("untouched", off == 0, off, "between logits in a lens and without one")


def _prove_fork(trial: Trial) -> Property:
    fork, replay = trial.lens(), trial.lens()
    with fork(trial.batch):
        trial.answer(trial.batch)
    for view in replay.views(trial.batch):
        with view:
            trial.answer(trial.batch)
    one, other = (lens.reads.log_probs for lens in (fork, replay))
    off = largest_change((one - other).masked_fill(one == other, 0.0))
    return Property("fork", off <= trial.close, off, "nats between fork and single passes at most")


def _prove_sighted(trial: Trial) -> Property:
    moved = [
        largest_change(trial.answer(other) - trial.plain)
        for other in (trial.other_pixels, trial.other_words)
    ]
    # A change of a logit must exceed what rounding alone may make
    rounding = 2 * torch.finfo(trial.plain.dtype).eps * largest_change(trial.plain)
    ok = min(moved) > rounding
    detail = "largest change of a logit by other pixels, or by other words: the smaller of both"
    return Property("sighted", ok, min(moved), detail)


def _prove_image(trial: Trial) -> Property:
    noise = Noise("image", trial.moments, seed=0, draws=1)
    off = _change_under(noise, trial, trial.other_pixels)
    detail = "largest change of a logit by other pixels behind a noised image"
    return Property("image", off == 0, off, detail)


def _prove_question(trial: Trial) -> Property:
    noise = Noise("question", trial.moments, seed=0, draws=1)
    off = _change_under(noise, trial, trial.other_words)
    detail = "largest change of a logit by other words behind a noised question"
    return Property("question", off == 0, off, detail)


def _change_under(noise: Noise, trial: Trial, other: Batch) -> float:
    """Measure the largest difference of a logit between two batches under the same noise."""
    return largest_change(trial.answer(trial.batch, noise) - trial.answer(other, noise))


def _prove_knockout(trial: Trial) -> Property:
    image = trial.samples.spans["image"]
    spans = Spans(image=image, rest=~image)
    knockout = Knockout("image", "rest")
    found = [
        trial.answer(replace(batch, spans=spans), knockout)
        for batch in (trial.batch, trial.other_pixels)
    ]
    off = largest_change(found[0] - found[1])
    return Property("knockout", off == 0, off, "largest change of a logit by masked pixels")


def _prove_batch(trial: Trial) -> Property:
    n = trial.samples.n
    if n < 2:
        return Property("batch", False, None, "needs two samples or more")
    alone = trial.answer(replace(trial.batch, inputs=first_sample(trial)))
    off = largest_change(alone[0] - trial.plain[0])
    return Property("batch", off <= trial.close, off, "between a sample alone and in its batch")


def _prove_hooks(trial: Trial) -> Property:
    every = [
        hook
        for module in trial.anatomy.model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    left = sum(map(is_own_hook, every))
    return Property("hooks", left == 0, float(left), "hooks of ours are left in the model")


_PROPERTIES: dict[str, Callable[[Trial], Property]] = {
    "lens": _prove_lens,
    "untouched": _prove_untouched,
    "fork": _prove_fork,
    "sighted": _prove_sighted,
    "image": _prove_image,
    "question": _prove_question,
    "knockout": _prove_knockout,
    "batch": _prove_batch,
    "hooks": _prove_hooks,
}
