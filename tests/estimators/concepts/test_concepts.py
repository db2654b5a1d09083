"""What states tell about concepts: known informations, chance, published numbers, bad input."""

import math
import warnings
from dataclasses import dataclass

import pytest
import torch

from pid_lens.estimators import BottleneckRecipe, concept_information
from pid_lens.results import standard_error

N = 2000
QUICK = BottleneckRecipe(widths=(8,), epochs=3, patience=None, folds=2)
ANY_GAIN = pytest.mark.filterwarnings("ignore:.*gain_by_chance:UserWarning")
"""For tests that are not about the gain."""


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@dataclass
class System:
    """States are means[g, s] + noise, targets are targets[g, s], with probability prior[g, s]."""

    prior: torch.Tensor
    means: torch.Tensor
    targets: torch.Tensor

    def drawn(self, n, seed=1):
        """States, targets, groups."""
        generator = torch.Generator().manual_seed(seed)
        at = torch.multinomial(self.prior.flatten(), n, replacement=True, generator=generator)
        means = self.means.flatten(0, 1)[at]
        noise = torch.randn(means.shape, generator=generator, dtype=torch.float64)
        return means + noise, self.targets.flatten(0, 1)[at], at // self.prior.shape[1]

    def information(self, draws=20_000):
        """I(C; h) and I(C; h | group) in bits with their errors, by the exact posterior."""
        parts = [self._pointwise(*part) for part in self._chunks(draws)]
        values = torch.cat(parts, 1)
        return values.mean(1), values.std(1) / draws**0.5

    def _chunks(self, draws):
        return zip(*(x.split(5000) for x in self.drawn(draws, seed=2)), strict=True)

    def _pointwise(self, h, _, group):
        squares = torch.cdist(h, self.means.flatten(0, 1)).square()
        scores = self.prior.log() - squares.unflatten(1, self.prior.shape) / 2
        own = torch.eye(len(self.prior), dtype=torch.bool)[group][..., None]
        targets = self.targets.flatten(0, 1)
        given, given_both = (
            x.flatten(1).softmax(1) @ targets for x in (scores, scores.where(own, -math.inf))
        )
        marginal = (self.prior[..., None] * self.targets).sum(1)
        within = (marginal / marginal.sum(1, keepdim=True))[group]
        return torch.stack([divergence(given, marginal.sum(0)), divergence(given_both, within)])


def divergence(p, q):
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1) / math.log(2)


def uniform(*shape):
    return torch.full(shape, 1 / math.prod(shape), dtype=torch.float64)


def labels(concepts, width, far):
    """One Gaussian a label."""
    means = far * randn(1, concepts, width)
    return System(uniform(1, concepts), means, torch.eye(concepts).double()[None])


def scores(concepts, width, factors, sharp):
    """A few factors behind both states and a detector's scores, in 500 images."""
    z = randn(500, factors)
    means = z @ randn(factors, width, seed=1) / 2
    targets = (sharp * z @ randn(factors, concepts, seed=2)).softmax(-1)
    return System(uniform(1, 500), means[None], targets[None])


def ring():
    """Three labels in turn around a circle, each in two places: nothing linear."""
    angle = 2 * math.pi * (torch.arange(360).double() + 0.5) / 360
    means = 5 * torch.stack([angle.cos(), angle.sin()], -1)
    sector = torch.arange(360) // 60 % 3
    return System(uniform(1, 360), means[None], torch.eye(3).double()[sector][None])


def grouped(far):
    """Three groups, four scenes in each with scores and a state of their own."""
    prior = torch.tensor([[0.5], [0.3], [0.2]]) * randn(3, 4).softmax(1)
    return System(prior, far * randn(3, 4, 8, seed=1), (2 * randn(3, 4, 5, seed=2)).softmax(-1))


def independent_given_group():
    """Groups alone set both concepts and states."""
    return System(uniform(3, 1), randn(3, 1, 8), (2 * randn(3, 1, 5, seed=1)).softmax(-1))


def known_only_with_the_group():
    """The first coordinate's sign is label XOR group."""
    means = torch.zeros(2, 2, 8, dtype=torch.float64)
    means[..., 0] = 1.5 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return System(uniform(2, 2), means, torch.eye(2).double().expand(2, 2, 2))


