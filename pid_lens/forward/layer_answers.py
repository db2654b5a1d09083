"""Layer answers: a readout (logit lens) of each layer's residual stream at the answer position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pid_lens.inputs import Samples
    from pid_lens.model import Anatomy
    from pid_lens.readouts import Readout


def answers_at(
    states: Float[Tensor, "rows tokens width"],
    samples: Samples,
    readout: Readout,
    anatomy: Anatomy,
    layer: int,
) -> Float[Tensor, "rows answers"]:
    """Apply a readout to a layer's residual stream at the answer position.

    Rows are the n samples, or several row blocks of them.

    Raises:
        ValueError: the readout returns another shape.
    """
    # Each row block holds all n samples: repeat their positions and options for every block
    times = len(states) // samples.n
    rows = torch.arange(len(states), device=states.device)
    at = samples.spans.positions("answer").repeat(times).to(states.device)
    options = samples.options.repeat(times, 1).to(states.device)
    answers = readout(states[rows, at], options, anatomy, layer)
    if answers.shape != options.shape:
        raise ValueError(
            f"{readout!r} must return one number per option, {list(options.shape)}; it returned "
            f"{list(answers.shape)}"
        )
    return answers


def stack_layers(layers: Sequence[Tensor]) -> Tensor:
    """Stack one tensor per layer on the first one's device; a model may lie on several."""
    return torch.stack([layer.to(layers[0].device) for layer in layers])


def residual_stream(output: Any) -> Tensor:
    """Return the residual stream [rows, tokens, width] in a layer's output.

    Example:
        >>> import torch
        >>> stream, attentions = torch.ones(2, 5, 4), torch.zeros(2, 1, 5, 5)
        >>> residual_stream((stream, attentions)) is stream, residual_stream(stream) is stream
        (True, True)
    """
    return output[0] if isinstance(output, tuple) else output
