"""Results: they add up, subtract, convert, survive a file, draw themselves."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from pid_lens import BROJA, Reads, Spectrum
from pid_lens.results import ATOMS, plot_spectra


@pytest.fixture(scope="module")
def pair():
    """Two spectra over the same samples, of different answers."""

    def spectrum(seed):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(4, 3, 60, 2, generator=generator)
        return BROJA().update(Reads.from_posteriors(logits.log_softmax(-1))).result()

    return spectrum(0), spectrum(1)


def agreeing(spectrum):
    """The same as if the three conditions did not contradict each other."""
    return replace(
        spectrum,
        information=torch.maximum(spectrum.information_vision, spectrum.information_language),
        ess=torch.ones(4).double(),
        feasible=torch.ones(4, dtype=torch.bool),
        fallback=torch.zeros(4, 3).double(),
        doubtful=None,
    )


def test_atoms_add_up(pair):
    for s in pair:
        total = s.redundancy + s.unique_vision + s.unique_language + s.synergy
        torch.testing.assert_close(total, s.information, atol=1e-12, rtol=0)
        torch.testing.assert_close(s.co_information, s.redundancy - s.synergy, atol=1e-12, rtol=0)
        one = s.redundancy + s.unique_vision
        torch.testing.assert_close(one, s.information_vision, atol=1e-12, rtol=0)
        assert sum(s.shares.values()).tolist() == pytest.approx([1] * 4)
        assert s.information.dtype == torch.float64


def test_differences(pair):
    one, other = pair
    change = one - other
    for name in (*ATOMS, "information", "co_information"):
        expected = getattr(one, name) - getattr(other, name)
        torch.testing.assert_close(getattr(change, name), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(change.gap, one.gap + other.gap)
    torch.testing.assert_close(
        change.sensitivity.synergy, one.sensitivity.synergy - other.sensitivity.synergy
    )
    assert "difference" in change.estimator
    assert (one - one).synergy.abs().max() == 0


@pytest.mark.parametrize(
    "other",
    [
        {"ids": ("x",) * 60},
        {"unit": "nats"},
        {"layers": (0, 1, 2, 9)},
        {"estimator": "another"},
        {"settings": {"repair": "tilt"}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_only_the_same_quantity_is_subtracted(pair, other):
    with pytest.raises(ValueError, match="only those of the same samples"):
        pair[0] - replace(pair[1], **other)


def test_pandas(pair):
    table = pair[0].to_pandas()
    assert table.index.name == "layer"
    assert len(table) == 4
    assert table["synergy"].tolist() == pair[0].synergy.tolist()
    assert {"gap", "mismatch", "ess", "feasible", "fallback_vision"} <= set(table)


def test_a_file_keeps_everything(pair, tmp_path):
    pair[0].save(tmp_path / "spectrum.safetensors")
    again = Spectrum.load(tmp_path / "spectrum.safetensors")
    for name in (*ATOMS, "gap", "mismatch", "ess", "fallback", "feasible"):
        assert torch.equal(getattr(again, name), getattr(pair[0], name))
    assert torch.equal(again.sensitivity.synergy, pair[0].sensitivity.synergy)
    assert (again.ids, again.settings, repr(again)) == (
        pair[0].ids,
        pair[0].settings,
        repr(pair[0]),
    )


def test_repr_is_one_line_that_says_the_settings(pair):
    line = repr(pair[0])
    assert "\n" not in line
    for part in ("bits", "n=60", "gap<=", "BROJA", "repair=rake", "tau=0.3"):
        assert part in line


def test_doubtful_layers_are_drawn_hollow(pair):
    doubtful = replace(agreeing(pair[0]), ess=torch.tensor([0.1, 0.9, 0.9, 0.9]).double())
    doubtful = replace(doubtful, feasible=torch.tensor([True, True, False, True]), doubtful=None)
    assert doubtful.doubtful.tolist() == [True, False, True, False]
    ax = doubtful.plot()
    hollow = [
        line.get_xdata().tolist()
        for line in ax.get_lines()
        if line.get_markerfacecolor() == "white" and line.get_marker() != "None"
    ]
    assert hollow == [[0, 2]] * 4
    plt.close(ax.figure)


def test_a_contradiction_is_doubtful(pair):
    sound = agreeing(pair[0])
    assert not sound.doubtful.any()
    for spoilt in (
        {"information": sound.information_vision - 0.06},
        {"gap": torch.full((4,), 0.06).double()},
        {"fallback": torch.full((4, 3), 0.6).double()},
    ):
        assert replace(sound, **spoilt, doubtful=None).doubtful.all()


def test_doubt_of_a_difference_is_that_of_either(pair):
    """A knockout that costs everything is no contradiction; what was one, stays one."""
    sound = agreeing(pair[0])
    nothing = replace(
        sound,
        information=sound.information * 0,
        union=sound.union * 0,
        information_vision=sound.union * 0,
        information_language=sound.union * 0,
    )
    assert not (nothing - sound).doubtful.any()
    assert not (sound - nothing).doubtful.any()
    doubt = torch.tensor([False, True, False, False])
    assert torch.equal((sound - replace(sound, doubtful=doubt)).doubtful, doubt)
    assert torch.equal((replace(sound, doubtful=doubt) - sound).doubtful, doubt)
    assert all(share.isnan().all() for share in (sound - nothing).shares.values())


def test_an_estimator_of_ones_own_need_not_know_of_repairs():
    half = torch.full((2,), 0.5, dtype=torch.float64)
    mine = Spectrum(
        information=half,
        information_vision=half,
        information_language=0 * half,
        union=half,
        gap=0 * half,
        layers=(0, 1),
        ids=("a", "b"),
        estimator="minimum",
    )
    assert not mine.doubtful.any()
    assert len(mine.to_pandas()) == 2
    assert (mine - mine).unique_vision.abs().max() == 0


def test_nothing_has_no_shares(pair):
    nothing = replace(pair[0], information=torch.full((4,), 1e-17).double())
    assert all(share.isnan().all() for share in nothing.shares.values())


def test_plots_draw_the_numbers(pair):
    figure = plot_spectra({"one": pair[0], "other": pair[1]})
    assert [ax.get_title() for ax in figure.axes] == ["one", "other"]
    drawn = [line.get_ydata() for line in figure.axes[1].get_lines() if len(line.get_xdata()) == 4]
    for name in (*ATOMS, "information"):
        values = getattr(pair[1], name)
        assert any(torch.equal(torch.as_tensor(line), values) for line in drawn)
    plt.close(figure)
    _, ax = plt.subplots()
    assert pair[0].plot(ax) is ax
    plt.close("all")
