"""Networks whose weights come from a generator of their own, whatever torch's is at."""

from __future__ import annotations

import torch
from torch import nn


def linear_layer(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A layer with the weights that torch draws by default, drawn from this generator.

    Example:
        >>> one, other = (linear_layer(3, 2, torch.Generator().manual_seed(0)) for _ in "12")
        >>> torch.equal(one.weight, other.weight)
        True
    """
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer
