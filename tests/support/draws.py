"""Samples of known information."""

import math

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(d=2, rho=0.7, n=900, seed=0):
    """Pairs of correlation rho in each of d dimensions, and their information in nats."""
    x, noise = torch.randn(2, n, d, generator=generator(seed), dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -d / 2 * math.log(1 - rho**2)


def student(d=2, n=1500, seed=0):
    """Independent normals over one common chi: what they share is their scale. One degree."""
    z = torch.randn(n, 2 * d + 1, generator=generator(seed), dtype=torch.float64)
    x = z[:, :-1] / z[:, -1:].abs()

    def entropy(k):
        at = torch.tensor([0.5, (1 + k) / 2, (1 + k) / 2], dtype=torch.float64)
        gamma, psi = torch.lgamma(at), torch.digamma(at)
        return gamma[0] - gamma[1] + k / 2 * math.log(math.pi) + (1 + k) / 2 * (psi[1] - psi[0])

    return x[:, :d], x[:, d:], float(2 * entropy(d) - entropy(2 * d))


def images(n=100, questions=6, d=8, seed=0):
    """One x for all questions on an image, and a noisy code of the image that x tells nothing of.

    And the image of each question.
    """
    image = torch.arange(n).repeat_interleave(questions)
    x, code = torch.randn(2, n, d, generator=generator(seed)).double()
    y = code[image] + 0.3 * torch.randn(n * questions, d, generator=generator(seed + 1))
    return x[image], y, image


def folded(n=1500, seed=0):
    """A sign and a size, and the size with noise: no correlation at all."""
    x, noise = torch.randn(2, n, 1, generator=generator(seed), dtype=torch.float64)
    x = x.sign() * (1 + 0.2 * x.abs())
    sign = torch.randint(2, (n, 1), generator=generator(seed + 1)) * 2 - 1
    return x * sign, x.abs() + 0.1 * noise
