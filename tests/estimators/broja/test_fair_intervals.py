"""Errors that are fair: coverage on known truth, brackets, floors, pairs, gradients."""

import pytest
import torch
from worlds import drawn, world

import pid_lens
from pid_lens import BROJA, Reads
from pid_lens.estimators import bootstrap, cross_fitted, discrete_pid, posterior_pid
from pid_lens.results import ATOMS, standard_error

VALUES = (*ATOMS, "information", "information_vision", "information_language")


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
    with pytest.raises(ValueError, match="group their samples differently"):
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
