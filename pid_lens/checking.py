"""Checking: a model's own proof that nothing leaks, property by property, with numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from pid_lens.anatomy import Anatomy, dissect
from pid_lens.intervening import intervene
from pid_lens.interventions import Knockout, Noise
from pid_lens.lens import Lens
from pid_lens.moments import Moments, calibrate
from pid_lens.samples import Batch, as_batch, recognise
from pid_lens.spans import Spans

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from pid_lens.samples import Samples

CLOSE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""By how much two ways to the same logits may differ; `CLOSE_IN_HALF` in half precision."""
CLOSE_IN_HALF = 0.1


@dataclass(frozen=True)
class Property:
    """One property, and what was measured of it."""

    name: str
    ok: bool
    measured: float | None
    """The number behind the verdict; None where none could be measured."""
    detail: str
    """What was measured, or why it could not be."""

    def __str__(self) -> str:
        number = "" if self.measured is None else f" {self.measured:.2g}"
        return f"{'ok    ' if self.ok else 'FAILED'} {self.name}:{number} {self.detail}"


@dataclass(frozen=True)
class Checked:
    """What `check` found, one line a property.

    Example:
        >>> print(Checked("Tiny", (Property("lens", True, 1e-7, "nats off the logits"),)))
        Tiny: 1 of 1 properties hold
          ok     lens: 1e-07 nats off the logits
    """

    model: str
    properties: tuple[Property, ...]

    @property
    def ok(self) -> bool:
        """Whether every property holds."""
        return all(one.ok for one in self.properties)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the properties that do not hold."""
        return tuple(one.name for one in self.properties if not one.ok)

    def __str__(self) -> str:
        held = len(self.properties) - len(self.failed)
        head = f"{self.model}: {held} of {len(self.properties)} properties hold"
        return "\n  ".join([head, *map(str, self.properties)])


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
    fork        one forked pass reads what a pass for each condition reads
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
        failed, and says why.

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
    samples = recognise(batch, processor, found.image_token)
    batch = replace(batch, spans=samples.spans, ids=samples.ids)
    trial = _Trial(found, batch, samples)
    with torch.no_grad():
        properties = tuple(_tried(name, prove, trial) for name, prove in _PROPERTIES.items())
    return Checked(type(found.model).__name__, properties)


@dataclass(frozen=True)
class _Trial:
    """A model, a batch, and other batches that differ from it in one modality alone."""

    anatomy: Anatomy
    batch: Batch
    samples: Samples

    @cached_property
    def moments(self) -> Moments:
        return calibrate(None, [self.batch], anatomy=self.anatomy)

    @cached_property
    def plain(self) -> Tensor:
        return self.answer(self.batch)

    @cached_property
    def close(self) -> float:
        return CLOSE.get(self.plain.dtype, CLOSE_IN_HALF)

    @cached_property
    def other_pixels(self) -> Batch:
        """The values of every pixel tensor in another order."""
        inputs = self.batch.inputs
        pixels = [k for k, v in inputs.items() if torch.is_tensor(v) and _is_picture(k, v)]
        if not pixels:
            raise ValueError(f"no pixels among the inputs {', '.join(inputs)}")
        changed = {name: _shuffled(inputs[name]) for name in pixels}
        return replace(self.batch, inputs={**inputs, **changed})

    @cached_property
    def other_words(self) -> Batch:
        """Another word wherever the question is said."""
        ids, vocabulary = self.batch.inputs["input_ids"], len(self.anatomy.unembed.weight)  # type: ignore[arg-type]
        inside = self.samples.spans["question"].to(ids.device)
        words = ids[inside].unique()
        taken = {int(self.anatomy.image_token or -1), *words.tolist()}
        new = next(token for token in range(vocabulary // 2, vocabulary) if token not in taken)
        changed = {"input_ids": ids.where(~inside, new)}
        for name, value in self.batch.inputs.items():
            if name.endswith("_input_ids"):
                changed[name] = torch.full_like(value, int(value.flatten()[0]) + 1)
        return replace(self.batch, inputs={**self.batch.inputs, **changed})

    def answer(self, batch: Batch, *hidden: Any) -> Float[Tensor, "n vocabulary"]:
        """Logits at the answer position."""
        if hidden:
            how: dict[str, Any] = {"spans": batch.spans, "ids": batch.ids, "moments": self.moments}
            with intervene(None, *hidden, anatomy=self.anatomy, **how):
                return self.answer(batch)
        logits = self.anatomy.model(**batch.inputs).logits
        at = self.samples.spans.positions("answer")[: len(logits)].to(logits.device)
        return logits[torch.arange(len(at), device=logits.device), at]

    def lens(self) -> Lens:
        choices = [0, 1] if self.batch.options is None else None
        return Lens(anatomy=self.anatomy, moments=self.moments, choices=choices)


def _tried(name: str, prove: Callable[[_Trial], Property], trial: _Trial) -> Property:
    try:
        return prove(trial)
    except Exception as error:
        return Property(name, False, None, f"{type(error).__name__}: {error}")


def _is_picture(name: str, value: Tensor) -> bool:
    return value.is_floating_point() and "mask" not in name


def _shuffled(pixels: Tensor) -> Tensor:
    order = torch.randperm(pixels.numel(), generator=torch.Generator().manual_seed(0))
    return pixels.flatten()[order.to(pixels.device)].view_as(pixels)


def _largest(change: Tensor) -> float:
    return float(change.float().abs().max())


# ---------------------------------------------------------------- properties


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
    with lens(replace(trial.batch, options=None, labels=None)):
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
    one, other = (lens.reads.log_probs.float().exp() for lens in (fork, replay))
    off = _largest(one - other)
    return Property("fork", off <= trial.close, off, "between probabilities of both ways to read")


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
    rows = {k: _first(v, n) for k, v in trial.batch.inputs.items()}
    alone = trial.answer(replace(trial.batch, inputs=rows))
    off = _largest(alone[0] - trial.plain[0])
    return Property("batch", off <= trial.close, off, "between a sample alone and in its batch")


def _first(value: Any, n: int) -> Any:
    """The first of n samples' share of an input."""
    whole = torch.is_tensor(value) and value.ndim and len(value) % n == 0
    return value[: len(value) // n] if whole else value


def _hooks(trial: _Trial) -> Property:
    every = [
        hook
        for module in trial.anatomy.model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    left = sum("pid_lens" in getattr(hook, "__module__", "") for hook in every)
    return Property("hooks", left == 0, float(left), "hooks of ours are left in the model")


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
