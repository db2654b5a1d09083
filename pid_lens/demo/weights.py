"""The shipped weights: checkpoints of alignment and tuning, and the trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

MODEL = Path(__file__).with_name("model")


def checkpoints(*, folder: Path = MODEL) -> tuple[str, ...]:
    """List the checkpoints that `load` knows, in the order of training.

    `align-0150` is the model after 150 steps of aligning the projector, `tune-1000` after 1,000
    steps of instruction tuning; `final` is the trained model.

    Args:
        folder: what `python -m pid_lens.demo.train` wrote; the shipped model by default.

    Example:
        >>> checkpoints()[0], checkpoints()[-1]
        ('align-0000', 'final')
    """
    names = [path.stem for path in (folder / "checkpoints").glob("*.safetensors")]
    return tuple(sorted(names, key=lambda name: (name == "final", name)))


def load(
    checkpoint: str = "final", *, folder: Path = MODEL
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load the shipped model, float32, on the CPU, in evaluation mode, with its processor.

    Args:
        checkpoint: one of `checkpoints()`.
        folder: what `python -m pid_lens.demo.train` wrote; the shipped model by default.

    Raises:
        ValueError: an unknown checkpoint.

    Example:
        >>> from pid_lens.demo import batches
        >>> model, processor = load()
        >>> [batch] = batches("vision", n=32)
        >>> logits = model(**batch.inputs).logits[:, -1]
        >>> bool((logits.gather(1, batch.options).argmax(1) == batch.labels).all())
        True
    """
    names = checkpoints(folder=folder)
    if checkpoint not in names:
        known = ", ".join(names) or f"there is none in {folder}"
        raise ValueError(f"unknown checkpoint {checkpoint!r}: choose one of {known}")
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    weights = load_file(folder / "checkpoints" / f"{checkpoint}.safetensors")
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(folder))
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    model.generation_config.max_new_tokens = 1  # the answer is one word
    return model.eval(), LlavaProcessor.from_pretrained(folder)
