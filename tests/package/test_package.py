"""The package as a whole: quick to import, tidy, typed, honest about optional parts."""

import subprocess
import sys

import pytest
from paths import ROOT

import pid_lens


def python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )


def test_import_brings_nothing_that_nobody_asked_for(tmp_path):
    heavy = [
        "transformers",
        "matplotlib",
        "pandas",
        "nnsight",
        "transformer_lens",
        "scipy",
        "ot",
        "zuko",
    ]
    done = python(
        f"import sys, pid_lens; print([m for m in {heavy} if m in sys.modules])", cwd=tmp_path
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_adapters_are_part_of_the_installed_package(tmp_path):
    done = python("import pid_lens.adapters.transformers as a; print(a.__name__)", cwd=tmp_path)
    assert done.stdout.strip() == "pid_lens.adapters.transformers", done.stderr


def test_every_public_name_is_there_and_documented():
    for name in pid_lens.__all__:
        assert getattr(pid_lens, name).__doc__, name


def _checked(*command):
    if not (ROOT / "setup.cfg").exists():
        pytest.skip("needs the checkout")
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff():
    _checked("ruff", "check", ".")
    _checked("ruff", "format", "--check", ".")


def test_mypy():
    _checked("mypy")
