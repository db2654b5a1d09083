"""Errors of the Gaussian decomposition: influences, coverage, clusters, pairs, local values."""

from dataclasses import replace

import pytest
import torch
from gaussians import NAMES, STORED, atoms, covariance, looks

import pid_lens
from pid_lens import GaussianPID, Reads, truth
from pid_lens.estimators import gaussian_pid, gaussian_pid_samples
from pid_lens.results import ATOMS

VALUES = (*ATOMS, "information", "information_vision", "information_language", "union")
SYSTEMS = {
    name: (truth.gaussian_system(name).covariance, truth.gaussian_system(name).sizes)
    for name in ("scalar_unequal", 2, 3)
} | {"dense": (covariance((3, 3, 3)), (3, 3, 3))}
"""Systems away from kinks: no direction of Y is seen equally well by both sources."""


def drawn(cov, n, replicates=1, seed=0):
    """Samples [replicates, n, d] of a Gaussian of that covariance."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(replicates, n, len(cov), generator=generator, dtype=torch.float64)
    return noise @ torch.linalg.cholesky(cov).mT


def shaped(rows, cov):
    """The samples, mapped so that their own covariance is this one."""
    rows = rows - rows.mean(-2, keepdim=True)
    root = torch.linalg.cholesky(rows.mT @ rows / rows.shape[-2])
    white = torch.linalg.solve_triangular(root, rows.mT, upper=False).mT
    return white @ torch.linalg.cholesky(cov).mT


def reads(rows, sizes):
    """Samples as states: replicates are layers."""
    y, x1, x2 = rows.split(sizes, -1)
    plain = Reads.from_posteriors(torch.zeros(*rows.shape[:-2], 1, len(y[0]), 1), conditions=["f"])
    return replace(plain, states={"answer": y, "image": x1, "question": x2})


def spectrum(rows, sizes, **settings):
    return GaussianPID(target="same", **settings).update(reads(rows, sizes)).result()


def by_id(spectrum):
    """The order of the samples as they were made."""
    return torch.tensor([spectrum.ids.index(str(i)) for i in range(spectrum.n)])


def covered(found, error, known):
    """The share of replicates whose nominal 95 % interval holds the truth."""
    return float(((found - known).abs() <= 1.96 * error + 1e-9).double().mean())


# ---------------------------------------------------------------- influence


def reweighted(rows, step):
    """The covariance of the samples, each in turn weighing 1 + n step and the others less."""
    rows = rows - rows.mean(-2, keepdim=True)
    cov = rows.mT @ rows / len(rows)
    return cov + step * (rows[:, :, None] * rows[:, None] - cov)


@pytest.mark.parametrize("redundancy", ["exact", "minimum"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 4, 2), (2, 1, 5)])
def test_influences_are_those_of_a_reweighted_covariance(sizes, redundancy):
    rows = drawn(covariance(sizes), 60)[0]
    found = gaussian_pid_samples(*rows.split(sizes, -1), redundancy=redundancy)
    step = 1e-6
    more, less = (
        gaussian_pid(reweighted(rows, s), sizes, redundancy=redundancy) for s in (step, -step)
    )
    for name in VALUES:
        moved = getattr(found.influence, name)
        central = (getattr(more, name) - getattr(less, name)) / (2 * step)
        torch.testing.assert_close(moved, central, atol=1e-4, rtol=1e-4)
        assert abs(float(moved.mean())) < 1e-12


def test_leaving_a_sample_out_moves_the_result_by_its_influence():
    rows = drawn(covariance((2, 2, 2)), 400)[0]
    parts = rows.split(2, -1)
    found = gaussian_pid_samples(*parts)
    for i in range(5):
        others = torch.arange(400) != i
        without = gaussian_pid_samples(*(x[others] for x in parts)).plug_in
        for name in VALUES:
            moved = float(getattr(found.plug_in, name) - getattr(without, name)) * 399
            expected = float(getattr(found.influence, name)[i])
            assert moved == pytest.approx(expected, abs=0.05 * (1 + abs(expected)))


def test_influences_know_that_components_turn():
    """Two components of five, each sample in turn weighing a little more or less."""
    cov, n, step = spread(5), 40, 1e-6
    rows = drawn(cov, n)[0]
    whole = spectrum(rows[None], (5, 5, 5), components=2)
    ends = [
        spectrum(shaped(rows[None], reweighted(rows, s)), (5, 5, 5), components=2)
        for s in (step, -step)
    ]
    unturned = spectrum(principal(rows, 2)[None], (2, 2, 2))
    for name in VALUES:
        moved = getattr(whole.influence, name)[0, by_id(whole)]
        central = (getattr(ends[0], name) - getattr(ends[1], name)) / (2 * step)
        torch.testing.assert_close(moved, central, atol=1e-4, rtol=1e-3)
        assert abs(float(moved.mean())) < 1e-9
        still = getattr(unturned.influence, name)[0, by_id(unturned)]
        assert (still - central).abs().max() > 0.01


def spread(width, decay=0.6):
    """A covariance of three blocks whose variances fall."""
    scale = (decay ** torch.arange(width).double()).repeat(3)
    return scale[:, None] * (covariance((width,) * 3) + 0.2 * torch.eye(3 * width)) * scale


def principal(rows, kept):
    """The first principal components of each of three blocks."""
    parts = [x - x.mean(0) for x in rows.split(rows.shape[-1] // 3, -1)]
    return torch.cat([x @ torch.linalg.svd(x).Vh[:kept].mT for x in parts], -1)


def test_invertible_maps_and_constants_change_no_influence():
    y, x1, x2 = looks(n=90, d=3, better=2.0)
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat = torch.full((90, 1), 7.3, dtype=torch.float64)
    one = gaussian_pid_samples(y, x1, x2)
    mapped = gaussian_pid_samples(1e-4 * y @ mix, x1 - 7, 1e5 * x2 @ mix)
    padded = gaussian_pid_samples(*(torch.cat([x, flat, x[:, :1]], 1) for x in (y, x1, x2)))
    for other in (mapped, padded):
        for kind in ("pointwise", "influence"):
            for name in VALUES:
                values = [getattr(getattr(x, kind), name) for x in (one, other)]
                torch.testing.assert_close(*values, atol=1e-7, rtol=0)


# ---------------------------------------------------------------- local values


def test_local_informations_are_ratios_of_the_fitted_densities():
    sizes = (3, 4, 2)
    rows = drawn(covariance(sizes), 50)[0]
    found = gaussian_pid_samples(*rows.split(sizes, -1), unit="nats").pointwise
    cov = (rows - rows.mean(0)).mT @ (rows - rows.mean(0)) / 50

    def log_density(*at):
        at = torch.cat([torch.arange(a, b) for a, b in at])
        normal = torch.distributions.MultivariateNormal(rows.mean(0)[at], cov[at][:, at])
        return normal.log_prob(rows[:, at])

    y, x1, x2 = (0, 3), (3, 7), (7, 9)
    for name, x in (
        ("information", [x1, x2]),
        ("information_vision", [x1]),
        ("information_language", [x2]),
    ):
        expected = log_density(y, *x) - log_density(y) - log_density(*x)
        torch.testing.assert_close(getattr(found, name), expected, atol=1e-9, rtol=0)


def test_the_local_union_takes_each_direction_from_who_sees_it_better():
    """X2 is the better look at Y1, and X1 at Y2; both pairs are separate."""
    system = truth.gaussian_system(2)
    rows = shaped(drawn(system.covariance, 80), system.covariance)[0]
    y, x1, x2 = rows.split(system.sizes, -1)
    found = gaussian_pid_samples(y, x1, x2).pointwise
    first = gaussian_pid_samples(y[:, :1], x1[:, :1], x2[:, :1]).pointwise
    second = gaussian_pid_samples(y[:, 1:], x1[:, 1:], x2[:, 1:]).pointwise
    expected = first.information_language + second.information_vision
    torch.testing.assert_close(found.union, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("unit", ["bits", "nats"])
@pytest.mark.parametrize("settings", [{}, {"components": 2}, {"redundancy": "minimum"}])
def test_local_values_add_up_and_belong_to_their_ids(settings, unit):
    sizes = (3, 3, 3)
    seen = reads(drawn(covariance(sizes), 60, 2), sizes)
    whole = GaussianPID(unit=unit, **settings).update(seen).result()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = GaussianPID(unit=unit, **settings).update(seen.rows(order)).result()
    for name in VALUES:
        mean = getattr(whole.pointwise, name).mean(1)
        torch.testing.assert_close(mean, getattr(whole, name), atol=1e-9, rtol=0)
        assert getattr(whole.influence, name).mean(1).abs().max() < 1e-9
        ranked = dict(whole.strongest(name, k=60))
        assert ranked == pytest.approx(dict(shuffled.strongest(name, k=60)), abs=1e-9)
        torch.testing.assert_close(
            whole.standard_error(name), shuffled.standard_error(name), atol=1e-9, rtol=0
        )
    assert whole.pointwise.unit == whole.influence.unit == unit


@pytest.mark.parametrize("name", NAMES)
def test_units_and_exchange_of_stored_systems(name):
    cov, sizes = torch.tensor(STORED[f"cov_{name}"]), STORED["dims"][NAMES.index(name)].tolist()
    if torch.linalg.eigvalsh(cov).min() < 1e-9:
        pytest.skip("singular: no samples of it")
    y, x1, x2 = drawn(cov, 4 * len(cov))[0].split(sizes, -1)
    bits, nats = (gaussian_pid_samples(y, x1, x2, unit=u) for u in ("bits", "nats"))
    other = gaussian_pid_samples(y, x2, x1)
    torch.testing.assert_close(bits.influence.to("nats").synergy, nats.influence.synergy)
    for one, two in (("unique_vision", "unique_language"), ("redundancy", "redundancy")):
        torch.testing.assert_close(
            getattr(bits.influence, one), getattr(other.influence, two), atol=1e-7, rtol=1e-7
        )


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize("name", SYSTEMS)
def test_intervals_cover_the_truth(name):
    """Nominal 95 %, 400 replicates of 1000 samples; a unique atom of 0 may over-cover."""
    cov, sizes = SYSTEMS[name]
    known, found = gaussian_pid(cov, sizes), spectrum(drawn(cov, 1000, 400), sizes)
    for value in VALUES:
        true = getattr(known, value)
        share = covered(getattr(found, value), found.standard_error(value), true)
        assert share >= 0.90, value
        assert share <= (0.98 if true > 1e-9 else 1), value


def test_errors_hold_for_samples_that_are_not_gaussian():
    """Samples whose scale varies: heavier tails than a Gaussian's, covariance the same."""
    cov, sizes = SYSTEMS["dense"]
    scale = 1 + torch.rand(300, 800, 1, generator=torch.Generator().manual_seed(1)).double() ** 2
    scale = scale / (1 + 2 / 3 + 1 / 5) ** 0.5
    found = spectrum(drawn(cov, 800, 300) * scale, sizes)
    for value in VALUES:
        share = covered(
            getattr(found, value),
            found.standard_error(value),
            getattr(gaussian_pid(cov, sizes), value),
        )
        assert 0.90 <= share <= 0.98, value


