"""200 joints of every kind against another package's solver, which never beats our bound."""

import warnings

import numpy as np
import pytest
import torch

from pid_lens.estimators.broja.from_joint import union_information
from pid_lens.estimators.common.entropy import NATS_PER_BIT


def noise(sizes, generator, keep, power):
    joint = torch.rand(sizes, generator=generator, dtype=torch.float64) ** power
    return joint * (torch.rand(sizes, generator=generator) < keep)


def structured(sizes, generator, blur):
    """An answer that is a function of two dependent sources, sometimes blurred."""
    n1, n2, answers = sizes
    pairs = torch.rand(n1, n2, generator=generator, dtype=torch.float64)
    pairs = pairs * (torch.rand(n1, n2, generator=generator) < 0.7)
    answer = torch.randint(answers, (n1, n2), generator=generator)
    sure = torch.nn.functional.one_hot(answer, answers).double()
    return pairs[..., None] * ((1 - blur) * sure + blur / answers)


KINDS = {
    "dense": lambda sizes, g: noise(sizes, g, keep=1.0, power=1.0),
    "peaked": lambda sizes, g: noise(sizes, g, keep=1.0, power=8.0),
    "sparse": lambda sizes, g: noise(sizes, g, keep=0.5, power=2.0),
    "a function": lambda sizes, g: structured(sizes, g, blur=0.0),
    "a blurred function": lambda sizes, g: structured(sizes, g, blur=0.2),
}


def joint_of(kind, seed):
    """A table of 2 to 4 symbols a variable, without empty ones."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 5, (3,), generator=generator).tolist()
    joint = KINDS[kind](sizes, generator) + 1e-300
    joint[0, 0, 0] += 0.1
    joint = joint / joint.sum()
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        joint = joint.index_select(axis, (joint.sum(others) > 1e-6).nonzero()[:, 0])
    joint = joint.where(joint > 1e-12, 0.0)
    return joint / joint.sum()


def rounded(q, joint):
    """The coupling made to have the joint's marginals exactly, written without our solver."""
    p1, p2 = joint.sum(1), joint.sum(0)
    q = np.maximum(q, 0)
    q = q * np.minimum(1, p1 / np.maximum(q.sum(1), 1e-300))[:, None]
    q = q * np.minimum(1, p2 / np.maximum(q.sum(0), 1e-300))[None]
    rest1, rest2 = p1 - q.sum(1), p2 - q.sum(0)
    return q + rest1[:, None] * rest2[None] / np.maximum(rest1.sum(0), 1e-300)


def information(q):
    """I(X1, X2; Y) of a coupling, bits."""
    prior = np.broadcast_to(q.sum((0, 1)), q.shape)
    pairs = np.broadcast_to(q.sum(2, keepdims=True), q.shape)
    held = q > 0
    return float((q[held] * np.log2(q[held] / (pairs[held] * prior[held]))).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(40))
def test_an_independent_solver_never_beats_the_lower_bound(kind, seed):
    import dit
    from dit.algorithms import broja_cone as cone

    joint = joint_of(kind, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = dit.Distribution.from_ndarray(joint.numpy())
        solved, _ = cone.broja_cone_solve(table, [[0], [1]], [2])
    theirs = information(rounded(solved.pmf.reshape(joint.shape), joint.numpy()))
    ours = union_information(joint.sum(1)[None], joint.sum(0)[None])
    assert theirs >= float(ours.lower) / NATS_PER_BIT - 1e-12
    assert theirs == pytest.approx(float(ours.upper) / NATS_PER_BIT, abs=1e-6)
