"""Fixtures that many test files share."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # as many processes as cores, one thread each

import matplotlib as mpl
import pytest
import torch
from bridges import COMPUTED, DELEGATED, both
from tiny import FAMILIES, in_nnsight, make

import pid_lens

mpl.use("agg")

collect_ignore = ["adapters/experiments"]  # scripts that test_existing_experiments.py runs


class InstallationTried(BaseException):
    """Somebody wanted to install something while tests run."""


def _refuse_installations(event, arguments):
    """Packages that others install on their own account replace what is tested."""
    if event == "subprocess.Popen":
        command = " ".join(map(str, arguments[1] or [arguments[0]]))
        if " install" in command and ("pip" in command or "uv " in command):
            raise InstallationTried(command)


sys.addaudithook(_refuse_installations)


@pytest.fixture(scope="session")
def digits_model():
    return pid_lens.demo.load()


@pytest.fixture(scope="session")
def digits_moments(digits_model):
    model, _ = digits_model
    return {
        task: pid_lens.calibrate(model, pid_lens.demo.batches(task, split="train", n=256))
        for task in ("vision", "language", "redundant", "synergy")
    }


@pytest.fixture(params=FAMILIES)
def family_with_moments(request):
    """A tiny random model of each family, a batch for it, and its moments."""
    model, batch = make(request.param)
    return model, batch, pid_lens.calibrate(model, [batch])


@pytest.fixture
def llava():
    """A tiny random LLaVA, a batch for it, and its moments."""
    model, batch = make("llava")
    return model, batch, pid_lens.calibrate(model, [batch])


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads beside another busy process are slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(params=(*COMPUTED, *DELEGATED), scope="module")
def pair(request):
    return both(request.param)


@pytest.fixture(params=COMPUTED, scope="module")
def computed(request):
    return both(request.param)


@pytest.fixture(params=["llava", "qwen2_5_vl"], scope="module")
def either(request):
    """One family of each way of closing attention."""
    return both(request.param)


@pytest.fixture(scope="module")
def llava_pair():
    return both("llava")


@pytest.fixture(params=FAMILIES)
def traced(request):
    """A tiny model of each family and the same in nnsight, a batch, and moments of both."""
    model, batch = make(request.param)
    moments = pid_lens.calibrate(model, [batch])
    return model, in_nnsight(model), batch, moments


@pytest.fixture
def llava_in_nnsight(llava):
    model, batch, moments = llava
    return model, in_nnsight(model), batch, moments
