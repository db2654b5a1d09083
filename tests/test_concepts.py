"""Concept bottlenecks: known informations, published numbers, laws of the estimator, bad input."""

import math
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from pid_lens import Lens, Pooled, Reads
from pid_lens.curves import Curve
from pid_lens.estimators.concepts.bottleneck import BottleneckRecipe
from pid_lens.estimators.concepts.concepts import concept_information
from pid_lens.estimators.concepts.questions import question_groups
from pid_lens.estimators.concepts.states import ConceptBottleneck

N = 2000
QUICK = BottleneckRecipe(widths=(8,), epochs=3, patience=None, folds=2)


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
    assert float(found.gain.value) == pytest.approx(truth[0] - truth[1], abs=0.15 * max(truth))


def test_the_sign_of_the_gain():
    redundant, synergistic = (
        GROUPED[name].information(5000)[0]
        for name in ("independent given group", "known only with the group")
    )
    assert redundant[0] - redundant[1] > 0.2
    assert synergistic[0] - synergistic[1] < -0.7


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
    concepts = torch.arange(100).remainder(2)[torch.randperm(100)][image]
    h = randn(100, 8)[image] + 0.01 * randn(600, 8, seed=1)
    leaked = concept_information(h[None], concepts, progress=False).unconditional
    sound = concept_information(h[None], concepts, clusters=image, progress=False).unconditional
    assert leaked.value > 0.5
    assert sound.value < 0.05
    assert sound.error > leaked.error / 6


# ---------------------------------------------------------------- the published numbers


@pytest.fixture(scope="module")
def two_layers():
    """A layer that knows all and one that knows nothing, with questions in three groups."""
    _, targets, groups = GROUPED["said by the group too"].drawn(600)
    knows = torch.cat([8 * targets, torch.zeros(600, 4)], 1)
    return concept_information(
        torch.stack([knows, randn(600, 8)]), targets, groups=groups, progress=False
    ), (targets, groups)


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


def test_a_concept_that_never_occurs_changes_nothing_but_its_own_output():
    h, targets, groups = ALONE["scores"].drawn(200)
    more = torch.cat([targets, torch.zeros(200, 1)], 1)
    found = concept_information(h[None], more, groups=groups, constants=QUICK)
    assert all(curve.pointwise.isfinite().all() for curve in found.curves.values())
    assert found.outputs.exp()[..., -1].max() < 0.1


def test_a_width_that_never_changes_tells_nothing():
    h, targets, _ = ALONE["four labels"].drawn(100)
    h[:, 2] = 5.0
    found = concept_information(h[None], targets, constants=QUICK)
    assert found.outputs.isfinite().all()


def test_units():
    h, targets, groups = ALONE["four labels"].drawn(100)
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


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_needs_no_leave_from_outside(mode):
    h, targets, groups = ALONE["four labels"].drawn(100)
    expected = concept_information(h[None], targets, groups=groups, constants=QUICK)
    with mode():
        found = concept_information(1 * h[None], 1 * targets, groups=groups, constants=QUICK)
    assert torch.equal(found.outputs, expected.outputs)


def test_training_that_ends_too_early_is_said():
    h, targets, _ = ALONE["four labels"].drawn(200)
    with pytest.warns(UserWarning, match="still getting better after 1 epochs"):
        concept_information(h[None], targets, constants=BottleneckRecipe(epochs=1))


def test_means_of_too_few_samples_are_said():
    label = torch.arange(60) % 20
    with pytest.warns(UserWarning, match="in 1 groups .* underestimated by about 0.2. bits"):
        concept_information(randn(1, 60, 4), label, constants=QUICK)
    groups = torch.arange(60) // 20
    with pytest.warns(UserWarning, match="in 3 groups"):
        concept_information(randn(1, 60, 4), label, groups=groups, constants=QUICK)


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
    "a small group": ((H, C), {"groups": "a" * 19 + "b"}, "smallest has 1"),
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


BAD_RECIPES = {
    "folds": {"folds": 2},
    "dropout": {"dropout": 1.0},
    "widths": {"widths": (0,)},
    "rate": {"rate": 0.0},
    "epochs": {"epochs": 0},
    "batch": {"batch": 0},
    "patience": {"patience": 0},
}


