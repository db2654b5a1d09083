"""Network layers initialised from a generator of their own, independent of torch's global seed."""

from __future__ import annotations

import torch
from torch import nn


def linear_layer(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Initialise a linear layer by torch's default law, U(-1/sqrt(inputs), 1/sqrt(inputs)).

    Args:
        inputs: width of the input.
        outputs: width of the output.
        generator: of the weights and biases.

    Example:
        >>> one, other = (linear_layer(3, 2, torch.Generator().manual_seed(0)) for _ in "12")
        >>> torch.equal(one.weight, other.weight), bool(one.weight.abs().max() <= 3**-0.5)
        (True, True)
    """
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer
