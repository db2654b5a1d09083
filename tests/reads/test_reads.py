"""The durable record: thresholds, scores, and putting records together."""

import math
import pickle
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from pid_lens import Reads
from pid_lens.estimators import BROJA
from pid_lens.reads import ReadsBuffer


def reads(n=5, answers=3, layers=2, seed=0, mass=0.8, **more):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(layers, 3, n, answers, generator=generator)
    return Reads.from_posteriors((p / p.sum(-1, keepdim=True) * mass).log(), **more)


def test_the_threshold_is_applied_once_and_late():
    p = torch.tensor([[0.2, 0.09], [0.2, 0.11], [0.6, 0.3]]).log()
    record = Reads.from_posteriors(p.expand(1, 3, 3, 2))
    found = record.posteriors(0.3)[0, 0].exp()
    expected = torch.tensor([[0.5, 0.5], [20 / 31, 11 / 31], [2 / 3, 1 / 3]]).double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert record.fallback(0.3).tolist() == [[pytest.approx(1 / 3)] * 3]
    assert record.fallback(0).max() == 0
    assert record.posteriors(0)[0, 0, 0].exp().tolist() == pytest.approx(
        [20 / 29, 9 / 29], abs=1e-6
    )
    torch.testing.assert_close(record.mass[0, 0], torch.tensor([0.29, 0.31, 0.9]).double())


def test_uniform_over_the_options_that_a_sample_has():
    p = torch.tensor([[0.1, 0.1, 0.0], [0.1, 0.05, 0.05]]).log()
    present = torch.tensor([[True, True, False], [True] * 3])
    record = Reads.from_posteriors(p.expand(1, 3, 2, 3), present=present)
    assert record.mask.tolist() == [[True, True, False], [True] * 3]
    assert record.posteriors()[0, 0].exp().tolist() == [
        [0.5, 0.5, 0.0],
        pytest.approx([1 / 3] * 3),
    ]


def test_impossible_is_not_absent():
    sure = torch.eye(2).log().expand(1, 3, 2, 2)
    record = Reads.from_posteriors(sure)
    assert record.mask.all()
    found = BROJA(tau=0).update(record).result()
    assert found.redundancy.item() == pytest.approx(1, abs=1e-9)
    with pytest.raises(ValueError, match="takes natural logs"):
        Reads.from_posteriors(torch.eye(2).expand(1, 3, 2, 2))


@pytest.mark.parametrize("tau", [0.1, 0.3, 0.5, 0.7])
def test_the_share_below_tau_is_what_was_done(tau):
    """Also for masses at the threshold itself."""
    p = torch.tensor([[tau * 0.9, tau * 0.1], [tau * 0.4, tau * 0.5]]).double().log()
    record = Reads.from_posteriors(p.expand(1, 3, 2, 2))
    uniform = ((record.posteriors(tau).exp() - 0.5).abs() < 1e-12).all(-1).double().mean(-1)
    assert torch.equal(record.fallback(tau), uniform)


def test_no_mass_at_all_is_uniform_whatever_tau():
    record = Reads.from_posteriors(torch.full((1, 3, 2, 2), -math.inf))
    assert (record.posteriors(0).exp() - 0.5).abs().max() < 1e-15
    assert record.fallback(0).tolist() == [[1.0, 1.0, 1.0]]


def test_scores_of_a_known_predictor():
    """90 % sure and right 3 times of 4."""
    p = torch.tensor([[0.9, 0.1]] * 4).log().expand(1, 3, 4, 2)
    record = Reads.from_posteriors(p, labels=[0, 0, 0, 1])
    assert record.accuracy() == 0.75
    expected = -(3 * math.log2(0.9) + math.log2(0.1)) / 4
    assert record.cross_entropy() == pytest.approx(expected, abs=1e-6)
    assert record.calibration_error() == pytest.approx(0.15, abs=1e-6)
    with pytest.raises(ValueError, match="no label"):
        reads().accuracy()


def test_the_last_record_of_a_sample_stays():
    old, new = reads(seed=0), reads(seed=1, ids=[3, 4, 5, 6, 7])
    both = Reads.concat([old, new])
    assert both.ids == ("0", "1", "2", "3", "4", "5", "6", "7")
    assert torch.equal(both.log_probs[:, :, 3:], new.log_probs)
    assert torch.equal(both.log_probs[:, :, :3], old.log_probs[:, :, :3])
    again = Reads.concat([both, both])
    assert again.ids == both.ids
    assert torch.equal(again.log_probs, both.log_probs)


def test_a_sample_is_known_by_its_content_too():
    """Read without a name and with one, in either order: one sample, by its name."""
    hashed = replace(reads(seed=0), ids=tuple("#abcde"[1:]), contents=tuple("#abcde"[1:]))
    named = replace(reads(seed=1), ids=tuple("vwxyz"), contents=hashed.contents)
    for pair in ([hashed, named], [named, hashed]):
        both = Reads.concat(pair)
        assert both.ids == named.ids
        assert torch.equal(both.log_probs, pair[1].log_probs)
    twins = replace(reads(seed=2), ids=tuple("12345"), contents=hashed.contents)
    assert Reads.concat([named, twins]).n == 10


