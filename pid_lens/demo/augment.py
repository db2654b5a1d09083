"""Data augmentation of the 1,347 training digits: affine maps, brightness, pixel noise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

ANGLE = 0.22  # radians
STRETCH = 0.14  # of the size, and as much shear
SHIFT = 0.24  # of half the image: almost one pixel
DIM = 0.15  # of the brightness, up or down
NOISE = 0.12  # of half the range of brightness


def affine(n: int, generator: torch.Generator) -> Float[Tensor, "n 2 3"]:
    """Draw affine maps close to the identity, [n, 2, 3]: rotation, stretch, shear and shift."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    # Linear part (stretch and shear on a rotation), last column the shift
    angle, wide, high, shear = uniform(ANGLE), uniform(STRETCH), uniform(STRETCH), uniform(STRETCH)
    top = torch.stack([(1 + wide) * angle.cos(), shear - angle.sin(), uniform(SHIFT)], -1)
    bottom = torch.stack([angle.sin(), (1 + high) * angle.cos(), uniform(SHIFT)], -1)
    return torch.stack([top, bottom], 1)


def augment(
    pixels: Float[Tensor, "n 3 high wide"], generator: torch.Generator
) -> Float[Tensor, "n 3 high wide"]:
    """Rotate, stretch, shift and dim each image at random, then add Gaussian noise.

    Args:
        pixels: brightness from -1 (paper) to 1 (ink), three equal channels.
        generator: of all random numbers.

    Example:
        >>> augment(torch.zeros(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    # Resample bilinearly at the mapped grid; paper is 0, and so is the padding outside the image
    grey = pixels[:, :1] + 1
    grid = F.affine_grid(affine(len(grey), generator), list(grey.shape), align_corners=False)
    moved = F.grid_sample(grey, grid, mode="bilinear", align_corners=False)
    # Scale the brightness of each image, then add pixel noise N(0, NOISE^2)
    dim = 1 + DIM * (torch.rand(len(grey), 1, 1, 1, generator=generator) * 2 - 1)
    noise = NOISE * torch.randn(moved.shape, generator=generator)
    return (moved * dim - 1 + noise).expand_as(pixels)