@pytest.mark.parametrize(("name", "wrong"), BAD_RECIPES.items(), ids=BAD_RECIPES)
def test_a_recipe_is_checked_at_once(name, wrong):
    with pytest.raises(ValueError, match=name):
        BottleneckRecipe(**wrong)


# ---------------------------------------------------------------- reads


def reads(n=60, layers=2):
    h, targets, _ = ALONE["four labels"].drawn(n)
    plain = Reads.from_posteriors(
        torch.full((layers, 1, n, 4), 0.25).log(), conditions=["full"], labels=targets.argmax(1)
    )
    states = torch.stack([h * (layer + 1) for layer in range(layers)]).float()
    return replace(plain, states={"answer": states, "image": -states})


SCORES = {row: vector for row, vector in enumerate(randn(60, 4).abs())}
GROUPS = {str(row): row % 3 for row in range(60)}
FORMS = {
    "label": {},
    "scores": {"concepts": SCORES, "groups": GROUPS},
    "functions": {"concepts": lambda name: "odd" if int(name) % 2 else "even", "clusters": hash},
    "shared": {"concepts": SCORES, "shared": True, "state": "image"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_batches_merges_orders_and_repeats_give_one_result(form):
    make = lambda: ConceptBottleneck(**form, constants=QUICK)  # noqa: E731
    whole = make().update(reads())
    streamed, half = make(), make()
    wrong = reads().rows(range(10))
    streamed.update(replace(wrong, states={k: -x for k, x in wrong.states.items()}))
    for at in range(0, 40, 7):
        streamed.update(reads().rows(range(at, min(at + 7, 40))))
    half.update(reads().rows(range(59, 39, -1)))
    merged = streamed.merge(half)
    one, other, again = whole.result(), merged.result(), merged.result()
    assert one.ids == other.ids == tuple(sorted(map(str, range(60))))
    assert one.parts.keys() == other.parts.keys()
    for name in (None, *one.parts):
        curves = [c if name is None else c.parts[name] for c in (one, other, again)]
        assert torch.equal(curves[0].pointwise, curves[1].pointwise)
        assert torch.equal(curves[0].pointwise, curves[2].pointwise)


def test_the_result_is_that_of_the_arrays():
    found = ConceptBottleneck(SCORES, groups=GROUPS, constants=QUICK).update(reads()).result()
    order = sorted(range(60), key=str)
    expected = concept_information(
        reads().states["answer"][:, order],
        torch.stack([SCORES[row] for row in order]),
        groups=[row % 3 for row in order],
        constants=QUICK,
    )
    assert torch.equal(found.pointwise, expected.gain.pointwise)
    assert found.name == "visual information gain"
    assert found.layers == (0, 1)
    assert set(found.parts) == set(expected.curves) - {"gain"}
    for name, part in found.parts.items():
        assert torch.equal(part.pointwise, expected.curves[name].pointwise)


def test_without_groups_the_result_is_the_bound():
    found = ConceptBottleneck(constants=QUICK).update(reads()).result()
    assert found.name == "I(concepts; state), at least"
    assert set(found.parts) == {"available", "paper_unconditional"}


def test_a_result_can_be_stored(tmp_path):
    found = ConceptBottleneck(SCORES, groups=GROUPS, clusters=GROUPS, constants=QUICK, unit="nats")
    curve = found.update(reads()).result()
    curve.save(tmp_path / "c.safetensors")
    again = Curve.load(tmp_path / "c.safetensors")
    assert repr(again) == repr(curve)
    assert again.settings == curve.settings
    assert torch.equal(again.error, curve.error)
    for name, part in curve.parts.items():
        assert torch.equal(again.parts[name].pointwise, part.pointwise)
    assert {"gain", "paper_gain"} & set(again.to_pandas().columns) == {"paper_gain"}


def test_settings_are_in_the_repr_and_others_do_not_merge():
    one = ConceptBottleneck(SCORES, seed=3)
    assert "seed=3" in repr(one)
    assert " at 0x" not in repr(ConceptBottleneck(lambda name: name))
    assert one == ConceptBottleneck({str(k): v.numpy() for k, v in SCORES.items()}, seed=3)
    for other in ({"seed": 4}, {"concepts": SCORES | {0: C[7]}}, {"groups": GROUPS}):
        with pytest.raises(ValueError, match="equal settings"):
            one.merge(ConceptBottleneck(**{"concepts": SCORES, "seed": 3} | other))


MISSING = {
    "concepts": (
        {"concepts": {1: "a"}},
        r"concepts lack 59 of 60 samples: '0', '10', '11', \.\.\.",
    ),
    "a function": ({"concepts": lambda name: None if name == "7" else 1}, r"samples: '7'$"),
    "groups": ({"groups": dict(list(GROUPS.items())[2:])}, r"groups lack 2 .* '0', '1'$"),
    "clusters": ({"clusters": {}}, "clusters lack 60"),
    "lengths": ({"concepts": {row: range(row) for row in range(60)}}, "one length"),
    "vectors and labels": ({"concepts": {**SCORES, 0: "cat"}}, "one length"),
}


@pytest.mark.parametrize(("more", "words"), MISSING.values(), ids=MISSING)
def test_what_samples_lack_is_named(more, words):
    with pytest.raises(ValueError, match=words):
        ConceptBottleneck(**more).update(reads()).result()


def test_unknown_labels_are_named():
    unknown = replace(reads(), labels=torch.full((60,), -1))
    with pytest.raises(ValueError, match="60 of 60 samples have no label"):
        ConceptBottleneck().update(unknown).result()


def test_missing_states_are_named():
    with pytest.raises(
        ValueError, match=r"question; they have answer, image.*Pooled\('question'\)"
    ):
        ConceptBottleneck(state="question").update(reads())


def test_a_result_without_samples_is_an_error():
    with pytest.raises(ValueError, match="no sample"):
        ConceptBottleneck().result()
    with pytest.raises(ValueError, match="no sample"):
        ConceptBottleneck().update(reads().rows(())).result()


@pytest.mark.parametrize("wrong", [{"unit": "bans"}, {"constants": "ours"}])
def test_settings_are_checked_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConceptBottleneck(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"concepts": "labels"}, {"groups": [1, 2]}, {"clusters": "label"}, {"concepts": C}]
)
def test_what_maps_no_ids_is_an_error(wrong):
    with pytest.raises(TypeError, match=next(iter(wrong))):
        ConceptBottleneck(**wrong)


