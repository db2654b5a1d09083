"""Curves: one quantity at every layer, its error, its cap, and differences."""

import math
from dataclasses import replace

import pytest
import torch

from pid_lens.results import Curve

SETTINGS = {"components": 8, "constants": "default", "folds": 3, "target": "last", "seed": 0}


def curve(seed=0, n=40, *, mean=1.0, cap=None, **changes):
    """Two layers, the second with a mean of its own."""
    generator = torch.Generator().manual_seed(seed)
    values = 0.1 * torch.randn(2, n, generator=generator, dtype=torch.float64)
    given = {
        "name": "information",
        "pointwise": values + torch.tensor([[1.0], [mean]]),
        "layers": (0, 3),
        "ids": tuple(f"sample {row}" for row in range(n)),
        "estimator": "Mine",
        "settings": dict(SETTINGS),
        "cap": None if cap is None else torch.full((2,), cap, dtype=torch.float64),
    }
    return Curve(**{**given, **changes})


def test_value_error_and_interval():
    found = curve(n=400)
    torch.testing.assert_close(found.value, found.pointwise.mean(1))
    torch.testing.assert_close(found.error, found.pointwise.std(1) / 20)
    low, high = found.interval(0.9)
    torch.testing.assert_close(high - found.value, 1.6448536 * found.error)
    torch.testing.assert_close(found.value - low, high - found.value)


@pytest.mark.parametrize("level", [95, 0, 1, -0.5, math.nan])
def test_a_level_is_a_probability(level):
    with pytest.raises(ValueError, match=r"level is a probability such as 0.95"):
        curve().interval(level)


def test_clusters_count_once():
    found = curve(n=40)
    four = replace(
        found,
        pointwise=found.pointwise.repeat(1, 4),
        ids=tuple(map(str, range(160))),
        groups=torch.arange(40).repeat(4),
    )
    torch.testing.assert_close(four.error, found.error)
    assert (replace(four, groups=None).error < 0.6 * found.error).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": (0,)}, r"pointwise must be \[layers, n\] = \[1, 3\]; got \[2, 3\]"),
        ({"ids": ("a", "b", "a")}, "1 of the ids occur more than once, such as 'a'"),
        ({"ids": ("a", "b")}, r"\[2, 2\]; got \[2, 3\]"),
    ],
)
def test_bad_records(change, said):
    with pytest.raises(ValueError, match=said):
        curve(n=3, **change)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad):
    values = torch.ones(2, 3, dtype=torch.float64)
    values[1, 2] = bad
    with pytest.raises(ValueError, match=f"got {bad} at layer 3, sample 'sample 2'"):
        curve(n=3, pointwise=values)


def test_near_the_cap_by_itself_or_by_a_part():
    low, high = curve(cap=4.0), curve(cap=4.0, mean=3.9)
    assert low.near_cap.tolist() == [False, False]
    assert high.near_cap.tolist() == [False, True]
    assert replace(low, cap=None).near_cap.tolist() == [False, False]
    for parts in ({"one": low, "other": high}, {"nested": curve(parts={"high": high})}):
        assert curve(parts=parts).near_cap.tolist() == [False, True]
    assert curve(parts={"one": low}).near_cap.tolist() == [False, False]
    assert "1 near the cap" in repr(high)
    assert "near the cap" not in repr(low)


# ---------------------------------------------------------------- differences


def test_a_difference_is_paired_by_sample():
    one, other = curve(0), curve(1, mean=0.5)
    order = list(reversed(range(40)))
    turned = replace(
        other, pointwise=other.pointwise[:, order], ids=tuple(other.ids[row] for row in order)
    )
    for baseline in (other, turned):
        change = one - baseline
        assert torch.equal(change.pointwise, one.pointwise - other.pointwise)
        assert change.ids == one.ids
        assert change.estimator == "difference of Mine"
        assert change.parts == {"changed": one, "baseline": baseline}
    assert (one - one).error.tolist() == [0, 0]


