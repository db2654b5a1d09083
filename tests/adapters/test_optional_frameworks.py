"""Neither framework is needed; other versions are named; nothing is ever installed."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import InstallationTried
from paths import ROOT
from pid_lens.adapters.versions import require_version
from transformer_lens.model_bridge.sources.transformers import helpers

import pid_lens

WITHOUT = """
import importlib.abc, importlib.metadata, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nnsight", "transformer_lens"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
version = importlib.metadata.version

def hidden(name):
    if name in ("nnsight", "transformer-lens"):
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.metadata.version = hidden

import pid_lens, torch
model, processor = pid_lens.demo.load()
batches = list(pid_lens.demo.batches("vision", n=64))
closed = [pid_lens.Knockout("image", "question")]
found = pid_lens.spectrum(model, batches, processor=processor)
without = pid_lens.spectrum(model, batches, processor=processor, interventions=closed)
with torch.no_grad(), pid_lens.intervene(model, *closed, spans=batches[0].spans):
    model(**batches[0].inputs)
assert found.unique_vision[-1] > .5 > without.unique_vision[-1]
assert pid_lens.check(model, batches[0], processor=processor).ok
assert not {"nnsight", "transformer_lens"} & set(sys.modules)
needed = {"nnsight": "nnsight>=0.8,<0.9", "transformer_lens": "transformer-lens>=4.3,<4.4"}
for adapter, said in needed.items():
    try:
        __import__(f"pid_lens.adapters.{adapter}")
    except ImportError as error:
        assert said in str(error), error
    else:
        raise AssertionError(f"{adapter} is there")
print("all well")
"""


def test_everything_else_works_without_both():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "all well", done.stderr


@pytest.mark.parametrize("package", ["nnsight", "transformer-lens"])
@pytest.mark.parametrize(("first", "below"), [("0.1", "0.2"), ("90", "91"), ("0.8.9", "0.9")])
def test_another_version_is_refused_by_the_range_that_was_tried(package, first, below):
    installed = importlib.metadata.version(package)
    said = f"tried with {package} >={first},<{below}, and {installed} is installed"
    with pytest.raises(ImportError, match=re.escape(said)):
        require_version(package, first, below)
    require_version(package, installed, "99")


@pytest.mark.parametrize("package", ["nnsight", "transformer-lens"])
def test_the_range_that_was_tried_is_the_one_that_is_asked_for(package):
    """What the adapter says, what the extra asks for, and what is installed here agree."""
    asked = next(
        one for one in importlib.metadata.requires("pid_lens") if one.startswith(f"{package}<")
    )
    below, first = re.match(rf"{package}<([\d.]+),>=([\d.]+)", asked).groups()
    internals = f"adapters/{package.replace('-', '_')}/internals.py"
    source = (Path(pid_lens.__file__).parents[1] / internals).read_text()
    assert f'require_version("{package}", "{first}", "{below}")' in source


def test_an_installation_that_somebody_sets_off_is_noticed():
    """TransformerLens's own, which replaces torch on a machine without a GPU."""
    with pytest.raises(InstallationTried, match="torchvision"):
        helpers._ensure_torchvision()


def test_nobody_here_calls_what_installs():
    calls = re.compile(r"boot_transformers\(|_ensure_torchvision\(|pip install torchvision")
    for folder in ("pid_lens", "adapters", "tests", "tutorials"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".ipynb") and path.name != Path(__file__).name:
                assert not calls.search(path.read_text()), path
