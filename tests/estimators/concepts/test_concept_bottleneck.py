"""Concept bottlenecks: nothing leaks, recipes, laws of the estimator over reads, questions."""

import math
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from pid_lens import ConceptBottleneck, Lens, Pooled, Reads
from pid_lens.estimators import BottleneckRecipe, concept_information, question_groups
from pid_lens.estimators.concepts.bottleneck import BottleneckRows, answer_held_out
from pid_lens.estimators.concepts.bounds import shortfall
from pid_lens.estimators.concepts.groups import exchange_within
from pid_lens.estimators.concepts.inputs import as_concept_inputs
from pid_lens.results import Curve

QUICK = BottleneckRecipe(widths=(8,), epochs=3, patience=None, folds=2)
ANY_GAIN = pytest.mark.filterwarnings("ignore:.*gain_by_chance:UserWarning")
"""For tests that are not about the gain."""


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def labelled(n, concepts=4, width=8):
    """States with one Gaussian a label."""
    label = torch.arange(n) * 7 % 13 % concepts
    return randn(n, width) + randn(concepts, width, seed=1)[label], label


# ---------------------------------------------------------------- what is held out


def rows(concepts, folds):
    states, _ = labelled(len(concepts))
    ones = torch.zeros(len(concepts), dtype=torch.long)
    return BottleneckRows(states.float(), concepts.float(), ones, folds)


@pytest.mark.parametrize("patience", [None, 8])
def test_what_is_said_of_a_fold_does_not_depend_on_its_concepts(patience):
    """Neither in training nor in the choice of the epoch, which is that of another fold."""
    recipe = BottleneckRecipe(widths=(8,), rate=0.1, epochs=8, patience=patience, folds=4)
    folds = torch.arange(80) % 4
    targets = torch.eye(4)[labelled(80)[1]]
    before = answer_held_out(rows(targets, folds), recipe, seed=0).log_probs
    for fold in range(4):
        others = targets.where((folds != fold)[:, None], targets.roll(1, 1))
        after = answer_held_out(rows(others, folds), recipe, seed=0).log_probs
        assert torch.equal(after[folds == fold], before[folds == fold])
        assert not torch.isclose(after[folds != fold], before[folds != fold]).all(1).any()


def given(n=100, seed=0, clusters=None, folds=5):
    states, label = labelled(n)
    return as_concept_inputs(states[None], label, clusters, folds, seed)


