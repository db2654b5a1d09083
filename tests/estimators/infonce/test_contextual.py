"""Contextual contribution: what it can tell, what it cannot, and whom it refuses."""

import math
from dataclasses import replace

import pytest
import torch
from draws import images
from tiny import FAMILIES, make

import pid_lens
from pid_lens import Lens, Pooled, Reads, Spans
from pid_lens.estimators import ContextualContribution, InfoNCE
from pid_lens.forward.image_only_probe import require_unseen_text

STATES = (Pooled("image", token="last"), Pooled("answer"))
PLAIN = {"full": []}
SEEING = ("paligemma", "instructblip")
"""Families whose image tokens depend on the text: without a causal mask, or by a Q-Former."""


def told(mix, noise, n=600, seed=0):
    """A model whose last state is a mixture of image and text, all states being noisy.

    Its contribution in bits is that of Gaussian variables.
    """
    image, text = mix.shape[1] // 2, mix.shape[1]
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, text, generator=generator, dtype=torch.float64)
    blur = [noise * torch.randn(n, text, generator=generator).double() for _ in range(2)]
    last = source @ mix.mT + noise * torch.randn(n, len(mix), generator=generator)
    states = {"image_last": (source + blur[0])[:, :image], "answer": source + blur[1], "y": last}
    reads = Reads.from_posteriors(torch.zeros(1, 1, n, 1), conditions=["full"])
    of_last = mix @ mix.mT + noise**2 * torch.eye(len(mix))
    seen = [mix, mix[:, :image]]
    left = [of_last - known @ known.mT / (1 + noise**2) for known in seen]
    truth = float(torch.logdet(left[1]) - torch.logdet(left[0])) / (2 * math.log(2))
    return replace(reads, states={name: x[None].float() for name, x in states.items()}), truth


def added(guided, d=3):
    """Mixing weights of image plus text, or of the image alone."""
    return torch.cat([torch.eye(d), guided * torch.eye(d)], 1).double()


def contribution(reads, **settings):
    settings = {"y": "y", "progress": False, **settings}
    return ContextualContribution(**settings).update(reads).result()


# ---------------------------------------------------------------- known truths


@pytest.fixture(scope="module")
def guided():
    reads, truth = told(added(1.0), 0.5)
    return reads, truth, contribution(reads)


def test_a_text_guided_model(guided):
    _, truth, found = guided
    assert truth > 1
    assert float(found.value) > 5 * float(found.error)
    assert float(found.value) == pytest.approx(truth, abs=0.25 * truth)
    assert not found.near_cap.any()


def test_an_unguided_model(guided):
    reads, truth = told(added(0.0), 0.5)
    found = contribution(reads)
    assert truth == pytest.approx(0)
    assert abs(float(found.value)) < 3 * float(found.error)
    assert float(found.value) < 0.2 * float(guided[2].value)


def test_where_both_terms_are_near_the_cap_the_contribution_is_lost():
    """Twelve nearly exact dimensions, six of them the text's: 18 bits that cannot be seen."""
    reads, truth = told(torch.eye(12).double(), 0.1, n=300)
    with pytest.warns(UserWarning, match="squeezed towards 0") as warned:
        found = contribution(reads)
    assert [str(w.message).split(" term")[0] for w in warned] == [
        "the multimodal",
        "the image only",
    ]
    assert truth > 15
    assert abs(float(found.value)) < 0.5
    assert all(part.near_cap.all() for part in found.parts.values())
    assert found.cap is None
    assert found.near_cap.all()
    assert "1 near the cap" in repr(found)


def test_repeated_images_are_no_knowledge():
    """The last state is a code of the image, which neither state tells anything of."""
    image, last, of = images()
    text = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    reads = Reads.from_posteriors(torch.zeros(1, 1, 600, 1), conditions=["full"])
    states = {"image_last": image, "answer": image + 0.1 * text, "y": last}
    reads = replace(reads, states={name: x[None].float() for name, x in states.items()})
    alone = contribution(reads)
    found = contribution(reads, groups=dict(zip(reads.ids, of.tolist(), strict=True)))
    assert all(part.value > 1 for part in alone.parts.values())
    for curve in (*found.parts.values(), found):
        assert -0.4 < curve.value < 2 * curve.error < 0.6
        assert len(curve.groups.unique()) == 100
    assert (alone.settings["clustered"], found.settings["clustered"]) == (False, True)
    assert alone.groups is None


def test_it_is_a_paired_difference_of_two_bounds(guided):
    reads, _, found = guided
    parts = found.parts["multimodal"], found.parts["image only"]
    for part, x in zip(parts, ("answer", "image_last"), strict=True):
        alone = InfoNCE(x=x, y="y", progress=False).update(reads).result()
        assert torch.equal(alone.pointwise, part.pointwise)
    assert torch.equal(found.pointwise, parts[0].pointwise - parts[1].pointwise)
    assert float(found.error) < math.hypot(*(float(part.error) for part in parts))
    assert found.ids == parts[0].ids
    assert "contextual contribution" in repr(found)


