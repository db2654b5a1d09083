"""InfoNCE: the bound and its cap, and the laws of the estimator."""

import math
from dataclasses import replace
from operator import itemgetter

import pytest
import torch
from draws import generator, images, normal

from pid_lens import Reads
from pid_lens.estimators import InfoNCE
from pid_lens.estimators.infonce.bound import pointwise_information
from pid_lens.estimators.infonce.copula import coordinates, normal_scores, shrink_correlations
from pid_lens.estimators.infonce.critics import CRITIC_RECIPES, train_critic
from pid_lens.estimators.infonce.held_out import measure_held_out, show_states

DEFAULT = CRITIC_RECIPES["default"]
QUICK = replace(DEFAULT, steps=100, every=10)


# ---------------------------------------------------------------- the bound


def test_the_error_is_the_spread_over_samples():
    """Under one critic: a sample counts in the denominators of all others too."""
    x, y, _ = normal(1, 0.9, 20000)
    slope, curve = 0.9 / (1 - 0.9**2), 0.9**2 / (2 * (1 - 0.9**2))
    values, errors = [], []
    for a, b in zip(x.split(200), y.split(200), strict=True):
        score = slope * a @ b.mT - curve * (a**2 + (b**2).mT)
        pointwise = pointwise_information(score, torch.eye(200).double())
        both = score.log_softmax(0) + score.log_softmax(1)
        torch.testing.assert_close(pointwise.mean(), both.diagonal().mean() / 2 + math.log(200))
        values.append(pointwise.mean())
        errors.append(pointwise.std() / math.sqrt(200))
    ratio = float(torch.stack(values).std() / torch.stack(errors).mean())
    assert ratio == pytest.approx(1, abs=0.2)


def test_a_bound_cannot_exceed_the_log_of_its_samples():
    one = torch.eye(30).double()
    scores = 50 * torch.randn(30, 30, generator=generator()).double()
    assert pointwise_information(scores + 1e4 * one, one).mean() <= math.log(30) + 1e-9
    assert pointwise_information(0 * one, one).abs().max() < 1e-6


def test_scores_some_rows_at_a_time_are_the_whole_matrix():
    u, v = torch.randn(2, 2500, 3, generator=generator()).double()
    scores, expected = u @ v.mT, torch.zeros(2500).double()
    for sided in (scores, scores.mT):
        expected += sided.diagonal() - sided.logsumexp(1) + math.log(2500) + 1
        expected -= sided.softmax(1).sum(0)
    torch.testing.assert_close(pointwise_information(u, v), expected / 2)