def test_paired_intervals_cover_the_difference():
    """Noise is added to the image's state of the same samples."""
    cov, sizes = SYSTEMS["dense"]
    noise = torch.diag(torch.tensor([0, 0, 0, 0.3, 0.3, 0.3, 0, 0, 0], dtype=torch.float64))
    rows = drawn(cov, 800, 200)
    generator = torch.Generator().manual_seed(1)
    added = torch.randn(rows.shape, generator=generator, dtype=torch.float64) @ noise.sqrt()
    after, before = spectrum(rows + added, sizes), spectrum(rows, sizes)
    change = pid_lens.compare(after, before)
    for name in VALUES:
        ends = [getattr(gaussian_pid(c, sizes), name) for c in (cov + noise, cov)]
        error = change.standard_error(name)
        if name == "information_language":
            assert error.max() == 0
        else:
            assert 0.90 <= covered(getattr(change, name), error, ends[0] - ends[1]) <= 0.985, name
    apart = before.standard_error("union") ** 2 + after.standard_error("union") ** 2
    assert (change.standard_error("union") < 0.9 * apart.sqrt()).all()


def test_intervals_of_components_cover_the_truth():
    """Three of eight with variances that hardly fall: the components are anything but known."""
    cov, width, kept = spread(8, 0.97), 8, 3
    blocks = [cov[i : i + width, i : i + width] for i in range(0, 3 * width, width)]
    axes = torch.block_diag(*(torch.linalg.eigh(b).eigenvectors[:, -kept:] for b in blocks))
    known = gaussian_pid(axes.mT @ cov @ axes, (kept,) * 3)
    rows = drawn(cov, 1000, 150)
    found = spectrum(rows, (width,) * 3, components=kept)
    unturned = spectrum(torch.stack([principal(r, kept) for r in rows]), (kept,) * 3)
    for name in VALUES:
        value, true = getattr(found, name), getattr(known, name)
        assert 0.90 <= covered(value, found.standard_error(name), true) <= 0.98, name
        assert covered(value, unturned.standard_error(name), true) < 0.85, name