# ---------------------------------------------------------------- the estimator


def test_laws_of_an_estimator():
    reads, _ = told(added(1.0, d=1), 1.0, n=100)
    few = {"folds": 2}
    whole = contribution(reads, **few)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1)).tolist()
    before = torch.get_rng_state()
    one = ContextualContribution(y="y", progress=False, **few).update(reads.rows(order[:40]))
    other = ContextualContribution(y="y", progress=False, **few).update(reads.rows(order[40:]))
    assert one.merge(other) is one
    for _ in range(2):
        assert torch.equal(one.update(reads.rows(range(5))).result().pointwise, whole.pointwise)
    assert torch.equal(torch.get_rng_state(), before)
    nats = contribution(reads, unit="nats", **few)
    torch.testing.assert_close(nats.value, whole.to("nats").value)
    assert nats.parts["image only"].unit == "nats"


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (InfoNCE, {"x": "image", "y": "label", "target": "same"}),
        (ContextualContribution, {"image": "first", "multimodal": "second", "y": "third"}),
    ],
)
def test_states_come_first_and_then_what_all_critics_have(kind, own):
    critics = {"constants": "paper", "components": None, "folds": 4, "seed": 7, "unit": "nats"}
    given = kind(*own.values(), *critics.values())
    said = ", ".join(f"{name}={value!r}" for name, value in {**own, **critics}.items())
    assert repr(given) == f"{kind.__name__}({said})"
    assert kind(*own.values()) != given == kind(**own, **critics, progress=False)


@pytest.mark.parametrize(
    "wrong", [{"constants": "ours"}, {"unit": "bans"}, {"folds": 1}, {"components": 0}], ids=str
)
def test_all_critics_refuse_the_same_in_the_same_words(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))) as refused:
        InfoNCE(**wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))) as also:
        ContextualContribution(**wrong)
    assert str(refused.value) == str(also.value)


def test_bad_input():
    reads, _ = told(added(1.0, d=1), 1.0, n=100)
    with pytest.raises(ValueError, match=r"call update\(reads\) first"):
        ContextualContribution().result()
    with pytest.raises(
        ValueError, match=r"lack the states other; they have image_last.*Pooled\('other'"
    ):
        ContextualContribution(image="other").update(reads)
    with pytest.raises(ValueError, match="constants must be"):
        ContextualContribution(constants="theirs")
    with pytest.raises(ValueError, match="raw states, without components; got components=3"):
        ContextualContribution(constants="paper", components=3)
    assert ContextualContribution(constants="paper").components is None
    with pytest.raises(ValueError, match="token must be"):
        Pooled("image", token="first")


# ---------------------------------------------------------------- models


def run(lens, model, batch):
    with torch.no_grad(), lens(batch):
        return model(**batch.inputs).logits


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in SEEING])
def test_the_last_image_token_is_free_of_the_text(family):
    model, batch = make(family)
    lens = Lens(model, conditions=PLAIN, states=STATES)
    with torch.no_grad():
        plain = model(**batch.inputs, output_hidden_states=True)
    assert lens.rows == ("full", "")
    torch.testing.assert_close(run(lens, model, batch), plain.logits, atol=1e-5, rtol=0)
    assert lens.rows == lens.reads.conditions == ("full",)
    at = batch.spans.positions("image")
    states = (plain if "hidden_states" in plain else plain.language_model_outputs).hidden_states
    hidden = states[1][torch.arange(batch.n), at]
    kept = lens.reads.states["image_last"][0]
    assert kept.dtype == torch.float16
    torch.testing.assert_close(kept.float(), hidden, atol=1e-5, rtol=1e-3)
    assert torch.equal(run(lens, model, batch), plain.logits)


@pytest.mark.parametrize("family", SEEING)
@pytest.mark.parametrize("conditions", [PLAIN, None])
def test_an_image_that_sees_the_text_is_refused(family, conditions):
    model, batch = make(family)
    moments = pid_lens.calibrate(model, [batch])
    lens = Lens(model, moments=moments, conditions=conditions, states=STATES)
    for _ in range(2):
        with pytest.raises(ValueError, match="image tokens depend on the text in this model"):
            run(lens, model, batch)
    run(Lens(model, moments=moments, states=[Pooled("image"), Pooled("answer")]), model, batch)


@pytest.mark.parametrize("name", ["question", "options"])
def test_text_before_the_image_is_refused(name):
    model, batch = make("llava")
    first = torch.zeros_like(batch.spans["image"])
    first[:, 1] = True
    spans = {**batch.spans, name: first}
    lens = Lens(model, conditions=PLAIN, states=STATES)
    with pytest.raises(ValueError, match=f"the {name} comes before the last image token"):
        run(lens, model, replace(batch, spans=Spans(**spans)))
    run(lens, model, batch)


def test_text_that_nobody_named_is_refused():
    model, batch = make("llava")
    nameless = replace(batch, spans=Spans(image=batch.spans["image"]))
    with pytest.raises(ValueError, match="no span says where the text is"):
        run(Lens(model, conditions=PLAIN, states=STATES), model, nameless)
    run(Lens(model, conditions=PLAIN, states=[Pooled("answer")]), model, nameless)