@pytest.mark.parametrize("n", [6000, 6003])
def test_the_cap_is_the_log_of_a_fold(n):
    nothing = torch.zeros(n, 1).double()
    assert measure_held_out(
        show_states(nothing, QUICK), show_states(nothing, QUICK), QUICK
    ).cap == pytest.approx(math.log(n // 3))


@pytest.mark.parametrize("n", [1, 31, 32, 33, 50, 96, 1000, 1023])
def test_blocks_are_full_but_for_one_and_neighbours_apart(n):
    rows = torch.randperm(n, generator=generator())
    blocks = CRITIC_RECIPES["paper"].blocks(rows)
    assert sorted(torch.cat(blocks).tolist()) == list(range(n))
    assert [len(block) for block in blocks[:-1]] == [32] * (-(-n // 32) - 1)
    place = rows.argsort()
    for block in blocks if n > 64 else ():
        assert place[block].sort().values.diff().min() > 1
    assert DEFAULT.blocks(rows) == (rows,)


# ---------------------------------------------------------------- parts


def test_normal_scores_keep_order_and_ties():
    x = torch.tensor([[3.0, 1.0], [1.0, 1.0], [3.0, 1.0], [7.0, 1.0]], dtype=torch.float64)
    scores = normal_scores(x)
    assert scores[0, 0] == scores[2, 0] > scores[1, 0]
    assert scores[3, 0] == scores[:, 0].max()
    assert (scores[:, 1] == 0).all()
    torch.testing.assert_close(normal_scores(scores), scores)


def test_correlations_of_chance_are_shrunk_and_others_stay():
    a, b = torch.randn(2, 200, 500, generator=generator()).double()
    by_chance = (a * b).mean(0)
    sure = shrink_correlations(a, b)
    assert (sure >= 0).all()
    assert sure.mean() < 0.5 * by_chance.clamp_min(0).mean()
    assert shrink_correlations(a, 0.8 * a + 0.6 * b).mean() == pytest.approx(0.8, abs=0.01)
    often, of = (a.repeat(6, 1), b.repeat(6, 1)), torch.arange(200).repeat(6)
    torch.testing.assert_close(shrink_correlations(*often, of), sure)
    assert shrink_correlations(*often).mean() > 1.5 * sure.mean()


def test_training_that_does_not_end_is_reported():
    x, y = (coordinates(z) for z in normal(n=200)[:2])
    with pytest.warns(UserWarning, match="still getting better after 20 steps"):
        train_critic(x, y, replace(QUICK, steps=20), torch.arange(200), generator())


def test_one_encoder_needs_one_width():
    with pytest.raises(ValueError, match="one width; got 2 and 3"):
        measure_held_out(torch.randn(150, 2), torch.randn(150, 3), CRITIC_RECIPES["paper"])


# ---------------------------------------------------------------- the estimator


def reads_of(n=100, layers=2, d=2, seed=0, labels=None):
    """A state that knows more of the last one from layer to layer, and is it in the end."""
    last, noise = torch.randn(2, n, d, generator=generator(seed))
    clear = torch.linspace(0, 1, layers)[:, None, None]
    reads = Reads.from_posteriors(
        torch.zeros(layers, 1, n, 1), conditions=["full"], labels=labels, settings={"model": "m"}
    )
    image = 2 * clear * last + noise
    return replace(reads, states={"image": image, "answer": last.expand(layers, -1, -1)})


def estimator(**settings):
    return InfoNCE(**{"x": "image", "folds": 2, "progress": False, **settings})


@pytest.fixture(scope="module")
def reads():
    return reads_of()


@pytest.fixture(scope="module")
def curve(reads):
    return estimator().update(reads).result()


def same(one, other):
    assert one.ids == other.ids
    return torch.equal(one.pointwise, other.pointwise)


def test_layers_as_curves(curve, reads):
    assert curve.value[1] > 0.5 > curve.value[0] > -0.5
    assert curve.pointwise.shape == (2, 100)
    assert curve.cap.tolist() == pytest.approx([math.log2(50)] * 2)
    assert curve.ids == tuple(sorted(reads.ids))
    assert curve.settings["model"] == "m"
    assert "I(image; answer of the last layer)" in repr(curve)


def test_the_order_of_arrival_does_not_matter(curve, reads):
    order = torch.randperm(100, generator=generator()).tolist()
    parts = [reads.rows(order[at : at + 40]) for at in range(0, 100, 40)]
    streamed = estimator()
    for part in parts:
        assert streamed.update(part) is streamed
    assert same(streamed.result(), curve)
    assert same(streamed.result(), curve)
    merged = estimator().update(parts[2])
    other = estimator().update(parts[0]).update(parts[1])
    assert merged.merge(other) is merged
    assert same(merged.result(), curve)


def test_a_sample_read_again_replaces_its_record(curve, reads):
    other = replace(reads, states={name: x.flip(1) for name, x in reads.states.items()})
    assert same(estimator().update(other.rows(range(30))).update(reads).result(), curve)


def test_layers_know_nothing_of_each_other(curve, reads):
    alone = replace(
        reads,
        layers=(1,),
        log_probs=reads.log_probs[1:2],
        states={name: x[1:2] for name, x in reads.states.items()},
    )
    assert torch.equal(estimator().update(alone).result().pointwise[0], curve.pointwise[1])


def test_nothing_else_is_random(reads):
    before = torch.get_rng_state()
    with torch.inference_mode():
        estimator().update(reads).result()
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_and_unit(curve, reads):
    assert not same(estimator(seed=1).update(reads).result(), curve)
    nats = estimator(unit="nats").update(reads).result()
    torch.testing.assert_close(nats.pointwise, curve.to("nats").pointwise)
    torch.testing.assert_close(nats.cap, curve.to("nats").cap)


def test_target_of_the_same_layer():
    reads = reads_of(layers=2)
    states = {**reads.states, "other": reads.states["image"] ** 3}
    estimate = estimator(y="other", target="same").update(replace(reads, states=states))
    with pytest.warns(UserWarning, match="at layers 0, 1: the information is large"):
        assert estimate.result().near_cap.all()


def test_label_in_place_of_a_state():
    """A normal whose mean is +1 or -1 tells .486 bits of its sign."""
    labels = torch.arange(400) % 2
    reads = reads_of(400, layers=1, d=1, labels=labels)
    states = {"image": reads.states["image"] + (2 * labels - 1)[:, None]}
    found = estimator(y="label").update(replace(reads, states=states)).result()
    assert float(found.value) == pytest.approx(0.486, abs=2 * float(found.error) + 0.05)
    with pytest.raises(ValueError, match="400 of 400 samples have no label"):
        estimator(y="label").update(replace(reads, labels=torch.full((400,), -1))).result()


def test_constants_of_the_paper():
    reads = reads_of(128, layers=1)
    states = {**reads.states, "image": reads.states["image"] + 3 * reads.states["answer"]}
    states = {name: x.clone().requires_grad_() for name, x in states.items()}
    found = estimator(constants="paper").update(replace(reads, states=states)).result()
    assert found.cap.tolist() == pytest.approx([5])
    assert found.value > 0.2
    assert found.settings["components"] is None
    with pytest.raises(ValueError, match="raw states, without components; got components=16"):
        estimator(constants="paper", components=16)


def test_groups_hold_out_an_image_with_all_its_questions():
    x, y, image = images()
    reads = Reads.from_posteriors(torch.zeros(1, 1, 600, 1), conditions=["full"])
    reads = replace(reads, states={"image": x[None].float(), "answer": y[None].float()})
    label = dict(zip(reads.ids, image.tolist(), strict=True))
    alone = estimator().update(reads).result()
    told = [estimator(groups=groups) for groups in (label, label.get)]
    found, again = (one.update(reads).result() for one in told)
    assert alone.value > 1
    assert -0.4 < found.value < 2 * found.error < 0.6
    assert same(found, again)
    assert (alone.settings["clustered"], found.settings["clustered"]) == (False, True)
    whose = itemgetter(*found.ids)(label)
    assert len(set(zip(whose, found.groups.tolist(), strict=True))) == 100
    alike = replace(found, groups=None)
    assert found.error > 1.2 * alike.error
    with pytest.raises(ValueError, match="groups lack 600 of 600 samples"):
        estimator(groups={}).update(reads).result()


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "next"},
        {"constants": "theirs"},
        {"unit": "bans"},
        {"components": 0},
        {"folds": 1},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        InfoNCE(**settings)


def test_bad_reads(reads):
    with pytest.raises(ValueError, match=r"call update\(reads\) first"):
        estimator().result()
    with pytest.raises(ValueError, match="lack the states question; they have image, answer"):
        estimator(x="question").update(reads)
    with pytest.raises(ValueError, match="50 samples"):
        estimator().update(reads.rows(range(99))).result()
    with pytest.raises(ValueError, match="equal settings merge"):
        estimator().merge(estimator(seed=1))
    broken = reads.states["image"].clone()
    broken[1, 4] = math.nan
    reads = replace(reads, states={**reads.states, "image": broken})
    with pytest.raises(ValueError, match="'image' is NaN or infinite, first at layer 1, sample"):
        estimator().update(reads).result()