def said_by_the_group_too():
    """Labels have one state in every group, but are not equally likely in each."""
    prior = torch.tensor([[0.5], [0.3], [0.2]]) * randn(3, 4).softmax(1)
    means = 0.6 * randn(1, 4, 8, seed=1)
    return System(prior, means.expand(3, 4, 8), torch.eye(4).double().expand(3, 4, 4))


ALONE = {
    "four labels": labels(4, 8, 0.6),
    "eight labels": labels(8, 32, 0.4),
    "faint": labels(2, 16, 0.3),
    "scores": scores(8, 16, 4, 2.0),
    "many concepts": scores(80, 32, 6, 1.5),
    "ring": ring(),
    "independent": labels(8, 32, 0.0),
}
GROUPED = {
    "grouped": grouped(1.5),
    "independent given group": independent_given_group(),
    "known only with the group": known_only_with_the_group(),
    "said by the group too": said_by_the_group_too(),
}


def assert_bounds(curve, truth, truth_error):
    """Not above the truth beyond the errors, within 15 % of it, and about 0 where it is 0."""
    value, error = float(curve.value), float(curve.error)
    assert value <= truth + 3 * math.hypot(error, truth_error)
    assert value >= 0.85 * truth - 0.01 * (truth < 0.01)


# ---------------------------------------------------------------- known informations


@pytest.mark.parametrize("system", ALONE.values(), ids=ALONE)
def test_the_unconditional_bound(system):
    h, targets, _ = system.drawn(N)
    truth, error = system.information()
    found = concept_information(h[None], targets, progress=False)
    assert_bounds(found.unconditional, float(truth[0]), float(error[0]))
    assert (found.conditional, found.gain) == (None, None)


@pytest.mark.parametrize("system", GROUPED.values(), ids=GROUPED)
def test_both_bounds_and_their_difference(system):
    h, targets, groups = system.drawn(N)
    truth, error = (x.tolist() for x in system.information())
    found = concept_information(h[None], targets, groups=groups, progress=False)
    assert_bounds(found.unconditional, truth[0], error[0])
    assert_bounds(found.conditional, truth[1], error[1])
    difference = found.unconditional.pointwise - found.conditional.pointwise
    assert torch.allclose(found.gain.pointwise, difference, atol=1e-12)
    for gain in (found.gain, found.gain_beyond_chance):
        assert float(gain.value) == pytest.approx(truth[0] - truth[1], abs=0.15 * max(truth))
    assert abs(found.gain_by_chance.value) < 0.02


def test_the_sign_of_the_gain():
    redundant, synergistic = (
        GROUPED[name].information(5000)[0]
        for name in ("independent given group", "known only with the group")
    )
    assert redundant[0] - redundant[1] > 0.2
    assert synergistic[0] - synergistic[1] < -0.7


@ANY_GAIN
def test_a_layer_knows_what_it_knows_whatever_the_others_are():
    h, targets, groups = GROUPED["said by the group too"].drawn(400)
    noise = randn(400, 8)
    both = concept_information(
        torch.stack([h, noise]), targets, groups=groups, layers=(3, 9), progress=False
    )
    one = concept_information(h[None], targets, groups=groups, progress=False)
    assert both.gain.layers == (3, 9)
    for name, curve in one.curves.items():
        assert torch.equal(both.curves[name].pointwise[:1], curve.pointwise)
    assert both.unconditional.value[0] > 0.7
    assert abs(both.unconditional.value[1]) < 0.05


def test_one_bottleneck_for_all_layers_reads_what_is_said_the_same_way():
    h, targets, _ = labels(2, 4, 2.0).drawn(400)
    said_alike, turned_round = torch.stack([h, h]), torch.stack([h, h.mean(0) * 2 - h])
    of = {
        name: concept_information(states, targets, shared=True, progress=False).unconditional
        for name, states in {"alike": said_alike, "round": turned_round}.items()
    }
    assert (of["alike"].value > 0.8).all()
    assert (of["round"].value < 0.05).all()
    own = concept_information(turned_round, targets, progress=False).unconditional
    assert (own.value > 0.8).all()


def test_images_that_come_again_are_held_out_together():
    """Concepts that have nothing to do with the states, but every image is seen six times."""
    image = torch.arange(600) // 6
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(2))
    concepts = torch.arange(100).remainder(2)[shuffled][image]
    h = randn(100, 8)[image] + 0.01 * randn(600, 8, seed=1)
    leaked = concept_information(h[None], concepts, progress=False).unconditional
    sound = concept_information(h[None], concepts, clusters=image, progress=False).unconditional
    assert leaked.value > 0.5
    assert sound.value < 0.05
    assert torch.equal(sound.groups, image)
    influences = sound.pointwise - sound.value[:, None]
    assert torch.equal(sound.error, standard_error(influences, image))
    assert not torch.isclose(sound.error, standard_error(influences), rtol=0.1)