def test_a_difference_of_what_is_near_its_cap_says_so():
    low, high = curve(cap=4.0), curve(1, cap=4.0, mean=3.9)
    for change in (high - low, low - high, high - high, (high - low) - (low - low)):
        assert change.cap is None
        assert change.near_cap.tolist() == [False, True]
    assert not (low - low).near_cap.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("components", 16), ("constants", "paper"), ("folds", 2), ("target", "same")],
)
def test_other_settings_are_another_quantity(name, value):
    other = curve(settings={**SETTINGS, name: value})
    with pytest.raises(ValueError, match=f"differ in {name}"):
        curve() - other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "contribution"}, "name"),
        ({"unit": "nats"}, "unit"),
        ({"layers": (0, 4)}, "layers"),
        ({"estimator": "Theirs"}, "estimator"),
        ({"ids": tuple(f"sample {row}" for row in range(1, 41))}, r"samples \(2 are in one"),
    ],
)
def test_other_curves_are_refused(change, said):
    with pytest.raises(ValueError, match=f"differ in {said}"):
        curve() - curve(**change)
    with pytest.raises(TypeError):
        curve() - 1.0


def test_what_was_read_may_differ():
    """Noise, model and seed are what is compared, or chance."""
    reads = {"model": "one", "noise": "gaussian", "seed": 1}
    other = curve(settings={**SETTINGS, **reads})
    assert (curve() - other).settings["minus"] == other.settings


def test_clusters_of_a_difference():
    groups = torch.arange(40) // 4
    for one, other in ((groups, None), (None, groups), (groups, 9 - groups)):
        change = curve(groups=one) - curve(1, groups=other)
        assert len(change.groups.unique()) == 10
        torch.testing.assert_close(change.error, replace(change, groups=groups).error)
    with pytest.raises(ValueError, match="group their samples differently"):
        curve(groups=groups) - curve(groups=torch.arange(40) // 5)


# ---------------------------------------------------------------- records


def test_a_table_with_every_part_s_cap():
    table = (curve(cap=4.0, mean=3.9) - curve(1, cap=8.0)).to_pandas()
    assert table.index.tolist() == [0, 3]
    assert table.columns.tolist() == [
        *("value", "error", "near_cap"),
        *(f"changed{end}" for end in ("", "_error", "_near_cap", "_cap")),
        *(f"baseline{end}" for end in ("", "_error", "_near_cap", "_cap")),
    ]
    assert table.near_cap.tolist() == table.changed_near_cap.tolist() == [False, True]
    assert table.baseline_cap.tolist() == [8, 8]
    assert (table.changed - table.baseline).tolist() == pytest.approx(table.value.tolist())


def test_units():
    change = curve(cap=4.0, mean=3.9) - curve(1, cap=4.0)
    nats = change.to("nats")
    torch.testing.assert_close(nats.value, change.value * math.log(2))
    torch.testing.assert_close(
        nats.parts["changed"].cap, torch.full((2,), 4.0).double() * math.log(2)
    )
    assert nats.near_cap.tolist() == change.near_cap.tolist()
    torch.testing.assert_close(nats.to("bits").pointwise, change.pointwise)
    with pytest.raises(ValueError, match="unit must be"):
        change.to("bans")


def test_saved_and_loaded(tmp_path):
    groups = torch.arange(40) // 4
    change = (curve(cap=4.0, mean=3.9, groups=groups) - curve(1)) - (curve(2) - curve(3))
    change.save(tmp_path / "curve.safetensors")
    again = Curve.load(tmp_path / "curve.safetensors")
    assert repr(again) == repr(change)
    assert again.settings == change.settings
    assert again.to_pandas().equals(change.to_pandas())
    assert torch.equal(again.parts["changed"].parts["changed"].cap, torch.full((2,), 4.0).double())
    assert torch.equal(again.groups, groups)


def test_a_drawing_shows_the_parts():
    ax = (curve(cap=4.0, mean=3.9) - curve(1, cap=4.0)).plot()
    assert {"information", "changed", "baseline"} <= set(ax.get_legend_handles_labels()[1])
