"""Experiments that somebody has: two lines are added, and what they find stays what it was."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path

import nnsight
import pytest
import torch
from pid_lens.adapters.nnsight import readout
from pid_lens.adapters.transformer_lens import bridged
from tiny import in_nnsight

import pid_lens
from pid_lens import Lens
from pid_lens.forward import ForkEditError

SCRIPTS = Path(__file__).parent / "experiments"

RUN = {
    "nnsight": re.compile(r"^with torch\.no_grad\(\), model\.trace\(\*\*inputs\):\n", re.M),
    "bridge": re.compile(r"^with torch\.no_grad\(\):\n", re.M),
}
"""The line that opens a run of the model, in either framework."""


def added(script: str, at: int, before: str) -> str:
    """A script with a line put around one of its runs, which is indented under it."""
    framework = script.partition("_")[0]
    source = (SCRIPTS / f"{script}.py").read_text()
    run = list(RUN[framework].finditer(source))[at]
    tail = source[run.end() :]
    block = re.match(r"(?:[ \t].*\n|\n(?=[ \t]))*", tail)
    inner = run.group() + block.group()
    return source[: run.start()] + before + textwrap.indent(inner, "    ") + tail[block.end() :]


def forked(script: str, at: int) -> str:
    """A lens around one run."""
    return added(script, at, "with lens(batch):\n")


def replayed(script: str, at: int) -> str:
    """One run, once a view."""
    source = added(script, at, "for view in lens.views(batch):\n")
    return source.replace("lens.views(batch):\n    with ", "lens.views(batch):\n    with view, ")


def streamed(script: str, at: int) -> str:
    """The in-trace function as the first line of a run's block."""
    source = (SCRIPTS / f"{script}.py").read_text()
    run = list(RUN["nnsight"].finditer(source))[at]
    call = "    stream = readout(model, batch=batch)\n"
    return source[: run.end()] + call + source[run.end() :]


@pytest.fixture(scope="module")
def digits():
    """The shipped model with attention that hands out its weights, some digits, moments."""
    model, _ = pid_lens.demo.load()
    model.set_attn_implementation("eager")
    batches = list(pid_lens.demo.batches("synergy", n=32, batch_size=8))
    return model, batches[0], pid_lens.calibrate(model, batches)


def wrapped(framework: str):
    model, _ = pid_lens.demo.load()
    model.set_attn_implementation("eager")
    return in_nnsight(model) if framework == "nnsight" else bridged(model)


def run(source: str, tmp_path: Path, framework: str, batch, lens=None, model=None):
    """A script's own result, in a world where a model and its inputs are there."""
    number = len(list(tmp_path.iterdir()))  # nnsight reads each file once
    path = tmp_path / f"experiment_{number}.py"
    path.write_text(source)
    inputs = dict(batch.inputs)
    names = {
        "torch": torch,
        "nnsight": nnsight,
        "model": model or wrapped(framework),
        "inputs": inputs,
        "ids": inputs["input_ids"],
        "vision": {name: value for name, value in inputs.items() if name != "input_ids"},
        "batch": batch,
        "lens": lens,
        "readout": readout,
    }
    return runpy.run_path(str(path), init_globals=names)


def plain(digits, edit, **options):
    """What a lens reads of the plain model, under the same edit by a plain hook."""
    model, batch, moments = digits
    lens = Lens(model, moments=moments, check=False, **options)
    layers = pid_lens.dissect(model).layers
    layer, hook = edit or (0, lambda module, args, output: None)
    handle = layers[layer].register_forward_hook(hook)
    with torch.no_grad():
        for view in lens.views(batch):
            with view:
                model(**batch.inputs)
    handle.remove()
    return lens.reads.log_probs


def patch(module, args, output):
    output = output.clone()
    output[1, -1] = output[0, -1]
    return output


def steer(module, args, output):
    return output + 4 * torch.linspace(-1, 1, output.shape[-1])


EDITS = {"patching": (1, patch), "steering": (2, steer), "patterns": None}
LAST = {"patching": 1, "steering": 1, "patterns": 0}
"""Which run of a script is the experiment's."""
SCRIPTS_OF = [(f, kind) for f in RUN for kind in EDITS]


@pytest.mark.parametrize(("framework", "kind"), SCRIPTS_OF)
def test_replay_changes_not_a_bit(digits, tmp_path, framework, kind):
    _, batch, moments = digits
    script, model = f"{framework}_{kind}", wrapped(framework)
    before = run((SCRIPTS / f"{script}.py").read_text(), tmp_path, framework, batch)["result"]
    lens = Lens(model, moments=moments, check=False)
    source = replayed(script, LAST[kind])
    after = run(source, tmp_path, framework, batch, lens, model)["result"]
    assert torch.equal(after, before)
    torch.testing.assert_close(lens.reads.log_probs, plain(digits, EDITS[kind]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("framework", "kind"), SCRIPTS_OF)
def test_a_fork_changes_nothing_and_costs_one_pass(digits, tmp_path, framework, kind):
    """The patch names rows, so that its own run is refused; the run without it is not."""
    _, batch, moments = digits
    script, model = f"{framework}_{kind}", wrapped(framework)
    before = run((SCRIPTS / f"{script}.py").read_text(), tmp_path, framework, batch)["result"]
    lens = Lens(model, moments=moments, fork_edits=kind == "steering", check=False)
    at = 0 if kind == "patching" else LAST[kind]
    after = run(forked(script, at), tmp_path, framework, batch, lens, model)["result"]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    edit = None if kind == "patching" else EDITS[kind]
    torch.testing.assert_close(lens.reads.log_probs, plain(digits, edit), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["patching", "steering"])
@pytest.mark.parametrize("framework", RUN)
def test_an_edit_in_a_fork_is_refused_unless_it_is_meant(digits, tmp_path, framework, kind):
    _, batch, moments = digits
    model = wrapped(framework)
    lens = Lens(model, moments=moments)
    source = forked(f"{framework}_{kind}", 1)
    with pytest.raises(ForkEditError, match=r"lens\.views\(\).*fork_edits=True"):
        run(source, tmp_path, framework, batch, lens, model)


@pytest.mark.parametrize("kind", EDITS)
def test_a_readout_inside_changes_not_a_bit(digits, tmp_path, kind):
    _, batch, _ = digits
    script = f"nnsight_{kind}"
    before = run((SCRIPTS / f"{script}.py").read_text(), tmp_path, "nnsight", batch)["result"]
    names = run(streamed(script, LAST[kind]), tmp_path, "nnsight", batch)
    assert torch.equal(names["result"], before)
    expected = plain(digits, EDITS[kind], conditions={"full": []})
    torch.testing.assert_close(names["stream"].reads.log_probs, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["patching", "steering"])
def test_the_edits_matter(digits, kind):
    untouched = plain(digits, None)
    assert (plain(digits, EDITS[kind]) - untouched).abs().max() > 0.1
