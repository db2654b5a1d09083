"""What runs on a server: without pid_lens there, from the very bytes of a request."""

from __future__ import annotations

import pickle
import subprocess
import sys

import nnsight
import pytest
import torch
from nnsight import NNsight
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from pid_lens.adapters.nnsight.plan import moments as moments_of
from pid_lens.adapters.nnsight.plan import plan
from pid_lens.adapters.nnsight.remote import carry_out, entering
from tiny import FAMILIES, in_nnsight, make, read

import pid_lens
from pid_lens import Knockout, Mean, Noise, Remove, Zero

ELSEWHERE = {"qwen3_vl", "mllama", "instructblip"}
"""Families whose image or question comes in by other ways too."""
FAMILIES_THERE = [name for name in FAMILIES if name not in ELSEWHERE]

CONDITIONS = {
    "nothing": (),
    "noise": (Noise("image"),),
    "zeros": (Zero("question"),),
    "mean": (Mean("image"),),
    "knockout": (Knockout("image", "question"),),
    "one layer": (Knockout("image", "answer", layers=[1]),),
    "some heads": (Knockout("question", "answer", heads=[0, 3]),),
    "two": (Noise("question"), Knockout("image", "answer")),
}


@pytest.fixture(scope="module", params=FAMILIES_THERE)
def family(request):
    model, batch = make(request.param)
    return model, batch, pid_lens.calibrate(model, [batch])


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_plan_is_carried_out_as_a_lens_reads(family, condition):
    model, batch, moments = family
    hidden = CONDITIONS[condition]
    lens, _ = read(model, batch, moments, conditions={"full": hidden}, layers=[0, 2, -1])
    nn = in_nnsight(model)
    made = plan(nn, batch, *hidden, moments=moments, layers=[0, 2, -1])
    with torch.no_grad(), nn.trace(**batch.inputs):
        answers = carry_out(nn, made.sent).save()
    reads = made.reads(answers)
    torch.testing.assert_close(reads.log_probs, lens.reads.log_probs, atol=1e-5, rtol=0)
    assert reads.ids == lens.reads.ids


def test_moments_from_afar_are_those_of_calibrate(family):
    model, batch, moments = family
    nn = in_nnsight(model)
    with torch.no_grad(), nn.trace(**batch.inputs):
        vectors = entering(nn, plan(nn, batch).sent).save()
    found = moments_of(nn, batch, vectors)
    assert found.fingerprint == moments.fingerprint


SERVER = """
import pickle, sys
import torch

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pid_lens", "adapters", "tiny", "jaxtyping"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
for name in [n for n in sys.modules if n.partition(".")[0] == "pid_lens"]:
    del sys.modules[name]
from nnsight import NNsight
from nnsight.intervention.serialization import CustomCloudUnpickler
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import inc

asked = set()

class Watched(CustomCloudUnpickler):
    def find_class(self, module, name):
        asked.add(module.partition(".")[0])
        return super().find_class(module, name)

with open(sys.argv[1], "rb") as file:
    blob, kind, config, weights = pickle.load(file)
model = kind(config).eval()
model.load_state_dict(weights)
nn = NNsight(model)
parts = {"Interleaver": nn.interleaver, **{f"Module:{e.path}": e._module for e in nn.modules()}}
tracer = RequestModel.deserialize(blob, parts, unpickler=Watched)
inc()
tracer.execute(tracer.info.code)
answers = tracer.info.frame.f_locals["answers"]
assert not any(name.partition(".")[0] == "pid_lens" for name in sys.modules)
with open(sys.argv[2], "wb") as file:
    pickle.dump((answers, sorted(asked)), file)
"""

INSTALLED_THERE = {
    "torch",
    "nnsight",
    "builtins",
    "collections",
    "cloudpickle",
    "typing",
    "types",
    "copyreg",
}


class Kept(Backend):
    """A backend that keeps the request instead of sending it."""

    def __call__(self, tracer):
        self.request = RequestModel.serialize(tracer)


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl"])
def test_a_server_needs_no_pid_lens(name, tmp_path):
    """The bytes of the request are run in a process that cannot import pid_lens."""
    model, batch = make(name)
    moments = pid_lens.calibrate(model, [batch])
    hidden = (Noise("question"), Knockout("image", "answer", layers=[1, 2]))
    lens, _ = read(model, batch, moments, conditions={"full": hidden})
    nn = in_nnsight(model)
    made = plan(nn, batch, *hidden, moments=moments)
    sent, kept = made.sent, Kept()
    nnsight.register("pid_lens")
    try:
        with torch.no_grad(), nn.trace(**batch.inputs, backend=kept):
            answers = carry_out(nn, sent).save()
    finally:
        unregister("pid_lens")
    there, back = tmp_path / "request", tmp_path / "response"
    there.write_bytes(pickled(kept.request, model))
    subprocess.run([sys.executable, "-c", SERVER, there, back], check=True, cwd=tmp_path)
    answers, asked = pickle.loads(back.read_bytes())
    torch.testing.assert_close(
        made.reads(answers).log_probs, lens.reads.log_probs, atol=1e-5, rtol=0
    )
    assert set(asked) <= INSTALLED_THERE, asked


def pickled(request, model):
    """A request, and what its server has."""
    return pickle.dumps((request, type(model), model.config, model.state_dict()))


def unregister(module):
    import cloudpickle

    cloudpickle.unregister_pickle_by_value(sys.modules[module])


def test_without_registering_the_server_misses_pid_lens(tmp_path):
    """The proof above can fail: without its one line the same request does not run."""
    model, batch = make("llava")
    nn = in_nnsight(model)
    sent, kept = plan(nn, batch).sent, Kept()
    with torch.no_grad(), nn.trace(**batch.inputs, backend=kept):
        answers = carry_out(nn, sent).save()  # noqa: F841
    there = tmp_path / "request"
    there.write_bytes(pickled(kept.request, model))
    done = subprocess.run(
        [sys.executable, "-c", SERVER, there, tmp_path / "response"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "No module named 'pid_lens'" in done.stderr


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_other_entrances_are_refused(name):
    model, batch = make(name)
    with pytest.raises(ValueError, match="through more than its embeddings"):
        plan(model, batch)


def wrong_answers(model, batch):
    plan(model, batch).reads(torch.zeros(3, 4, 2))


def removal(model, batch):
    plan(model, batch, Remove("image"))


def no_moments(model, batch):
    plan(model, batch, Noise("image"))


def other_embeddings(model, batch):
    moments_of(model, batch, torch.zeros(1, 2, 3))


WRONG = {
    wrong_answers: r"\[4, 4, 2\]; got \[3, 4, 2\]",
    removal: "renumbers positions",
    no_moments: "needs the moments",
    other_embeddings: r"got \[1, 2, 3\]",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_errors_say_what_was_expected(llava, wrong):
    model, batch, _ = llava
    with pytest.raises(ValueError, match=WRONG[wrong]):
        wrong(NNsight(model), batch)
