"""The bracket of the bias and the floor of chance: laws, order, coverage."""

import pytest
import torch
from worlds import drawn, world

import pid_lens
from pid_lens import BROJA, Reads
from pid_lens.estimators import cross_fitted, discrete_pid, exchanged, posterior_pid
from pid_lens.results import ATOMS


def alike(n, answers, seed, sharpness=1.5):
    """Two modalities with one channel to the answer, independent given it: no unique atoms."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.nn.functional.one_hot(torch.randint(answers, (n,), generator=generator), answers)
    noise = torch.randn(2, n, answers, generator=generator).double()
    one, two = sharpness * (noise + sharpness * y)
    return [(one + two).log_softmax(-1)[None], *(x.log_softmax(-1)[None] for x in (one, two))]


def test_a_bracket_keeps_clusters_whole_and_small_strata():
    """Six copies of each sample, clustered: the bracket of the samples themselves."""
    logs = torch.stack(drawn(world(3), 40, 0), 1)
    once = Reads.from_posteriors(logs, ids=range(40))
    copies = Reads.from_posteriors(logs.repeat(1, 1, 6, 1), ids=range(240))
    fortieth = BROJA(bracket=True, floor=2, groups=lambda name: int(name) % 40)
    aware = fortieth.update(copies).result()
    plain = BROJA(bracket=True).update(once).result()
    torch.testing.assert_close(aware.bracket.union, plain.bracket.union, atol=0.01, rtol=0)
    wide = torch.full((1, 3, 43, 3), -torch.inf, dtype=torch.float64)
    wide[:, :, :40, :2] = logs
    wide[:, :, 40:] = torch.full((1, 3, 3, 3), 1 / 3).log()
    reads = Reads.from_posteriors(wide, present=wide[0, 0] > -torch.inf)
    assert torch.isfinite(BROJA(bracket=True).update(reads).result().bracket.union).all()


def test_the_plug_in_is_biased_upward_and_the_bracket_says_so():
    """True U is 0. K = 4, n = 256: the plug-in reads about .04 bits, as much as its floor."""
    rows = [
        (
            float(posterior_pid(*logs, tol=2e-2).unique_vision),
            float(cross_fitted(*logs).unique_vision),
            float(exchanged(*logs, draws=2, tol=2e-2).unique_vision.mean()),
        )
        for logs in (alike(256, 4, seed) for seed in range(3))
    ]
    plug_in, crossed, floor = torch.tensor(rows).mean(0).tolist()
    assert plug_in > 0.025
    assert crossed < 0.01
    assert abs(floor - plug_in) < 0.03


def test_the_bracket_holds_the_truth_on_average():
    joint = world(1)
    truth = float(discrete_pid(joint).union)
    pairs = torch.tensor(
        [
            (float(cross_fitted(*logs).union), float(posterior_pid(*logs).union))
            for logs in (drawn(joint, 300, seed) for seed in range(60))
        ]
    )
    low, high = pairs.mean(0).tolist()
    assert low < truth < high + 0.002
    assert high - low < 0.02


@pytest.mark.parametrize("kind", range(4))
def test_the_bracket_closes(kind):
    """Symbols that many samples share: tied rows must not be rounded to their neighbours."""
    joint = world(kind)
    truth = float(discrete_pid(joint).union)
    logs = drawn(joint, 4096, 0)
    plug_in, crossed = posterior_pid(*logs), cross_fitted(*logs)
    error = 4 * float(plug_in.standard_error("union"))
    assert abs(float(crossed.union) - truth) < error
    assert abs(float(crossed.union - plug_in.union)) < 0.005


def test_the_bracket_does_not_depend_on_the_order():
    logs = drawn(world(3), 101, 0)
    order = torch.randperm(101)
    one, other = cross_fitted(*logs), cross_fitted(*(p[:, order] for p in logs))
    torch.testing.assert_close(one.union, other.union, atol=1e-12, rtol=0)


def test_a_spectrum_has_bracket_and_floor_on_request(tmp_path):
    reads = Reads.from_posteriors(torch.stack(drawn(world(3), 100, 0), 1))
    plain = BROJA(bracket=False).update(reads).result()
    assert plain.bracket is None
    assert plain.floor is None
    with pytest.raises(ValueError, match="no floor was computed"):
        plain.p_value("unique_vision")
    found = BROJA(floor=3).update(reads).result()
    assert found.bracket.union < found.union
    assert found.floor.unique_vision.shape == (3, 1)
    assert found.floor.unique_vision.min() >= -1e-9
    with pytest.raises(ValueError, match="the floor is a null of"):
        found.p_value("synergy")
    found.save(tmp_path / "spectrum")
    again = pid_lens.Spectrum.load(tmp_path / "spectrum")
    for part in ("bracket", "floor", "pointwise", "influence", "sensitivity"):
        assert torch.equal(getattr(again, part).union, getattr(found, part).union)
    low, high = again.interval("synergy")
    assert low < found.synergy < high
    assert "±" in repr(again)
    assert again.to_pandas()["synergy_error"].item() > 0


@pytest.mark.parametrize("repair", ["rake", "tilt"])
def test_chance_alone_has_even_p_values(repair):
    """Where both modalities are alike, p below .2 in a fifth of the worlds; elsewhere always."""
    worlds = [Reads.from_posteriors(torch.stack(alike(100, 2, seed), 1)) for seed in range(60)]
    chance = [BROJA(floor=19, repair=repair, bracket=False).update(r).result() for r in worlds]
    p = torch.cat([found.p_value("unique_vision") for found in chance])
    assert 0.05 <= float((p <= 0.2).double().mean()) <= 0.4
    real = BROJA(floor=19, repair=repair).update(
        Reads.from_posteriors(torch.stack(drawn(world(1), 400, 0), 1))
    )
    assert real.result().p_value("unique_vision") == 0.05


@pytest.mark.parametrize("repair", ["rake", "tilt"])
@pytest.mark.parametrize("answers", [2, 3])
def test_the_bracket_keeps_the_laws(answers, repair):
    """Exchanging the sources or relabelling the answers exchanges or leaves the atoms."""
    made = pid_lens.truth.layered_reads(90, answers, layers=("mixed", "equal"), seed=3)
    logs = made.reads.posteriors().unbind(1)
    how = {"repair": repair, "ids": made.reads.ids}
    one = cross_fitted(*logs, **how)
    other = cross_fitted(logs[0], logs[2], logs[1], **how)
    relabelled = cross_fitted(*(p.flip(-1) for p in logs), **how)
    for name, swapped in zip(ATOMS, (ATOMS[0], ATOMS[2], ATOMS[1], ATOMS[3]), strict=True):
        torch.testing.assert_close(getattr(one, name), getattr(other, swapped), atol=2e-4, rtol=0)
        torch.testing.assert_close(
            getattr(one, name), getattr(relabelled, name), atol=2e-4, rtol=0
        )


def test_brackets_of_two_spectra_are_paired():
    """A change that moves every sample alike moves both ends alike (the last of the crossed)."""
    changes = []
    for seed in range(20):
        logs = torch.stack(alike(200, 2, seed), 1)
        softer = (0.95 * logs.exp() + 0.025).log()
        one, other = (
            BROJA().update(Reads.from_posteriors(p, ids=range(200))).result()
            for p in (softer, logs)
        )
        change = one - other
        changes.append(float(change.union - change.bracket.union[-1]))
    assert torch.tensor(changes).std() < 0.004


def test_solver_noise_is_no_evidence():
    """Language says what vision says: nothing is unique, and a swap changes nothing."""
    full, vision, _ = alike(80, 3, 0)
    reads = Reads.from_posteriors(torch.stack([full, vision, vision], 1))
    found = BROJA(floor=19).update(reads).result()
    for name in ("unique_vision", "unique_language"):
        assert found.p_value(name) == 1


def test_clusters_are_swapped_whole_across_strata():
    """Each image has a question of two options and one of three, in opposite order."""
    labels = [f"image {i}" for i in range(30)]
    logs = torch.stack(alike(30, 2, 0), 1)
    one = exchanged(*logs.unbind(1), draws=3, groups=labels)
    other = exchanged(*logs.flip(2).unbind(1), draws=3, groups=labels[::-1])
    torch.testing.assert_close(one.union, other.union, atol=1e-9, rtol=0)


def test_an_unweighted_sample_does_not_halve_the_bracket():
    """Tilt gives some samples no weight at all."""
    generator = torch.Generator().manual_seed(0)
    full = torch.rand(200, 2, generator=generator).double().mul(0.5).add(0.1)
    p = full[:, 0]
    near = p + 1e-4 * (0.5 + torch.randn(200, generator=generator).double())
    near[::20] = p[::20] + 0.25
    three = [torch.stack([q, 1 - q], -1).log()[None] for q in (p, near, near.flip(0).sort()[0])]
    three[2] = three[0]
    found = posterior_pid(*three, repair="tilt")
    crossed = cross_fitted(*three, repair="tilt", ids=[str(i) for i in range(200)])
    assert found.feasible.all()
    assert abs(float(crossed.union - found.union)) < 0.1 * float(found.union)


def test_resampling_takes_no_gradients():
    logs = [p.requires_grad_() for p in drawn(world(1), 30, 0)]
    assert not cross_fitted(*logs).union.requires_grad
    assert not exchanged(*logs, draws=1).union.requires_grad
    with pytest.raises(ValueError, match="as many ids"):
        cross_fitted(*logs, ids=["a"] * 30)
    with pytest.raises(ValueError, match="0 or more"):
        BROJA(floor=-2)


def test_a_difference_of_unlike_worlds_covers():
    """Biases differ: one world has nothing unique for a different reason than the other."""
    hits = 0
    for seed in range(20):
        synergy = pid_lens.truth.layered_reads(64, 4, layers=("synergy",), seed=seed).reads
        equal = Reads.from_posteriors(torch.stack(alike(64, 4, seed), 1))
        one, other = (BROJA(tol=1e-2).update(reads).result() for reads in (synergy, equal))
        low, high = (one - other).interval("unique_vision")
        hits += bool((low <= 0) & (high >= 0))
    assert hits >= 18


def test_what_cannot_be_halved_says_what_one_source_tells():
    found = BROJA().update(Reads.from_posteriors(torch.stack(alike(3, 3, 0), 1))).result()
    assert found.bracket.union == torch.maximum(
        found.information_vision, found.information_language
    )


def test_chance_does_not_know_the_order_of_arrival():
    reads = Reads.from_posteriors(torch.stack(drawn(world(3), 60, 0), 1))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    one, other = (BROJA(floor=3).update(r).result() for r in (reads, reads.rows(order)))
    for part in ("bracket", "floor"):
        both = (getattr(found, part).union for found in (one, other))
        torch.testing.assert_close(*both, atol=1e-9, rtol=0)
