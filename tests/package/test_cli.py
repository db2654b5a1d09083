"""The command line, as its users run it."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from PIL import Image

import pid_lens
from pid_lens.cli import main

ATOMS = ["redundancy", "unique_vision", "unique_language", "synergy"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of two tasks' worth of arguments, shared by the tests below."""
    out = tmp_path_factory.mktemp("out")
    report = out / "somewhere" / "report.json"
    said = [sys.executable, "-m", "pid_lens.cli", "demo", "--task", "synergy", "--n", "120"]
    done = subprocess.run(
        [*said, "--seed", "3", "--out", str(out), "--json", str(report)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done, out, json.loads(report.read_text())


def test_the_report_has_every_number(run):
    task = run[2]["tasks"]["synergy"]
    assert list(run[2]["tasks"]) == ["synergy"]
    assert task["layers"] == [0, 1, 2, 3, 4, 5]
    assert task["n"] == 120
    for name in (*ATOMS, "information", "gap"):
        assert len(task[name]) == 6
    for layer in range(6):
        total = sum(task[name][layer] for name in ATOMS)
        assert total == pytest.approx(task["information"][layer], abs=1e-6)
    assert 0.9 <= task["accuracy"] <= 1
    assert 0 <= task["cross_entropy"] < 0.5


def test_table_progress_picture_and_csv(run):
    done, out, report = run
    synergy = report["tasks"]["synergy"]["synergy"]
    assert f"{synergy[-1]:.3f}" in done.stdout
    assert f"{max(synergy):.2f} at {synergy.index(max(synergy))}" in done.stdout
    assert "calibrating" in done.stderr
    with Image.open(out / "demo.png") as picture:
        assert min(picture.size) > 300
    table = pd.read_csv(out / "demo.csv")
    assert table["synergy"].tolist() == pytest.approx(synergy)
    assert set(table["task"]) == {"synergy"}


def test_the_same_seed_gives_the_same_numbers(run, tmp_path, capsys):
    arguments = ["demo", "--task", "synergy", "--n", "120", "--out", str(tmp_path)]
    assert main([*arguments, "--seed", "3"]) == 0
    again = json.loads((tmp_path / "demo.json").read_text())
    assert again == run[2]
    assert main([*arguments, "--seed", "4"]) == 0
    assert json.loads((tmp_path / "demo.json").read_text()) != again
    capsys.readouterr()


def test_errors_say_what_to_do(tmp_path, capsys):
    out = ["--out", str(tmp_path / "new")]
    assert main(["demo", "--task", "hearing", *out]) == 2
    assert "vision, language, redundant, synergy" in capsys.readouterr().err
    assert main(["demo", "--seed", "-1", *out]) == 2
    assert "seed must be 0 or more" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["demo", "--n", "100000", *out]) == 2
    assert "100000" in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--task", "vision", "--out", str(tmp_path / "file")]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert main(["demo", "--task", "vision", "--json", str(tmp_path), *out]) == 2
    assert "it is a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["sing"])
    assert stopped.value.code == 2
    assert "demo" in capsys.readouterr().err


def test_check_says_yes_of_the_shipped_model(capsys):
    assert main(["check", "demo"]) == 0
    assert "9 of 9 properties hold" in capsys.readouterr().out


def test_check_says_no_of_a_blind_model_in_a_folder(tmp_path, capsys):
    model, processor = pid_lens.demo.load()
    model.model.multi_modal_projector.linear_2.weight.data.zero_()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert main(["check", str(tmp_path), "--dtype", "float32"]) == 1
    assert "FAILED sighted" in capsys.readouterr().out


def test_check_of_no_model_is_refused(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nothing")]) == 2
    assert "pid-lens:" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_shipped_model_is_checked_in_the_precision_that_was_asked_for(
    dtype, monkeypatch, capsys
):
    seen = []
    prove = pid_lens.check

    def check(model, *given, **named):
        seen.append(model.dtype)
        return prove(model, *given, **named)

    monkeypatch.setattr(pid_lens, "check", check)
    assert main(["check", "demo", "--dtype", dtype]) == 0
    assert seen == [getattr(torch, dtype)]
    assert "9 of 9 properties hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--dtype", "nonsense"], "no dtype 'nonsense': choose one of auto, float32"),
        (["--dtype", "int64"], "no dtype 'int64'"),
        (["--device", "nodevice"], "no device 'nodevice' here"),
        (["--device", "meta"], "no device 'meta' here"),
    ],
)
def test_what_is_not_there_is_refused(asked, said, capsys):
    assert main(["check", "demo", *asked]) == 2
    assert f"pid-lens: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no chat template fits') }}"])
def test_a_model_without_a_chat_template_that_works_is_refused(template, tmp_path, capsys):
    model, processor = pid_lens.demo.load()
    processor.chat_template = processor.tokenizer.chat_template = template
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert main(["check", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "pid-lens: LlavaProcessor makes no prompt" in said
    assert "chat template" in said
