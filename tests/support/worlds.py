"""Joints of two sources and an answer, and posteriors of samples of them."""

import torch


def world(kind, answers=2, symbols=4):
    """A joint of which every atom is above 0."""
    generator = torch.Generator().manual_seed(kind)
    joint = torch.rand(symbols, symbols, answers, generator=generator).double() ** 2.5
    return joint / joint.sum()


def drawn(joint, n, seed):
    """Log-posteriors of n independent samples of a world, and the symbols they come from."""
    generator = torch.Generator().manual_seed(seed)
    columns = joint.shape[1]
    pairs = torch.multinomial(joint.sum(-1).flatten(), n, True, generator=generator)
    x1, x2 = pairs // columns, pairs % columns
    full = (joint / joint.sum(-1, keepdim=True))[x1, x2]
    vision = (joint.sum(1) / joint.sum((1, 2))[:, None])[x1]
    language = (joint.sum(0) / joint.sum((0, 2))[:, None])[x2]
    return [p.log()[None] for p in (full, vision, language)]