def test_concat_pads_options():
    both = Reads.concat([reads(answers=2), reads(answers=4, ids="abcde")])
    assert both.log_probs.shape == (2, 3, 10, 4)
    assert both.mask.sum(-1).tolist() == [2] * 5 + [4] * 5
    assert torch.isfinite(both.posteriors()[both.mask.expand(2, 3, -1, -1)]).all()


@pytest.mark.parametrize(
    "other",
    [{"settings": {"seed": 1}}, {"conditions": ("full", "blind", "deaf")}, {"layers": 3}],
    ids=lambda other: next(iter(other)),
)
def test_only_the_same_kind_mixes(other):
    with pytest.raises(ValueError, match=f"differ in their {next(iter(other))}"):
        Reads.concat([reads(), reads(**other)])


def test_states_are_kept_by_all_or_none():
    with_states = reads()
    with_states.states["image"] = torch.zeros(2, 5, 3)
    for pair in ([with_states, reads(ids="abcde")], [reads(ids="abcde"), with_states]):
        with pytest.raises(ValueError, match="states that they keep"):
            Reads.concat(pair)


def test_nan_is_refused_where_it_would_count():
    spoilt = reads()
    spoilt.log_probs[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match="1 of 5 samples, first at layer 1, condition 'language'"):
        spoilt.posteriors()
    assert torch.isfinite(spoilt.rows([0, 1, 2, 4]).posteriors()).all()


def test_nothing_to_concat():
    with pytest.raises(ValueError, match="no reads"):
        Reads.concat([])


def test_join_aligns_samples():
    def one(seed, ids):
        whole = reads(seed=seed, ids=ids)
        return Reads.from_posteriors(whole.log_probs[:, :1], conditions=["plain"], ids=ids)

    a, b = one(0, list("abcde")), one(1, list("edcba"))
    joined = Reads.join(full=a, blind=b)
    assert joined.conditions == ("full", "blind")
    assert torch.equal(joined.log_probs[:, 1], b.log_probs[:, 0].flip(1))
    with pytest.raises(ValueError, match="same samples"):
        Reads.join(full=a, blind=one(1, list("fghij")))


def test_a_file_keeps_everything(tmp_path):
    record = reads(labels=[0, 1, 2, 0, 1], settings={"seed": 3, "conditions": {"full": []}})
    record.states["image"] = torch.randn(2, 5, 7)
    record.save(tmp_path / "reads.safetensors")
    again = Reads.load(tmp_path / "reads.safetensors")
    for name in ("ids", "conditions", "layers", "settings"):
        assert getattr(again, name) == getattr(record, name)
    for name in ("log_probs", "options", "labels"):
        assert torch.equal(getattr(again, name), getattr(record, name))
    assert torch.equal(again.states["image"], record.states["image"])
    one, other = BROJA().update(record).result(), BROJA().update(again).result()
    assert torch.equal(one.synergy, other.synergy)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text").write_text("not a record")
    with pytest.raises(ValueError, match="not a safetensors file"):
        Reads.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        Reads.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        reads().save(tmp_path / "nowhere" / "reads")


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"log_p must be \[layers"):
        Reads.from_posteriors(torch.zeros(3, 2, 2))
    even = torch.full((1, 3, 2, 2), 0.5).log()
    for name in ("ids", "labels"):
        with pytest.raises(ValueError, match=f"as many {name}"):
            Reads.from_posteriors(even, **{name: [0]})
    with pytest.raises(ValueError, match="name them, conditions="):
        Reads.from_posteriors(even[:, :2])
    with pytest.raises(ValueError, match="nothing to join"):
        Reads.join()
    with pytest.raises(ValueError, match="no condition 'blind'"):
        reads().index("blind")


def test_a_buffer_keeps_settings_and_survives_failure():
    """What was spilled mixes with what comes after; a refusal changes nothing."""
    even = torch.full((1, 3, 5, 2), 0.5).log()

    def part(name, **settings):
        return Reads.from_posteriors(even, ids=[f"{name}{i}" for i in range(5)], settings=settings)

    pile = ReadsBuffer(memory=0)
    for name in "abc":
        pile.add(part(name, prompt=("x", "y")))
    assert [p.on_disk for p in pile.parts] == [True, False]
    with pytest.raises(ValueError, match="settings"):
        pile.add(part("d", prompt=("z",)))
    assert pile.whole().n == 15
    for copy in (pickle.loads(pickle.dumps(pile)), deepcopy(pile)):
        copy.add(part("e", prompt=("x", "y")))
        assert copy.whole().n == 20
    assert pile.whole().n == 15