def test_inline_in_a_lens(llava):
    model, batch, moments = llava
    estimator = ConceptBottleneck(lambda name: int(name.split()[1]) % 2, constants=QUICK)
    lens = Lens(model, moments=moments, states=[Pooled("answer")], estimators=[estimator])
    for at in range(5):
        with lens(replace(batch, ids=tuple(f"{at} {row}" for row in range(4)))), torch.no_grad():
            model(**batch.inputs)
    found = estimator.result()
    assert found.n == 20
    assert found.layers == lens.reads.layers
    assert found.value.isfinite().all()


# ---------------------------------------------------------------- questions

QUESTIONS = [
    *(f"what color is the {thing}" for thing in ("cat", "bus", "wall", "car")),
    *(f"how many {things} are there" for things in ("cats", "buses", "walls")),
    *(f"is this {thing} left of that one" for thing in ("cat", "car")),
]


def test_questions_that_ask_alike_are_one_group():
    groups = question_groups(QUESTIONS)
    assert groups.tolist() == [2] * 4 + [0] * 3 + [1] * 2
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = question_groups([QUESTIONS[row] for row in order])
    assert torch.equal(shuffled, groups[order])


def test_grouping_leaves_the_global_generators_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    question_groups(QUESTIONS, k=2, seed=5)
    assert np.array_equal(np.random.get_state()[1], before)


def test_scikit_learn_is_asked_for_when_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        question_groups(QUESTIONS)


@pytest.mark.parametrize(
    ("questions", "k", "kind"),
    [
        (QUESTIONS, 10, ValueError),
        (QUESTIONS, 0, ValueError),
        ("why", 1, TypeError),
        ([1], 1, TypeError),
    ],
)
def test_bad_questions_are_an_error(questions, k, kind):
    with pytest.raises(kind, match="questions"):
        question_groups(questions, k)
