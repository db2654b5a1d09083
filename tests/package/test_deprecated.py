"""The names of version 0.1 still work, and say where everything is now."""

import copy
import importlib
import importlib.util
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from paths import README

import pid_lens
from pid_lens.deprecated import MODULES, RENAMED

STAYED = """
BATCH BROJA Anatomy Batch ConceptBottleneck ContextualContribution Curve Donors FlowPID
GaussianPID InfoNCE Knockout Lens LogitLens Mean Moments Noise Pooled Reads Remove Resample Spans
Spectrum TunedLens Zero batch calibrate check collect compare decompose demo dissect intervene
region spectrum truth tune
"""
LEFT = """
Atoms Checked Estimator ForkEditError Intervention OptionScores Readout Samples batch_pid
concept_information discrete_pid flow_pid gaussian_pid mutual_information posterior_pid
question_groups score_options
"""
CALLER = "/home/you/yours.py"


@pytest.fixture(autouse=True)
def _imported_by_nobody():
    """Before and after each test: no old module has been imported."""
    forget_old_modules()
    yield
    forget_old_modules()


def forget_old_modules():
    for name in sorted(MODULES, reverse=True):
        parent, _, child = f"pid_lens.{name}".rpartition(".")
        if sys.modules.pop(f"{parent}.{child}", None):
            vars(sys.modules[parent]).pop(child, None)


def run(code):
    """What a caller's file defines, and what our deprecations tell it."""
    names = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(code, CALLER, "exec"), names)
    told = [one for one in caught if "pid_lens" in str(one.message)]
    assert {(one.category, one.filename) for one in told} <= {(DeprecationWarning, CALLER)}
    return names, [str(one.message) for one in told]


@pytest.mark.parametrize("name", STAYED.split())
def test_what_stayed_is_there_without_a_word(name):
    found, told = run(f"import pid_lens\nfound = pid_lens.{name}\nfrom pid_lens import {name}")
    assert found["found"] is found[name] is getattr(pid_lens, name)
    assert told == []


@pytest.mark.parametrize("name", LEFT.split())
@pytest.mark.parametrize(
    "ask", ["import pid_lens; x = pid_lens.{}", "from pid_lens import {} as x"]
)
def test_what_left_is_there_and_says_where_it_is_once(name, ask):
    found, [told] = run(ask.format(name))
    assert told.startswith(f"pid_lens.{name} has moved: from pid_lens.")
    moved, nothing = run(told.partition(": ")[2])
    assert found["x"] is moved[name]
    assert nothing == []


def test_effects_of_a_change_are_its_own():
    logits = torch.randn(2, 2, 3, 60, 2, generator=torch.Generator().manual_seed(0))
    change = pid_lens.compare(
        *(
            pid_lens.BROJA().update(pid_lens.Reads.from_posteriors(one.log_softmax(-1))).result()
            for one in logits
        )
    )
    found, [told] = run("from pid_lens import effects")
    assert found["effects"](change).equals(change.effects())
    assert told == "pid_lens.effects(change) is now change.effects()"


@pytest.mark.parametrize("old", MODULES)
def test_an_old_module_is_imported_and_says_which_it_is_now(old):
    for ask in (f"import pid_lens.{old}", f"from pid_lens.{old} import __name__"):
        forget_old_modules()
        told = run(ask)[1]
        homes = [f"pid_lens.{home}" for home in MODULES[old].split()]
        assert told[-1] == f"pid_lens.{old} is now {' and '.join(homes)}"
        assert len(told) == len([one for one in MODULES if f"{old}.".startswith(f"{one}.")])
    for home in homes:
        assert importlib.util.find_spec(home).origin, home
        importlib.import_module(home)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("plots", "results", "STYLE"),
        ("watching", "forward", "ForkEditError"),
        ("protocols", "readouts", "Readout"),
        ("protocols", "estimators", "Estimator"),
        ("options.scoring", "scoring", "score_options"),
        ("estimators.exact.crossfit", "estimators", "cross_fitted"),
        ("adapters.nnsight_plan", "adapters.nnsight.plan", "plan"),
    ],
)
def test_an_old_module_holds_what_it_held(old, new, name):
    moved = getattr(importlib.import_module(f"pid_lens.{new}"), name)
    found, told = run(f"from pid_lens.{old} import {name}\nimport pid_lens.{old} as module")
    assert found[name] is getattr(found["module"], name) is moved
    assert told[-1].startswith(f"pid_lens.{old} is now ")


@pytest.mark.parametrize("name", RENAMED)
def test_what_an_extension_may_have_used_is_found_by_its_old_name(name):
    modules = [importlib.import_module(f"pid_lens.{old}") for old in MODULES]
    found = {getattr(module, name).__name__ for module in modules if hasattr(module, name)}
    assert found == {RENAMED[name]}


def test_an_old_module_is_an_attribute_of_the_package():
    found, told = run(
        "import pid_lens as p\nx = p.plots.STYLE\ny = p.options.scoring.score_options"
    )
    assert found["x"] is pid_lens.results.STYLE
    assert found["y"] is pid_lens.scoring.score_options
    assert [one.split(" is now ")[0] for one in told] == ["pid_lens.plots", "pid_lens.options"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import pid_lens; pid_lens.nope", AttributeError),
        ("from pid_lens import nope", ImportError),
        ("import pid_lens.nope", ModuleNotFoundError),
        ("import pid_lens.estimators.nope", ModuleNotFoundError),
        ("import pid_lens; pid_lens.plots.nope", AttributeError),
        ("from pid_lens.plots import nope", ImportError),
        ("from pid_lens.estimators.exact.crossfit import nope", ImportError),
        ("import pid_lens.plots.nope", ModuleNotFoundError),
    ],
)
def test_names_that_meant_nothing_mean_nothing(code, kind):
    with pytest.raises(kind, match="nope"):
        run(code)


def test_nothing_but_the_old_names_is_found():
    assert not {*LEFT.split(), "effects", *MODULES} & {*dir(pid_lens)}
    assert importlib.util.find_spec("pid_lens.nope") is None
    assert importlib.util.find_spec("moments") is None
    assert importlib.util.find_spec("pid_lens.spans").name == "pid_lens.spans"
    assert "pid_lens.spans" not in sys.modules


def test_objects_are_copied_and_pickled_by_their_new_names_and_read_by_their_old():
    knockout = pid_lens.Knockout("image", "question", layers=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickled = pickle.dumps(knockout, protocol=0)
        assert copy.copy(knockout) == copy.deepcopy(knockout) == pickle.loads(pickled) == knockout
    assert b"pid_lens.interventions.knockout" in pickled
    spectra = pickle.dumps(pid_lens.Spectrum, protocol=0)
    old = spectra.replace(b"pid_lens.results.spectrum", b"pid_lens.spectra")
    found, [told] = run(f"import pickle\nfound = pickle.loads({old!r})")
    assert found["found"] is pid_lens.Spectrum
    assert "pid_lens.results.spectrum" in told


def test_the_package_and_the_readmes_first_example_use_no_old_name(tmp_path):
    if not README.exists():
        pytest.skip("needs the checkout")
    example = re.search(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)[1]
    command = [sys.executable, "-W", "always::DeprecationWarning", "-c", example]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "pid_lens" in done.stdout or "Spectrum" in done.stdout
    assert "DeprecationWarning: pid_lens" not in done.stderr
