"""Errors that are fair: coverage on known truth, brackets, floors, pairs, gradients."""

import pytest
import torch

import pid_lens
from pid_lens import BROJA, Reads
from pid_lens.atoms import ATOMS
from pid_lens.errors import standard_error
from pid_lens.estimators import discrete_pid, posterior_pid
from pid_lens.estimators.exact.crossfit import cross_fitted
from pid_lens.estimators.exact.resampling import bootstrap, exchanged

VALUES = (*ATOMS, "information", "information_vision", "information_language")


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


def alike(n, answers, seed, sharpness=1.5):
    """Two modalities with one channel to the answer, independent given it: no unique atoms."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.nn.functional.one_hot(torch.randint(answers, (n,), generator=generator), answers)
    noise = torch.randn(2, n, answers, generator=generator).double()
    one, two = sharpness * (noise + sharpness * y)
    return [(one + two).log_softmax(-1)[None], *(x.log_softmax(-1)[None] for x in (one, two))]


@pytest.mark.parametrize("repair", ["rake", "tilt"])
@pytest.mark.parametrize("kind", [0, 1, 3])
def test_intervals_cover_the_truth(kind, repair):
    """Nominal 95 %, 200 replicates of 400 samples; a unique atom of 0 may over-cover."""
    joint, replicates = world(kind), 200
    truth = discrete_pid(joint)
    hits = dict.fromkeys(VALUES, 0)
    for seed in range(replicates):
        found = posterior_pid(*drawn(joint, 400, 1000 * kind + seed), repair=repair)
        for name in VALUES:
            off = (getattr(found, name) - getattr(truth, name)).abs()
            hits[name] += bool(off <= 1.96 * found.standard_error(name) + 1e-9)
    for name, hit in hits.items():
        known = float(getattr(truth, name))
        assert hit / replicates >= 0.90, (name, hit)
        assert hit / replicates <= (0.985 if known > 1e-3 else 1), (name, hit)


def test_paired_intervals_cover_the_difference():
    """A change of the channel, read on the same samples."""
    before, replicates = world(4), 200
    full = before / before.sum(-1, keepdim=True)
    after = before.sum(-1, keepdim=True) * (0.7 * full + 0.3 * full.mean(-1, keepdim=True))
    truth = {
        name: getattr(discrete_pid(after), name) - getattr(discrete_pid(before), name)
        for name in VALUES
    }
    hits, narrower = dict.fromkeys(VALUES, 0), []
    for seed in range(replicates):
        one, other = (
            BROJA().update(Reads.from_posteriors(torch.stack(drawn(j, 500, seed), 1))).result()
            for j in (after, before)
        )
        change = pid_lens.compare(one, other)
        for name in VALUES:
            off = (getattr(change, name) - truth[name]).abs()
            hits[name] += bool(off <= 1.96 * change.standard_error(name) + 1e-9)
        apart = (one.standard_error("synergy") ** 2 + other.standard_error("synergy") ** 2).sqrt()
        narrower.append(float(change.standard_error("synergy") / apart))
    for name, hit in hits.items():
        assert 0.90 <= hit / replicates <= 0.985, (name, hit)
    assert max(narrower) < 0.8


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


def test_differences_keep_one_clustering():
    logs = torch.stack(drawn(world(3), 60, 0), 1)
    reads = Reads.from_posteriors(logs)
    bare, halves, thirds = (
        BROJA(groups=groups).update(reads).result()
        for groups in (None, lambda name: int(name) % 2, lambda name: int(name) % 3)
    )
    other = BROJA(tau=0.3).update(reads.rows(range(59, -1, -1))).result()
    for change in (halves - other, other - halves):
        assert change.groups.max() == 1
    with pytest.raises(ValueError, match="cluster their samples differently"):
        halves - thirds
    assert bare.groups is None


def test_gradients_at_tables_with_empty_cells():
    for name in ("AND", "XOR", "COPY"):
        joint = pid_lens.truth.gate(name).double().requires_grad_()
        found = discrete_pid(joint)
        (slope,) = torch.autograd.grad(found.synergy + found.redundancy, joint)
        assert torch.isfinite(slope).all()


def test_clusters_count_once():
    """Each sample four times: the error must not shrink, and with groups it does not."""
    logs = drawn(world(1), 200, 0)
    fourfold = [p.repeat(1, 4, 1) for p in logs]
    groups = [f"image {i % 200}" for i in range(800)]
    once = posterior_pid(*logs).standard_error("synergy")
    blind = posterior_pid(*fourfold).standard_error("synergy")
    aware = posterior_pid(*fourfold, groups=groups).standard_error("synergy")
    torch.testing.assert_close(aware, once, rtol=1e-6, atol=0)
    torch.testing.assert_close(blind, once / 2, rtol=0.01, atol=0)


def test_pointwise_values_add_up_and_belong_to_their_ids():
    logs = torch.stack(drawn(world(3), 60, 0), 1)
    reads = Reads.from_posteriors(logs, ids=[f"q{i}" for i in range(60)])
    whole = BROJA().update(reads).result()
    shuffled = BROJA().update(reads.rows(torch.randperm(60).tolist())).result()
    for name in VALUES:
        mean = getattr(whole.pointwise, name).mean(1)
        torch.testing.assert_close(mean, getattr(whole, name), atol=1e-9, rtol=0)
        assert getattr(whole.influence, name).mean(1).abs().max() < 1e-9
        ranked = dict(whole.strongest(name, k=60))
        assert ranked == pytest.approx(dict(shuffled.strongest(name, k=60)), abs=1e-9)
        torch.testing.assert_close(
            whole.standard_error(name), shuffled.standard_error(name), atol=1e-12, rtol=0
        )


def test_strata_have_errors_too():
    """Half two-option, half three-option questions: the error of their mixture."""
    two, three = torch.stack(drawn(world(1), 80, 0), 1), torch.stack(drawn(world(2, 3), 80, 1), 1)
    wide = torch.full((1, 3, 160, 3), -torch.inf, dtype=torch.float64)
    wide[:, :, ::2, :2], wide[:, :, 1::2] = two, three
    reads = Reads.from_posteriors(wide, present=wide[0, 0] > -torch.inf)
    found = BROJA(tol=1e-5).update(reads).result()
    one, other = (posterior_pid(*x.unbind(1), tol=1e-5) for x in (two, three))
    mean = found.pointwise.synergy[0]
    torch.testing.assert_close(mean[::2].mean(), one.synergy[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(mean[1::2].mean(), other.synergy[0], atol=1e-4, rtol=0)
    apart = (one.standard_error("synergy") ** 2 + other.standard_error("synergy") ** 2).sqrt() / 2
    assert found.standard_error("synergy") > apart


def test_bootstrap_and_delta_method_agree_where_atoms_are_above_0():
    logs = drawn(world(3), 400, 0)
    found, again = posterior_pid(*logs), bootstrap(*logs, draws=200)
    for name in ("redundancy", "synergy", "information"):
        ratio = getattr(again, name).std(0) / found.standard_error(name)
        assert 0.85 < float(ratio) < 1.15
    groups = torch.arange(400) // 2
    assert bootstrap(*logs, draws=3, groups=groups).synergy.shape == (3, 1)
    with pytest.raises(ValueError, match="two draws"):
        bootstrap(*logs, draws=1)


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
    with pytest.raises(ValueError, match="the floor tells of"):
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


def test_groups_of_a_spectrum_go_by_id():
    logs = torch.stack(drawn(world(3), 60, 0), 1)
    reads = Reads.from_posteriors(logs, ids=[f"{i // 6}/{i}" for i in range(60)])
    by_image = BROJA(groups=lambda name: name.split("/")[0]).update(reads).result()
    table = {name: name.split("/")[0] for name in reads.ids}
    assert by_image.groups.max() == 9
    by_table = BROJA(groups=table).update(reads).result()
    assert torch.equal(by_image.standard_error("synergy"), by_table.standard_error("synergy"))
    with pytest.raises(ValueError, match="groups lack 60 of 60 samples"):
        BROJA(groups={}).update(reads).result()


def test_gradients_are_those_of_the_optimum():
    """Against central differences, at tables whose atoms are all above 0."""
    joint = world(1, 3)
    joint.requires_grad_()
    found = discrete_pid(joint, tol=1e-12)
    (slope,) = torch.autograd.grad(found.synergy, joint)
    direction = torch.randn(joint.shape, generator=torch.Generator().manual_seed(0)).double()
    direction = (direction - direction.mean()) * joint.detach()
    direction = direction - joint.detach() * direction.sum()
    step = 1e-5
    ends = [discrete_pid(joint.detach() + s * step * direction, tol=1e-12) for s in (1, -1)]
    central = (ends[0].synergy - ends[1].synergy) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), central, rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_log_probabilities():
    logs = [p.requires_grad_() for p in drawn(world(1), 50, 0)]
    found = posterior_pid(*(p.log_softmax(-1) for p in logs))
    slopes = torch.autograd.grad(found.synergy.sum(), logs)
    generator = torch.Generator().manual_seed(0)
    moves = [torch.randn(p.shape, generator=generator).double() for p in logs]
    ends = [
        posterior_pid(
            *(
                (p.detach() + s * 1e-5 * m).log_softmax(-1)
                for p, m in zip(logs, moves, strict=True)
            )
        )
        for s in (1, -1)
    ]
    central = (ends[0].synergy - ends[1].synergy).sum() / 2e-5
    along = sum((s * m).sum() for s, m in zip(slopes, moves, strict=True))
    torch.testing.assert_close(along, central, rtol=1e-3, atol=1e-6)


def test_one_cluster_has_no_error():
    assert standard_error(torch.zeros(1, 4), torch.zeros(4).long()).isinf().all()
    with pytest.raises(ValueError, match="as many groups"):
        posterior_pid(*drawn(world(1), 10, 0), groups=[1, 2])
    with pytest.raises(ValueError, match="at least four"):
        cross_fitted(*drawn(world(1), 3, 0))


def test_an_estimator_without_influences_says_so():
    half = torch.full((1,), 0.5, dtype=torch.float64)
    bare = pid_lens.Spectrum(
        information=half,
        information_vision=half,
        information_language=half,
        union=half,
        gap=0 * half,
        layers=(0,),
        ids=("a",),
        estimator="mine",
    )
    with pytest.raises(ValueError, match="no influences"):
        bare.standard_error("synergy")
    with pytest.raises(ValueError, match="no pointwise"):
        bare.strongest("synergy")


def test_the_bias_of_few_noise_draws_is_foretold(digits_model, digits_moments):
    """What 2 draws read too much against 48, on a checkpoint whose noised answers scatter."""
    model, processor = pid_lens.demo.load("tune-0150")
    batches = list(pid_lens.demo.batches("synergy", n=96, batch_size=96))
    moments = pid_lens.calibrate(model, pid_lens.demo.batches("synergy", split="train", n=256))

    def read(draws, seed=0):
        lens = pid_lens.Lens(model, processor, moments=moments, draws=draws, seed=seed)
        with torch.no_grad():
            for batch in batches:
                with lens(batch):
                    model(**batch.inputs)
        return lens.spectrum(BROJA(tau=0))

    assert read(1).draw_bias is None
    many = read(48)
    few = [read(2, seed) for seed in range(1, 9)]
    for column, name in enumerate(("information_vision", "information_language")):
        excess = torch.stack([getattr(one, name)[-1] - getattr(many, name)[-1] for one in few])
        foretold = torch.stack([one.draw_bias[-1, column] for one in few])
        noise = 3 * float(excess.std()) / len(few) ** 0.5
        assert abs(float(excess.mean() - foretold.mean())) < noise + 0.5 * float(foretold.mean())
    assert (many.draw_bias < few[0].draw_bias)[-1].all()


def test_fork_and_replay_agree_on_the_spread(llava):
    model, batch, moments = llava
    fork, replay = (pid_lens.Lens(model, moments=moments, draws=3) for _ in range(2))
    with torch.no_grad():
        with fork(batch):
            model(**batch.inputs)
        for view in replay.views(batch):
            with view:
                model(**batch.inputs)
    assert fork.reads.spread[:, 0].abs().max() == 0
    assert fork.reads.spread[:, 1:].min() > 0
    torch.testing.assert_close(fork.reads.spread, replay.reads.spread, atol=1e-6, rtol=1e-3)


def test_nats_and_bits():
    joint = world(3)
    bits, nats = discrete_pid(joint), discrete_pid(joint, unit="nats")
    torch.testing.assert_close(bits.synergy * torch.tensor(2.0).double().log(), nats.synergy)
    logs = drawn(joint, 50, 0)
    one, other = posterior_pid(*logs), posterior_pid(*logs, unit="nats")
    torch.testing.assert_close(one.to("nats").synergy, other.synergy)
    torch.testing.assert_close(
        other.to("bits").standard_error("synergy"), one.standard_error("synergy")
    )
    spectrum = BROJA().update(Reads.from_posteriors(torch.stack(logs, 1))).result()
    again = spectrum.to("nats").to("bits")
    torch.testing.assert_close(again.sensitivity.synergy, spectrum.sensitivity.synergy)
    with pytest.raises(ValueError, match="unit must be one of"):
        spectrum.to("hartleys")


def test_one_class_only_is_no_information():
    sure = torch.tensor([0.0, -torch.inf]).expand(1, 20, 2)
    found = posterior_pid(sure, sure, sure)
    for name in VALUES:
        assert abs(float(getattr(found, name))) < 1e-12
        assert float(found.standard_error(name)) < 1e-12


def test_two_sure_samples_are_one_bit_of_redundancy():
    sure = torch.eye(2).log()[None]
    found = posterior_pid(sure, sure, sure)
    assert float(found.redundancy) == pytest.approx(1, abs=1e-12)
    assert torch.isfinite(found.pointwise.redundancy).all()


def test_empty_updates():
    reads = Reads.from_posteriors(torch.stack(drawn(world(3), 20, 0), 1))
    with pytest.raises(ValueError, match="no sample"):
        BROJA().update(reads.rows([])).result()
    both = BROJA().update(reads.rows([])).update(reads).result()
    assert both.n == 20