@pytest.mark.parametrize("better", [1.0, 1.5])
def test_intervals_that_reach_to_the_bracket_cover_the_truth_in_many_dimensions(better):
    """Eight dimensions and a kink in each, or next to one: the plug-in alone is off."""
    found = gaussian_pid_samples(*looks(n=400, d=8, better=better, layers=(150,)))
    i12, i1, i2 = (4 * torch.tensor(1 + x).log2() for x in (1 + better, better, 1.0))
    true = {"redundancy": i2, "unique_vision": i1 - i2, "unique_language": 0, "synergy": i12 - i1}
    for name, value in true.items():
        low, high = found.interval(name)
        assert ((low <= value) & (value <= high)).double().mean() >= 0.85, name
    assert covered(found.plug_in.union, found.standard_error("union"), i1) < 0.85


def test_a_spectrum_has_the_intervals_of_the_bracket():
    parts = looks(n=90, d=3, layers=(2,))
    found = spectrum(torch.cat(parts, -1), (3, 3, 3))
    order = [int(name) for name in found.ids]
    expected = gaussian_pid_samples(*(x[:, order] for x in parts))
    for name in VALUES:
        for level in (0.8, 0.95):
            ends = torch.stack(found.interval(name, level))
            torch.testing.assert_close(ends, torch.stack(expected.interval(name, level)))