@pytest.mark.parametrize("constant", [0.0, 0.1, 4e3])
def test_a_layer_that_never_changes_tells_nothing(constant):
    targets = ALONE["four labels"].drawn(400)[1]
    found = concept_information(torch.full((1, 400, 8), constant), targets, progress=False)
    assert -0.02 < found.unconditional.value < 0


# ---------------------------------------------------------------- gain by chance


def heard(*given, **more):
    """What is found, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = concept_information(*given, progress=False, **more)
    return found, [str(warning.message) for warning in caught]


def at_random(count, n, seed=0):
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "n", "count"), [("eight labels", 600, 10), ("many concepts", 900, 9)]
)
def test_groups_that_tell_nothing_have_a_gain_only_by_chance(name, n, count):
    h, targets, _ = ALONE[name].drawn(n)
    found, said = heard(h[None], targets, groups=at_random(count, n), layers=[7])
    assert found.gain.value > max(0.1, 2 * float(found.gain.error))
    assert found.gain_by_chance.value > 0.1
    beyond = found.gain_beyond_chance
    assert abs(beyond.value) < 2.5 * beyond.error
    difference = found.gain.pointwise - found.gain_by_chance.pointwise
    assert torch.allclose(beyond.pointwise, difference, atol=1e-12)
    assert (
        sum("layer 7: the gain is positive, but within 2 errors" in words for words in said) == 1
    )


def test_a_gain_beyond_chance_is_not_doubted():
    h, targets, groups = GROUPED["independent given group"].drawn(600)
    found, said = heard(h[None], targets, groups=groups)
    assert found.gain_beyond_chance.value > 0.3
    assert said == []


def test_groups_of_whole_images_are_exchanged_as_wholes():
    """Forty images with eight samples each: chance is that of forty, and not of 320, samples."""
    image = torch.arange(320) // 8
    groups = at_random(4, 40)[image]
    concepts = at_random(4, 40, seed=1)[image]
    clustered, _ = heard(randn(1, 320, 4), concepts, groups=groups, clusters=image)
    assert clustered.gain_by_chance.value > 0.1
    assert clustered.gain.value > 0.1
    assert abs(clustered.gain_beyond_chance.value) < 2 * clustered.gain_beyond_chance.error


# ---------------------------------------------------------------- the published numbers


@pytest.fixture(scope="module")
def two_layers():
    """A layer that knows all and one that knows nothing, with questions in three groups."""
    _, targets, groups = GROUPED["said by the group too"].drawn(600)
    knows = torch.cat([8 * targets, torch.zeros(600, 4)], 1)
    found, _ = heard(torch.stack([knows, randn(600, 8)]), targets, groups=groups)
    return found, (targets, groups)


def test_published_within_groups_is_published_over_all(two_layers):
    found, (targets, groups) = two_layers
    lacked = -(targets * found.outputs).sum(-1) / math.log(2)
    within = torch.stack([lacked[:, groups == g].mean(1) for g in range(3)])
    sizes = groups.bincount().double() / len(groups)
    published = found.paper["paper_conditional"].value
    assert torch.allclose(sizes @ within, published, atol=1e-12)
    assert torch.allclose(found.paper["paper_unconditional"].value, published, atol=1e-12)
    assert found.paper["paper_gain"].value.tolist() == [0, 0]
    assert (found.gain.value.abs() > 0.05).any()


def test_the_published_number_is_what_the_state_lacks(two_layers):
    found, (targets, _) = two_layers
    told, lacked = found.unconditional.value, found.paper["paper_unconditional"].value
    assert told[0] > 1.7
    assert lacked[0] < 0.1
    assert abs(told[1]) < 0.05
    assert lacked[1] > 1.7
    assert torch.allclose(told + lacked, found.available.value, atol=1e-12)
    available = divergence(targets, targets.mean(0)).mean()
    assert torch.allclose(found.available.value, available, atol=1e-12)


def test_the_published_number_does_not_tell_nothing_from_all():
    """A target that is always the same: no information, and yet nothing is lacking."""
    targets = torch.tensor([[0.6, 0.3, 0.1]]).expand(100, 3)
    found = concept_information(randn(1, 100, 4), targets, progress=False)
    assert abs(found.unconditional.value) < 1e-3
    assert found.paper["paper_unconditional"].value < 1e-3


def test_the_constants_of_the_paper():
    h, targets, groups = GROUPED["said by the group too"].drawn(120)
    found = concept_information(
        torch.stack([h, h]), targets, groups=groups, constants="paper", shared=True, progress=False
    )
    expected = {"widths": [512, 128], "rate": 1e-4, "batch": 128, "epochs": 50, "folds": 10}
    assert expected.items() <= found.gain.settings.items()
    assert found.unconditional.value.mean() > 0.3
    assert found.paper["paper_gain"].value.tolist() == [0, 0]


# ---------------------------------------------------------------- what goes in and out


def test_labels_are_scores_of_one():
    h, targets, _ = ALONE["four labels"].drawn(100)
    one = concept_information(h[None], targets, constants=QUICK)
    for same in (targets.argmax(1), targets.argmax(1).numpy(), 7 * targets, targets.int()):
        other = concept_information(h[None].numpy(), same, constants=QUICK)
        assert torch.equal(one.outputs, other.outputs)


@ANY_GAIN
def test_a_concept_that_never_occurs_changes_nothing_but_its_own_output():
    h, targets, _ = ALONE["scores"].drawn(200)
    groups = torch.arange(200) % 2
    more = torch.cat([targets, torch.zeros(200, 1)], 1)
    found = concept_information(h[None], more, groups=groups, constants=QUICK)
    assert all(curve.pointwise.isfinite().all() for curve in found.curves.values())
    assert found.outputs.exp()[..., -1].max() < 0.1


@pytest.mark.parametrize("constant", [0.1, 5.0, 1e6 + 0.3])
def test_a_width_that_never_changes_tells_nothing(constant):
    h, targets, _ = ALONE["four labels"].drawn(100)
    h[:, 2] = 0
    expected = concept_information(h[None], targets, constants=QUICK)
    h[:, 2] = constant
    found = concept_information(h[None], targets, constants=QUICK)
    assert torch.equal(found.outputs, expected.outputs)


@ANY_GAIN
def test_units():
    h, targets, groups = GROUPED["grouped"].drawn(100)
    bits, nats = (
        concept_information(h[None], targets, groups=groups, constants=QUICK, unit=unit)
        for unit in ("bits", "nats")
    )
    for name, curve in bits.curves.items():
        assert torch.allclose(curve.pointwise * math.log(2), nats.curves[name].pointwise)
    assert "bits" in repr(bits)
    assert "nats" in repr(nats)


def test_the_seed_is_ones_own():
    h, targets, _ = ALONE["four labels"].drawn(100)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (
        concept_information(h[None], targets, seed=seed, constants=QUICK) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.outputs, same.outputs)
    assert not torch.equal(one.outputs, other.outputs)


@ANY_GAIN
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_needs_no_leave_from_outside(mode):
    h, targets, groups = GROUPED["grouped"].drawn(100)
    expected = concept_information(h[None], targets, groups=groups, constants=QUICK)
    with mode():
        found = concept_information(1 * h[None], 1 * targets, groups=groups, constants=QUICK)
    assert torch.equal(found.outputs, expected.outputs)


@pytest.mark.parametrize("shared", [False, True])
def test_training_that_ends_too_early_is_said_once_and_of_which_layers(shared):
    h, targets, groups = GROUPED["said by the group too"].drawn(200)
    flat = torch.zeros_like(h)
    recipe = BottleneckRecipe(epochs=6, patience=3)
    _, said = heard(
        torch.stack([h, flat, h]), targets, layers=(3, 4, 9), shared=shared, constants=recipe
    )
    layers = "3, 4, 9" if shared else "3, 9"
    assert len(said) == 1
    assert f"layers {layers}: bottlenecks were still getting better after 6 epochs" in said[0]
    assert "BottleneckRecipe(epochs=...)" in said[0]
    _, said = heard(h[None], targets, groups=groups, constants=BottleneckRecipe(epochs=1))
    assert sum("still getting better" in words for words in said) == 1


def test_means_of_too_few_samples_are_said():
    label = torch.arange(60) % 20
    _, said = heard(randn(1, 60, 4), label, constants=QUICK)
    assert "of 60 samples in 1 groups" in said[0]
    assert "underestimated by about 0.23 bits" in said[0]  # 19 / (2 * 60 ln 2)
    _, said = heard(randn(1, 60, 4), label, groups=torch.arange(60) // 20, constants=QUICK)
    assert "in 3 groups" in said[0]


def test_means_of_few_images_are_no_better_for_many_questions_on_each():
    image = torch.arange(240) // 12
    label = torch.arange(20) % 4
    _, alone = heard(randn(1, 20, 4), label, constants=QUICK)
    _, asked_often = heard(randn(1, 240, 4), label[image], clusters=image, constants=QUICK)
    assert alone[0].replace("20 samples", "240 samples (20 clusters)") == asked_often[0]
    assert heard(randn(1, 240, 4), label[image], constants=QUICK)[1] == []


H = randn(2, 20, 3).float()
C = randn(20, 4).abs()
HOLE = C.clone()
HOLE[[3, 5]] = 0
BAD = {
    "no layers": ((H[0], C), {}, r"\[layers, n, width\].*got \[20, 3\]"),
    "a list": ((H.tolist(), C), {}, "got list"),
    "nobody": ((H[:, :0], C[:0]), {}, "no empty axis"),
    "NaN": ((H * math.nan, C), {}, "NaN or infinity in 20 of 20 samples, first at layer 0"),
    "other samples": ((H, C[:9]), {}, r"of 20 samples; got \[9, 4\]"),
    "three axes": ((H, C[None]), {}, "scores"),
    "one concept": ((H, C[:, :1]), {}, "two concepts"),
    "one label": ((H, torch.zeros(20)), {}, "two concepts"),
    "negative": ((H, C - 9), {}, "at least 0"),
    "unknown labels": ((H, torch.full((20,), -1)), {}, "at least 0"),
    "NaN scores": ((H, C * math.nan), {}, "finite"),
    "half a label": ((H, torch.full((20,), 0.5)), {}, "whole numbers"),
    "no detection": ((H, HOLE), {}, "2 of 20 samples have no score above 0, first sample 3"),
    "groups of others": ((H, C), {"groups": "ab"}, "20 samples need as many groups"),
    "one group": ((H, C), {"groups": "a" * 20}, "'a': leave groups out for the unconditional"),
    "a small group": ((H, C), {"groups": "a" * 19 + "b"}, "few samples in group 'b': 1, in 1 of"),
    "two folds": (
        (H, C),
        {"groups": [1] * 18 + [3, 3], "constants": BottleneckRecipe(folds=4)},
        "group 3: 2, in [12] of the 4 folds, and it needs 3",
    ),
    "two folds, no judges": ((H, C), {"groups": "a" * 19 + "b", "constants": QUICK}, "needs 2"),
    "a group on one image": (
        (H, C),
        {"groups": "a" * 16 + "b" * 4, "clusters": torch.arange(20) // 4},
        "too few clusters in group 'b': 1, in 1 of the 5 folds, and it needs 3.*fewer, larger",
    ),
    "ids": ((H, C), {"ids": "ab"}, "20 ids.*got 2"),
    "an id twice": ((H, C), {"ids": [*range(19), 7]}, "ids must differ; '7' comes 2 times"),
    "layers": ((H, C), {"layers": [1]}, "2 layers.*got 1"),
    "a layer twice": ((H, C), {"layers": [1, 1]}, "layers must differ; 1 comes 2 times"),
    "far labels": ((H, torch.arange(20) * 9), {}, r"got 171 .*unique\(return_inverse=True\)"),
    "labels in a column": (
        (H, torch.arange(20)[:, None]),
        {},
        r"class indices have one axis, \[n\]",
    ),
    "few clusters": ((H, C), {"clusters": "a" * 10 + "b" * 10}, "5 folds.*got 2"),
    "constants": ((H, C), {"constants": "ours"}, "default.*paper"),
    "unit": ((H, C), {"unit": "bans"}, "unit"),
}


@pytest.mark.parametrize(("given", "more", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_an_error(given, more, words):
    with pytest.raises(ValueError, match=words):
        concept_information(*given, **more)


def test_what_is_no_tensor_is_a_type_error():
    with pytest.raises(TypeError, match=r"concepts must be a real torch\.Tensor"):
        concept_information(H, C.tolist())
