"""Where the image passes in the digits model: by the question, and in its first layers."""

import pytest
import torch

import pid_lens
from pid_lens import Knockout, Lens, compare

ROUTES = {
    "question": [Knockout("image", "question")],
    "answer": [Knockout("image", "answer")],
    "both": [Knockout("image", "question"), Knockout("image", "answer")],
}


@pytest.fixture(scope="module")
def spectra(digits_model, digits_moments):
    """The spectrum of a task under some interventions, computed once."""
    model, processor = digits_model
    known = {}

    def of(task, hidden=()):
        if (task, *hidden) not in known:
            lens = Lens(
                model,
                processor,
                choices=("A", "B"),
                moments=digits_moments[task],
                interventions=list(hidden),
            )
            with torch.no_grad():
                for batch in pid_lens.demo.batches(task, n=150):
                    with lens(batch):
                        model(**batch.inputs)
            known[(task, *hidden)] = lens.spectrum()
        return known[(task, *hidden)]

    return of


@pytest.mark.parametrize(("task", "atom"), [("vision", "unique_vision"), ("synergy", "synergy")])
def test_closing_both_routes_leaves_nothing_that_needs_the_image(spectra, task, atom):
    assert getattr(spectra(task), atom)[-1] > 0.9
    closed = spectra(task, ROUTES["both"])
    assert getattr(closed, atom)[-1] < 0.05
    assert closed.information[-1] < 0.05


@pytest.mark.parametrize("route", ROUTES)
def test_the_language_task_is_untouched(spectra, route):
    before, after = spectra("language"), spectra("language", ROUTES[route])
    change = after.unique_language - before.unique_language
    assert change[2:].abs().max() < 0.01


@pytest.mark.parametrize(("task", "atom"), [("vision", "unique_vision"), ("synergy", "synergy")])
def test_the_image_passes_by_the_question(spectra, task, atom):
    assert getattr(spectra(task, ROUTES["question"]), atom)[-1] < 0.05
    assert getattr(spectra(task, ROUTES["answer"]), atom)[-1] > 0.9


def test_without_the_image_a_redundant_answer_is_read_off_the_caption(spectra):
    closed = spectra("redundant", ROUTES["question"])
    assert spectra("redundant").redundancy[-1] > 0.9
    assert closed.redundancy[-1] < 0.05
    assert closed.unique_language[-1] > 0.9


def test_a_knockout_is_summed_up_by_three_figures_with_errors(spectra):
    before, after = spectra("vision"), spectra("vision", ROUTES["question"])
    found = compare(after, before).effects().iloc[-1]
    assert found["trapped visual-unique information"] < -0.9
    assert abs(found["compensatory synergy"]) < 0.01
    assert found["total information cost"] == pytest.approx(
        -float(before.information[-1]), abs=0.01
    )
    errors = [value for name, value in found.items() if name.endswith("error")]
    assert len(errors) == 3
    assert max(errors) < 0.05
    with pytest.raises(ValueError, match=r"compare\(with_it, without\)\.effects\(\)"):
        before.effects()


def test_windows_of_layers_say_where_it_passes(spectra):
    """In the first one; what it leaves out there no other layer makes up for."""
    windows = [Knockout.window("image", "question", at, of=6, width=1) for at in range(6)]
    alone = [float(spectra("vision", [one]).unique_vision[-1]) for one in windows]
    assert alone[0] < 0.05
    assert min(alone[1:]) > 0.8
    late = spectra("vision", [Knockout("image", "question", layers=range(1, 6))])
    assert late.unique_vision[-1] < 0.9
