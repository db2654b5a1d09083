"""What pid_lens costs in each framework: ``python tests/benchmarks/frameworks.py``.

Ratios within one run, as in `lens.py`, each to a plain forward of the same framework: a call in
transformers, a trace that keeps the logits in nnsight, a call of the bridge in TransformerLens.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from lens import ROWS, TOKENS, llava, ratio
from nnsight import NNsight
from pid_lens.adapters.nnsight import in_trace as inside
from pid_lens.adapters.transformer_lens import hook_points as hooks

import pid_lens
from pid_lens import Batch, Lens

Run = Callable[[dict[str, Any]], None]


def in_transformers(model: Any) -> Run:
    """A plain call."""

    def run(inputs: dict[str, Any]) -> None:
        model(**inputs, use_cache=False)

    return run


def in_nnsight(model: Any) -> Run:
    """A trace that keeps the logits."""

    def run(inputs: dict[str, Any]) -> None:
        with model.trace(**inputs, use_cache=False):
            logits = model.output.logits.save()
        assert logits is not None

    return run


def in_transformer_lens(bridge: Any) -> Run:
    """A call of the bridge."""

    def run(inputs: dict[str, Any]) -> None:
        bridge(inputs["input_ids"], pixel_values=inputs["pixel_values"], use_cache=False)

    return run


def readout_in_nnsight(model: Any, batch: Batch) -> None:
    """The function inside a trace."""
    with model.trace(**batch.inputs, use_cache=False):
        stream = inside.readout(model, batch=batch)
        logits = model.output.logits.save()
    assert stream.answers
    assert logits is not None


def knockout_in_nnsight(model: Any, batch: Batch) -> None:
    """Two functions inside a trace."""
    with model.trace(**batch.inputs, use_cache=False):
        inside.knockout(model, "image", "question", batch=batch)
        stream = inside.readout(model, batch=batch)
        logits = model.output.logits.save()
    assert stream.answers
    assert logits is not None


def readout_in_transformer_lens(bridge: Any, batch: Batch) -> None:
    """Functions at hook points."""
    stream = hooks.readout(bridge, batch)
    ids, pixels = batch.inputs["input_ids"], batch.inputs["pixel_values"]
    bridge.run_with_hooks(ids, fwd_hooks=stream, pixel_values=pixels, use_cache=False)


def figures(name: str, model: Any, run: Run, batch: Batch) -> dict[str, float]:
    """Reading every layer through a lens, and a fork of three conditions."""
    three = {k: v.repeat(3, *[1] * (v.ndim - 1)) for k, v in batch.inputs.items()}
    reading = Lens(model, conditions={"full": []})
    forking = Lens(model, moments=pid_lens.calibrate(model, [batch]))

    def under(lens: Lens) -> None:
        with lens(batch):
            run(batch.inputs)

    return {
        f"{name}: lens, one condition / forward": ratio(
            lambda: under(reading), lambda: run(batch.inputs)
        ),
        f"{name}: lens, three conditions / forward of 3x the rows": ratio(
            lambda: under(forking), lambda: run(three)
        ),
    }


@torch.no_grad()
def main() -> None:
    """Prints the table."""
    model, batch = llava()
    wrapped, bridge = NNsight(deepcopy(model)), hooks.bridged(deepcopy(model))
    tracing, bridging = in_nnsight(wrapped), in_transformer_lens(bridge)
    found = {
        **figures("transformers", model, in_transformers(model), batch),
        **figures("nnsight", wrapped, tracing, batch),
        "nnsight: readout in a trace / trace": ratio(
            lambda: readout_in_nnsight(wrapped, batch), lambda: tracing(batch.inputs)
        ),
        "nnsight: knockout and readout in a trace / trace": ratio(
            lambda: knockout_in_nnsight(wrapped, batch), lambda: tracing(batch.inputs)
        ),
        **figures("TransformerLens", bridge, bridging, batch),
        "TransformerLens: readout by hooks / forward": ratio(
            lambda: readout_in_transformer_lens(bridge, batch), lambda: bridging(batch.inputs)
        ),
    }
    print(f"LLaVA of 8 layers, width 256, {TOKENS} tokens, {ROWS} rows, one thread")
    for name, figure in found.items():
        print(f"{name:<64}{figure:.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    main()