def seen(batch, change):
    """What a lens makes of a model whose last image token is changed in both copies of a batch."""
    model, _ = make("llava")
    rows, at = torch.arange(batch.n), batch.spans.positions("image")

    def meddle(module, args, output):
        own, other = change(output[rows, at])
        output = output.clone()
        output[rows, at] = own
        if len(output) > batch.n:
            output[batch.n + rows, at] = other
        return output

    lens = Lens(model, conditions=PLAIN, states=STATES, layers=[1], fork_edits=True)
    with lens.anatomy.layers[1].register_forward_hook(meddle):
        run(lens, model, batch)
    return lens.reads.states["image_last"][0]


HUGE = 6e4


@pytest.mark.filterwarnings("ignore:an edit of what comes out")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: (x, -x), "moves by 200.00%"),
        (lambda x: (x, x * (1 + 3e-4)), "moves by 0.03%"),
        (lambda x: (HUGE + 0 * x, -HUGE + 0 * x), "moves by 200.00%"),
        (lambda x: (x, x * math.nan), "layer 1 is NaN or infinite"),
        (lambda x: (x * math.inf, x * math.inf), "layer 1 is NaN or infinite"),
        (lambda x: (x.index_fill(0, torch.tensor(2), math.nan), x), "layer 1 is NaN or infinite"),
        (lambda x: (x, x + torch.eye(4, 32)[[2, 2, 0, 2]] * 0.1), "moves by"),
    ],
)
def test_a_state_that_moves_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        seen(make("llava")[1], change)


def test_a_state_that_moves_by_rounding_alone_passes():
    """What half precision rounds apart, up and down from the middle of two numbers."""
    middle = 1 + 2**-11
    kept = seen(make("llava")[1], lambda x: (middle - 1e-6 + 0 * x, middle + 1e-6 + 0 * x))
    assert kept.dtype == torch.float16
    assert (kept == 1).all()
    assert torch.tensor(middle + 1e-6).half().float() > 1 + 5e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_model_s_precision_says_how_far_rounding_moves_a_state(dtype):
    half = torch.finfo(dtype).bits == 16
    own = torch.ones(3, 8)
    for moved, passes in ((5e-5, True), (5e-3, half), (2e-2, False)):
        if passes:
            require_unseen_text(own, own * (1 + moved), 0, dtype)
        else:
            with pytest.raises(ValueError, match="image tokens depend on the text"):
                require_unseen_text(own, own * (1 + moved), 0, dtype)
    require_unseen_text(0 * own, 0 * own, 0, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision(dtype):
    for family, sees in (("llava", False), ("paligemma", True)):
        model, batch = make(family)
        pixels = batch.inputs["pixel_values"].to(dtype)
        batch = replace(batch, inputs={**batch.inputs, "pixel_values": pixels})
        lens = Lens(model.to(dtype), conditions=PLAIN, states=STATES)
        if sees:
            with pytest.raises(ValueError, match="image tokens depend on the text in this model"):
                run(lens, model, batch)
        else:
            run(lens, model, batch)
            assert lens.rows == ("full",)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_outside_a_span_plays_no_part(bad):
    states = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    spans = Spans(image=torch.tensor([[True, True, False, True, False]]).expand(2, -1))
    mean = Pooled("image", dtype="float32")
    expected = states[:, [0, 1, 3]].mean(1)
    torch.testing.assert_close(mean(states, spans), expected)
    states[:, [2, 4]] = bad
    torch.testing.assert_close(mean(states, spans), expected)
    states[1, 3] = bad
    assert mean(states, spans).isfinite().all(1).tolist() == [True, False]


def test_views_after_a_proof():
    model, batch = make("llava")
    lens = Lens(model, conditions=PLAIN, states=STATES)
    with pytest.raises(ValueError, match="cannot prove"):
        next(lens.views(batch))
    run(lens, model, batch)
    known = lens.reads.states["image_last"]
    lens.reset()
    for view in lens.views(batch):
        with view, torch.no_grad():
            model(**batch.inputs)
    torch.testing.assert_close(lens.reads.states["image_last"], known)


def test_from_a_lens_to_a_curve(digits_model):
    model, processor = digits_model
    settings = {"folds": 2, "components": 4, "progress": False}
    inline = ContextualContribution(**settings)
    lens = Lens(
        model,
        processor,
        choices=("A", "B"),
        conditions=PLAIN,
        layers=[2],
        states=STATES,
        estimators=[inline],
    )
    for batch in pid_lens.demo.batches("synergy", n=100, batch_size=50):
        run(lens, model, batch)
    with pytest.warns(UserWarning, match="the multimodal term"):
        found = inline.result()
    again = InfoNCE(x="image_last", **settings).update(lens.reads).result()
    assert found.layers == (2,)
    assert torch.equal(found.parts["image only"].pointwise, again.pointwise)