# ---------------------------------------------------------------- clusters


def test_clusters_widen_errors():
    """Each sample three times: errors are those of one time, sqrt 3 of what they seem."""
    cov, sizes = SYSTEMS[2]
    rows = drawn(cov, 300)
    once = spectrum(rows, sizes)
    blind = spectrum(rows.repeat(1, 3, 1), sizes)
    aware = spectrum(rows.repeat(1, 3, 1), sizes, groups=lambda name: int(name) % 300)
    assert aware.groups.bincount().tolist() == [3] * 300
    for name in VALUES:
        error = aware.standard_error(name)
        torch.testing.assert_close(error, once.standard_error(name), rtol=1e-9, atol=0)
        torch.testing.assert_close(error, 3**0.5 * blind.standard_error(name), rtol=2e-3, atol=0)


def test_intervals_of_clusters_cover_the_truth():
    """Three samples that share most of their noise, in two hundred replicates."""
    cov, sizes = SYSTEMS["dense"]
    shared, own = drawn(cov, 250, 200), drawn(cov, 750, 200, seed=1)
    rows = 0.9**0.5 * shared.repeat(1, 3, 1) + 0.1**0.5 * own
    found = spectrum(rows, sizes, groups=lambda name: int(name) % 250)
    blind = spectrum(rows, sizes)
    known = gaussian_pid(cov, sizes)
    for name in ("redundancy", "synergy", "information"):
        value, true = getattr(found, name), getattr(known, name)
        assert 0.88 <= covered(value, found.standard_error(name), true) <= 0.98, name
        assert covered(value, blind.standard_error(name), true) < 0.85, name


def test_clusters_stay_in_one_half_whatever_says_them():
    rows, sizes = torch.cat(looks(n=60, d=8, layers=(1,)), -1).repeat(1, 6, 1), (8, 8, 8)
    table = {str(i): f"image {i % 60}" for i in range(360)}
    apart, together = spectrum(rows, sizes), spectrum(rows, sizes, groups=table)
    by_rule = spectrum(rows, sizes, groups=lambda name: int(name) % 60)
    assert together.bracket.union < apart.bracket.union - 0.3
    assert torch.equal(atoms(together.bracket), atoms(by_rule.bracket))
    assert torch.equal(together.standard_error("synergy"), by_rule.standard_error("synergy"))
    assert together.settings["clustered"]
    assert not apart.settings["clustered"]


