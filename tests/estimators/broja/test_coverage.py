"""Intervals that are fair: nominal 95 % on worlds whose atoms are known, 200 replicates each."""

import pytest
import torch

import pid_lens
from pid_lens import BROJA, Reads
from pid_lens.results import ATOMS, Atoms
from pid_lens.truth import LAYERS, layered_reads

REPLICATES, FIRST = 200, 1000
"""How many data sets, and the seed of the first."""
VALUES = (*ATOMS, "information", "information_vision", "information_language")
KNOWN = 1e-3
"""Above this a true atom is not 0."""


def shares(pairs):
    """How often intervals hold the truth, by value: [layers], and the truths."""
    hits = {name: torch.zeros(()) for name in VALUES}
    for found, truth in pairs:
        for name in VALUES:
            low, high = found.interval(name)
            value = getattr(truth, name)
            hits[name] = hits[name] + ((low - 1e-9 <= value) & (value <= high + 1e-9))
    return {name: (hit / REPLICATES, getattr(truth, name)) for name, hit in hits.items()}


def assert_fair(pairs, kinked):
    """At least 90 % everywhere, at most 98.5 % where no unique atom is 0 (98 and its error)."""
    for name, (share, truth) in shares(pairs).items():
        assert share.min() >= 0.90, (name, share, truth)
        smooth = [share[i] for i, bent in enumerate(kinked) if not bent]
        assert max(smooth, default=0) <= 0.985, (name, share, truth)


def noisier(reads):
    """The same samples of a model that tosses 30 % of its answers."""
    kept = reads.log_probs.double().exp()
    return Reads.from_posteriors((0.7 * kept + 0.3 / kept.shape[-1]).log(), ids=reads.ids)


@pytest.mark.parametrize(
    ("answers", "n", "layers"),
    [(2, 400, LAYERS), (3, 400, ("equal", "mixed")), (4, 500, ("equal", "mixed"))],
)
def test_intervals_cover(answers, n, layers):
    """All recipes: atoms above 0, and kinks, where the plug-in alone is biased."""

    def replicate(seed):
        made = layered_reads(n, answers, layers=layers, seed=seed)
        return BROJA().update(made.reads).result(), made.atoms

    kinked = [name != "mixed" for name in layers]
    assert_fair(map(replicate, range(FIRST, FIRST + REPLICATES)), kinked)


@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_intervals_of_clustered_samples_cover(repair):
    """Every sample three times, as three questions on one image that are answered alike."""

    def replicate(seed):
        made = layered_reads(250, 2, layers=("equal", "mixed"), seed=seed)
        copies = Reads.from_posteriors(made.reads.log_probs.repeat(1, 1, 3, 1))
        clustered = BROJA(repair=repair, groups=lambda name: int(name) % 250)
        return clustered.update(copies).result(), made.atoms

    assert_fair(map(replicate, range(FIRST, FIRST + REPLICATES)), [True, False])


@pytest.mark.parametrize(("answers", "layers"), [(2, ("equal", "mixed")), (3, ("mixed",))])
def test_paired_intervals_cover_the_difference(answers, layers):
    """A model and a noisier one on the same samples."""
    before = layered_reads(2, answers, layers=layers).atoms
    after = layered_reads(2, answers, layers=layers, noise=1 - 0.7 * 0.9).atoms
    totals = ("information", "information_vision", "information_language", "union", "gap")
    truth = Atoms(**{k: getattr(after, k) - getattr(before, k) for k in totals})
    narrower = []

    def replicate(seed):
        reads = layered_reads(400, answers, layers=layers, seed=seed).reads
        one, other = (BROJA().update(r).result() for r in (noisier(reads), reads))
        change = pid_lens.compare(one, other)
        apart = one.standard_error("synergy").square() + other.standard_error("synergy").square()
        narrower.append(change.standard_error("synergy") / apart.sqrt())
        return change, truth

    kinked = [name != "mixed" for name in layers]
    assert_fair(map(replicate, range(FIRST, FIRST + REPLICATES)), kinked)
    assert torch.stack(narrower).amax() < 0.9