def test_folds_are_those_of_the_seed():
    one, same, other = (given(seed=seed).folds for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.bincount().tolist() == other.bincount().tolist() == [20] * 5


def shares(groups, folds):
    return torch.stack([groups[folds == fold].bincount(minlength=3) for fold in range(5)])


def test_exchanged_groups_keep_their_share_of_every_fold():
    samples, groups = given(), torch.arange(100) % 7 % 3
    before = torch.get_rng_state()
    one, same, other = (exchange_within(groups, samples, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert torch.equal(shares(one, samples.folds), shares(groups, samples.folds))
    for found in (one, other):
        assert 0.25 < (found == groups).double().mean() < 0.5
    assert not torch.equal(one, other)


def test_clusters_hand_on_all_their_groups():
    """Twenty images with one question a group or all of one group, the order always the same."""
    image = torch.arange(100) // 5
    groups = torch.tensor([[0, 1, 2, 1, 0], [2, 2, 2, 2, 2]]).repeat(10, 1).flatten()
    samples = given(clusters=image)
    found = exchange_within(groups, samples, seed=0)
    sets, before = (x.reshape(20, 5).sort(1).values.tolist() for x in (found, groups))
    assert sorted(sets) == sorted(before)
    assert sets != before
    assert torch.equal(shares(found, samples.folds), shares(groups, samples.folds))
    mixed = torch.stack([x for x in found.reshape(20, 5) if x.unique().numel() > 1])
    assert (mixed != mixed[0]).any()


def test_groups_of_whole_clusters_stay_so_whatever_the_sizes():
    image = (torch.arange(100).double().sqrt() * 3).long()
    groups = image % 3
    found = exchange_within(groups, given(clusters=image), seed=0)
    assert all(len(found[image == one].unique()) == 1 for one in image.unique())
    assert not torch.equal(found, groups)


# ---------------------------------------------------------------- recipes, training, means


@pytest.mark.parametrize("patience", [None, 5])
def test_training_that_diverges_is_an_error(patience):
    h, label = labelled(100)
    recipe = BottleneckRecipe(rate=1e6, epochs=10, patience=patience)
    with pytest.raises(ValueError, match=r"diverged: lower its rate.*rate=.*1000000\.0"):
        concept_information(h[None], label, constants=recipe)


BAD_RECIPES = {
    "folds": {"folds": 2},
    "dropout": {"dropout": 1.0},
    "widths": {"widths": (0,)},
    "rate": {"rate": 0.0},
    "a rate that never ends": {"rate": math.inf},
    "epochs": {"epochs": 0},
    "epochs in part": {"epochs": 2.5},
    "epochs in words": {"epochs": "2"},
    "no epochs": {"epochs": None},
    "a width in part": {"widths": (8.0,)},
    "widths that are one": {"widths": 8},
    "folds without judges": {"folds": 1, "patience": None},
    "batch": {"batch": 0},
    "patience": {"patience": 0},
}


@pytest.mark.parametrize("wrong", BAD_RECIPES.values(), ids=BAD_RECIPES)
def test_a_recipe_is_checked_at_once(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"^{name} must be .*got "):
        BottleneckRecipe(**wrong)


def test_numbers_of_numpy_are_numbers():
    names = {"batch": 16, "epochs": 3, "patience": 2, "folds": 4, "rate": 0.5, "dropout": 0.5}
    recipe = BottleneckRecipe(
        widths=(np.int64(8),), **{name: np.array(value)[()] for name, value in names.items()}
    )
    assert recipe == BottleneckRecipe(widths=(8,), **names)
    for name in names:
        assert type(getattr(recipe, name)) in (int, float)


def test_the_shortfall_is_what_bounds_lose_on_average():
    """KL(mean || true mean) of many drawn samples in clusters of three."""
    true = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(true.expand(2000, 3), 80, replacement=True, generator=generator)
    targets = torch.eye(3).double()[drawn].repeat_interleave(3, 1)
    means = targets.mean(1)
    lost = float(torch.xlogy(means, means / true).sum(1).mean())
    cluster, one = torch.arange(240) // 3, torch.zeros(240, dtype=torch.long)
    assert lost == pytest.approx(shortfall(targets[0], one, cluster), rel=0.1)
    assert lost == pytest.approx(3 * shortfall(targets[0], one, torch.arange(240)), rel=0.1)


# ---------------------------------------------------------------- reads


def reads(n=60, layers=2):
    h, label = labelled(n)
    plain = Reads.from_posteriors(
        torch.full((layers, 1, n, 4), 0.25).log(), conditions=["full"], labels=label
    )
    states = torch.stack([h * (layer + 1) for layer in range(layers)]).float()
    return replace(plain, states={"answer": states, "image": -states})


SCORES = {row: vector for row, vector in enumerate(randn(60, 4).abs())}
GROUPS = {str(row): row % 3 for row in range(60)}
IMAGES = {str(row): row // 3 for row in range(60)}
FORMS = {
    "label": {},
    "scores": {"concepts": SCORES, "groups": GROUPS},
    "functions": {"concepts": lambda name: "odd" if int(name) % 2 else "even", "clusters": hash},
    "shared": {"concepts": SCORES, "shared": True, "state": "image"},
}


@ANY_GAIN
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


@ANY_GAIN
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
    assert found.parts["gain_by_chance"].name.endswith("groups exchanged at random")
    assert found.layers == (0, 1)
    assert set(found.parts) == set(expected.curves) - {"gain"}
    for name, part in found.parts.items():
        assert torch.equal(part.pointwise, expected.curves[name].pointwise)


def test_without_groups_the_result_is_the_bound():
    found = ConceptBottleneck(constants=QUICK).update(reads()).result()
    assert found.name == "I(concepts; state), at least"
    assert set(found.parts) == {"available", "paper_unconditional"}


@ANY_GAIN
def test_a_result_can_be_stored(tmp_path):
    found = ConceptBottleneck(SCORES, groups=GROUPS, clusters=IMAGES, constants=QUICK, unit="nats")
    curve = found.update(reads()).result()
    curve.save(tmp_path / "c.safetensors")
    again = Curve.load(tmp_path / "c.safetensors")
    assert repr(again) == repr(curve)
    assert again.settings == curve.settings
    assert torch.equal(again.error, curve.error)
    for name, part in curve.parts.items():
        assert torch.equal(again.parts[name].pointwise, part.pointwise)
    assert {"gain_beyond_chance", "gain_by_chance"} <= set(again.to_pandas().columns)


def test_settings_are_in_the_repr_and_others_do_not_merge():
    one = ConceptBottleneck(SCORES, seed=3)
    assert "seed=3" in repr(one)
    assert " at 0x" not in repr(ConceptBottleneck(lambda name: name))
    assert one == ConceptBottleneck({str(k): v.numpy() for k, v in SCORES.items()}, seed=3)
    for other in ({"seed": 4}, {"concepts": SCORES | {0: SCORES[7]}}, {"groups": GROUPS}):
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


def test_a_state_that_overflows_is_named():
    states = reads().states["answer"].clone()
    states[1, 7, 2] = math.inf
    broken = replace(reads(), states={"answer": states}, layers=(3, 9))
    with pytest.raises(ValueError, match=r"'answer' is NaN .* first at layer 9, .*'7'"):
        ConceptBottleneck(constants=QUICK).update(broken).result()


def test_warnings_point_at_who_asked():
    recipe = BottleneckRecipe(epochs=1)
    of_reads = ConceptBottleneck(GROUPS, constants=recipe).update(reads())
    states, label = labelled(60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        of_reads.result()
        concept_information(states[None], label, constants=recipe)
    assert [warning.filename for warning in caught] == [__file__] * 2
    for warning in caught:
        assert "still getting better after 1 epochs" in str(warning.message)


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
    "wrong",
    [{"concepts": "labels"}, {"groups": [1, 2]}, {"clusters": "label"}, {"concepts": randn(9, 4)}],
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
        (QUESTIONS, 2.0, ValueError),
        (["How many?", "how many", "many, how", "how many how many", "why"], 3, ValueError),
        (["a", "b ?", "c"], 1, ValueError),
        ([*QUESTIONS, ""], 2, ValueError),
        ("why", 1, TypeError),
        ([1], 1, TypeError),
    ],
)
def test_bad_questions_are_an_error_before_they_are_grouped(questions, k, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(kind, match="questions"):
        question_groups(questions, k)


def test_as_many_groups_as_questions_that_differ():
    groups = question_groups(["how many", "many how", "how how many", "why", "why?"], k=3)
    assert groups.tolist() == [1, 1, 0, 2, 2]