def test_groups_that_lack_samples_are_an_error():
    with pytest.raises(ValueError, match="groups lack 60 of 60 samples: '0'"):
        spectrum(drawn(covariance((1, 1, 1)), 60), (1, 1, 1), groups={})


def test_estimators_of_one_clustering_merge():
    seen, group = (
        reads(drawn(covariance((2, 2, 2)), 60), (2, 2, 2)),
        {str(i): i // 2 for i in range(60)},
    )
    one, two = (
        GaussianPID(groups=dict(group)).update(seen.rows(r)) for r in (range(25), range(25, 60))
    )
    merged, whole = one.merge(two).result(), GaussianPID(groups=group).update(seen).result()
    torch.testing.assert_close(merged.standard_error("synergy"), whole.standard_error("synergy"))
    with pytest.raises(ValueError, match="equal settings"):
        one.merge(GaussianPID())


# ---------------------------------------------------------------- what is stored, singular, wrong


def test_a_spectrum_with_errors_can_be_stored(tmp_path):
    found = spectrum(
        drawn(covariance((2, 2, 2)), 60), (2, 2, 2), groups=lambda name: int(name) % 20
    )
    assert "±" in repr(found)
    found.save(tmp_path / "s.safetensors")
    again = type(found).load(tmp_path / "s.safetensors")
    assert torch.equal(again.standard_error("synergy"), found.standard_error("synergy"))
    assert again.strongest("synergy") == found.strongest("synergy")


def test_infinite_information_has_an_infinite_error():
    """Both sources together tell Y without error in the first of two layers."""
    y, x1, x2 = looks(n=80, d=1, layers=(2,))
    y = torch.stack([x1[0] + x2[0], y[1]])
    found = spectrum(torch.cat([y, x1, x2], -1), (1, 1, 1))
    endless = ("information", "synergy")
    for name in VALUES:
        error = found.standard_error(name)
        assert error.isinf().tolist() == [name in endless, False]
        assert not error.isnan().any()
        assert not getattr(found.pointwise, name).isnan().any()
    one = gaussian_pid_samples(y, x1, x2)
    assert one.interval("synergy")[0][0] == -torch.inf
    assert one.interval("synergy")[1][0] == torch.inf
    assert found.doubtful.tolist()[0]


def test_components_beyond_the_rank_change_nothing():
    mix = torch.randn(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = drawn(covariance((2, 2, 2)), 70)[0]
    wide = torch.cat([x @ mix for x in rows.split(2, -1)], -1)[None]
    two, four = (spectrum(wide, (6, 6, 6), components=k) for k in (2, 4))
    torch.testing.assert_close(atoms(two), atoms(four), atol=1e-9, rtol=0)
    for name in VALUES:
        errors = [x.standard_error(name) for x in (two, four)]
        torch.testing.assert_close(*errors, atol=1e-9, rtol=0)
    few = spectrum(drawn(spread(40), 30), (40, 40, 40), components=2)
    assert torch.isfinite(few.standard_error("synergy")).all()


@pytest.mark.parametrize("components", [None, 1])
@pytest.mark.parametrize(("name", "at"), [("answer", 0), ("image", 2), ("question", 5)])
def test_states_that_are_not_numbers_are_named(name, at, components):
    rows = drawn(covariance((2, 2, 2)), 60)
    rows[0, 3, at] = torch.nan
    with pytest.raises(
        ValueError, match=f"state '{name}' is NaN or infinite, first at layer 0, sample '3'"
    ):
        spectrum(rows, (2, 2, 2), components=components)


def test_a_global_generator_stays_as_it_is():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    spectrum(drawn(covariance((2, 2, 2)), 60), (2, 2, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_difference_of_infinite_informations_is_warned_of():
    y, x1, x2 = looks(n=80, d=1, layers=(2,))
    rows = torch.cat([torch.stack([x1[0] + x2[0], y[1]]), x1, x2], -1)
    found = spectrum(rows, (1, 1, 1))
    with pytest.warns(UserWarning, match=r"infinite information in layers \[0\]"):
        change = found - found
    assert change.synergy.isnan().tolist() == [True, False]
    assert change.redundancy.tolist() == [0, 0]
    assert change.doubtful.tolist()[0]
    assert change.standard_error("redundancy").isfinite().all()
    assert found.interval("synergy")[0][0] == -torch.inf
