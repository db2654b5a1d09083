"""Independent component analysis (FastICA): axes of whitened, independent coordinates."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import softplus

_GUESSES = 12
_GUESSING_ROUNDS = 60
_ROUNDS = 200
_FEW = 1000
"""About so many samples are enough to rank the starts of the search."""
_SETTLED = 1e-8
_NORMAL = 0.37456717
"""Mean log cosh of the standard normal."""


def independent_axes(
    variable: Float64[Tensor, "n d"], near: Float64[Tensor, "d d"] | None = None
) -> Float64[Tensor, "d d"]:
    """Find the linear map to coordinates that are uncorrelated, of variance 1 and independent.

    Independent component analysis, the best of several searches from random rotations of a fixed
    seed. Gaussian directions have no such axes: any will do.

    Args:
        variable: [n, d], of full rank.
        near: axes, found on other samples, from which to start one search instead of several.

    Source:
        Fast and robust fixed-point algorithms for independent component analysis (Hyvärinen,
        1999), https://doi.org/10.1109/72.761722

    Example:
        >>> coins = torch.tensor([[1., 1.], [1., -1.], [-1., 1.], [-1., -1.]]).double()
        >>> mixed = coins @ torch.tensor([[2., 1.], [1., 1.]]).double()
        >>> (mixed @ independent_axes(mixed).mT).abs().round(decimals=4)
        tensor([[1., 1.],
                [1., 1.],
                [1., 1.],
                [1., 1.]], dtype=torch.float64)
    """
    centred = variable - variable.mean(0)
    # Whiten (ZCA): S^(-1/2) = V diag(v)^(-1/2) V^T
    variances, directions = torch.linalg.eigh(centred.mT @ centred / len(centred))
    whitening = directions @ (directions.mT / variances.sqrt()[:, None])
    white = centred @ whitening
    # ICA: rotate the white coordinates to independent ones
    guess = _guess(white) if near is None else near @ torch.linalg.inv(whitening)
    return _turn(white, _make_orthogonal(guess)[None], _ROUNDS)[0] @ whitening


def _guess(white: Float64[Tensor, "n d"]) -> Float64[Tensor, "d d"]:
    """Search from several random rotations on some of the samples; return the best."""
    some, d = white[:: math.ceil(len(white) / _FEW)], white.shape[1]
    generator = torch.Generator().manual_seed(0)
    guesses = torch.randn(_GUESSES, d, d, generator=generator, dtype=white.dtype)
    found = _turn(some, _make_orthogonal(guesses), _GUESSING_ROUNDS)
    return found[_contrast(some @ found.mT).argmax()]


def _turn(
    white: Float64[Tensor, "n d"], rotations: Float64[Tensor, "guesses d d"], rounds: int
) -> Float64[Tensor, "guesses d d"]:
    """Iterate FastICA's symmetric fixed point for the extremes of E log cosh, all axes at once."""
    # W <- nearest orthogonal to E[tanh(W x) x^T] - diag(E[1 - tanh^2(W x)]) W
    for _ in range(rounds):
        before, bent = rotations, torch.tanh(white @ rotations.mT)
        slopes = (1 - bent**2).mean(-2)[..., None]
        rotations = _make_orthogonal(bent.mT @ white / len(white) - slopes * before)
        # Converged: no axis turns any more, up to its sign
        if (rotations * before).sum(-1).abs().min() > 1 - _SETTLED:
            break
    return rotations


def _contrast(values: Float64[Tensor, "guesses n d"]) -> Float64[Tensor, " guesses"]:
    """Compute the contrast: squared excess of the coordinates' mean log cosh over a normal's."""
    # log cosh x = |x| + log(1 + exp(-2 |x|)) - log 2, without overflow
    log_cosh = values.abs() + softplus(-2 * values.abs()) - math.log(2)
    return (log_cosh.mean(-2) - _NORMAL).square().sum(-1)


def _make_orthogonal(matrices: Float64[Tensor, "*batch d d"]) -> Float64[Tensor, "*batch d d"]:
    """Project matrices on the nearest orthogonal ones: U V^T of their singular vectors."""
    left, _, right = torch.linalg.svd(matrices)
    return left @ right
