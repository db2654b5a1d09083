"""Tables: acceptance values, laws, an independent solver, clear errors."""

import numpy as np
import pytest
import torch
from paths import DATA

from pid_lens import truth
from pid_lens.estimators import discrete_pid
from pid_lens.estimators.common.entropy import NATS_PER_BIT, table_information
from pid_lens.results import ATOMS

STORED = {
    str(name): (archive[f"joint_{name}"], archive["atoms"][i], archive["IQ_lo"][i])
    for archive in (np.load(DATA / f"discrete_{kind}.npz") for kind in ("named", "random"))
    for i, name in enumerate(archive["names"])
}
ACCEPTED = {
    "AND": ((0.311278124, 0, 0, 0.5), 1e-8),
    "OR": ((0.311278124, 0, 0, 0.5), 1e-8),
    "XOR": ((0, 0, 0, 1), 1e-9),
    "UNQ": ((0, 1, 0, 0), 1e-9),
    "RDN": ((1, 0, 0, 0), 1e-9),
    "COPY": ((0, 1, 1, 0), 1e-9),
    "SUM": ((0.5, 0, 0, 1), 1e-8),
    "RDNXOR": ((1, 0, 0, 1), 1e-9),
    "RDNUNQXOR": ((1, 1, 1, 1), 1e-9),
    "XOR_FLIP10": ((0, 0, 0, 0.531004406), 1e-8),
    "BSC_PAIR": ((0.278071905, 0.252932501, 0, 0.104818278), 1e-8),
}


def atoms(joint, **settings):
    result = discrete_pid(joint, **settings)
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


def random_joint(seed, shape=(3, 4, 3), keep=1.0, power=3.0):
    generator = torch.Generator().manual_seed(seed)
    joint = torch.rand(shape, generator=generator, dtype=torch.float64) ** power
    joint = joint * (torch.rand(shape, generator=generator) < keep)
    return joint / joint.sum((-3, -2, -1), keepdim=True)


@pytest.mark.parametrize("name", ACCEPTED)
def test_acceptance_values(name):
    expected, tolerance = ACCEPTED[name]
    assert atoms(truth.gate(name)).tolist() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", STORED)
def test_stored_tables(name):
    joint, expected, _ = STORED[name]
    assert atoms(joint).tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", STORED)
def test_certified_interval_holds_the_stored_optimum(name):
    joint, _, union = STORED[name]
    result = discrete_pid(joint)
    assert float(result.gap) <= 1e-9
    assert abs(float(result.union) - union) <= float(result.gap) / 2 + 3e-12


LAWFUL = {
    "three answers": random_joint(0),
    "two answers": random_joint(1, (4, 3, 2)),
    "sparse": random_joint(2, (5, 4, 4), keep=0.4),
    "batch": random_joint(3, (2, 3, 3, 4, 3)),
}


@pytest.fixture(params=LAWFUL.values(), ids=LAWFUL)
def joint(request):
    return request.param


def test_atoms_add_up_to_the_information(joint):
    information = table_information(joint.flatten(-3, -2)) / NATS_PER_BIT
    assert torch.allclose(atoms(joint).sum(-1), information, atol=1e-12)
    assert torch.allclose(discrete_pid(joint).information, information, atol=1e-12)


def test_exchanging_the_sources_exchanges_unique_information(joint):
    swapped = atoms(joint.transpose(-3, -2))[..., [0, 2, 1, 3]]
    assert torch.allclose(atoms(joint), swapped, atol=2e-9)


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_names_of_symbols_do_not_matter(joint, axis):
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(joint.shape[axis], generator=generator)
    relabelled = joint.index_select(joint.ndim + axis, order)
    assert torch.allclose(atoms(joint), atoms(relabelled), atol=2e-9)


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_impossible_symbols_do_not_matter(joint, axis):
    padding = [0] * 6
    padding[2 * (-axis - 1)] = 1
    padded = torch.nn.functional.pad(joint, padding)
    assert torch.allclose(atoms(joint), atoms(padded), atol=2e-9)


def test_splitting_a_symbol_does_not_matter(joint):
    split = torch.cat([0.3 * joint[..., :1, :, :], joint], -3)
    split[..., 1, :, :] *= 0.7
    assert torch.allclose(atoms(joint), atoms(split), atol=2e-9)


@pytest.mark.parametrize(("left", "right"), [("AND", "BSC_PAIR"), ("SUM", "XOR"), ("UNQ", "OR")])
def test_independent_systems_add(left, right):
    one, other = truth.gate(left), truth.gate(right)
    both = torch.einsum("abc,def->adbecf", one, other).reshape(
        [x * y for x, y in zip(one.shape, other.shape, strict=True)]
    )
    assert torch.allclose(atoms(both), atoms(one) + atoms(other), atol=2e-9)


def test_batch_is_one_at_a_time():
    joint = random_joint(5, (6, 4, 4, 3))
    assert torch.allclose(atoms(joint), torch.stack([atoms(p) for p in joint]), atol=1e-10)


def test_no_batch_gives_no_axes():
    assert discrete_pid(truth.gate("AND")).union.shape == ()
    assert discrete_pid(LAWFUL["batch"]).union.shape == (2, 3)


@pytest.mark.parametrize("convert", [torch.Tensor.float, torch.Tensor.numpy, torch.Tensor.half])
def test_any_float_type(convert):
    joint = torch.stack([truth.gate("AND"), truth.gate("OR")])
    result = discrete_pid(convert(joint))
    assert result.union.dtype == torch.float64
    assert torch.allclose(result.synergy, torch.full((2,), 0.5, dtype=torch.float64))


def test_sums_within_rounding_are_made_exact():
    off = discrete_pid(truth.gate("AND") * (1 + 9e-7))
    assert float(off.synergy) == pytest.approx(0.5, abs=1e-12)


def test_the_smaller_tol_the_narrower_the_interval():
    joint = random_joint(6, (30, 4, 4, 4))
    rough, fine = discrete_pid(joint, tol=1e-2), discrete_pid(joint, tol=1e-8)
    assert fine.gap.max() <= 1e-8
    assert rough.gap.max() > 1e-8
    assert ((rough.union - fine.union).abs() <= (rough.gap + fine.gap) / 2 + 1e-12).all()


BAD = {
    "negative": (truth.gate("AND") - 0.01, ValueError, "negative"),
    "NaN": (truth.gate("AND") * float("nan"), ValueError, "NaN"),
    "infinite": (truth.gate("AND") / 0, ValueError, "infinite"),
    "counts": (truth.gate("AND") * 100, ValueError, "sum to 1"),
    "nothing": (torch.zeros(2, 2, 2), ValueError, "sum to 1"),
    "a matrix": (torch.full((2, 2), 0.25), ValueError, "n1, n2, answers"),
    "an empty axis": (torch.zeros(2, 0, 2), ValueError, "empty"),
    "a list": ([[[0.5, 0.5]]], TypeError, "list"),
    "complex": (torch.ones(1, 1, 1, dtype=torch.complex64), TypeError, "complex"),
}


@pytest.mark.parametrize(("joint", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_an_error(joint, error, words):
    with pytest.raises(error, match=words):
        discrete_pid(joint)
