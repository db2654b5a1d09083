"""The command line: ``pid-lens demo`` and ``pid-lens check MODEL``.

``demo`` measures the information spectra of the shipped model, on a laptop, without a network;
``check`` proves on a model that ablated inputs do not leak into its answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pid_lens.demo import TASKS
from pid_lens.results import ATOMS

if TYPE_CHECKING:
    from pid_lens.inputs import Batch
    from pid_lens.reads import Reads
    from pid_lens.results import Spectrum

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
SHORT = {
    "redundancy": "R",
    "unique_vision": "U_vision",
    "unique_language": "U_language",
    "synergy": "S",
}


@dataclass(frozen=True)
class Found:
    """The demo's measurements on one task.

    Attributes:
        spectrum: the atoms of each layer, in its unit.
        reads: the answers that it is computed from.

    Example:
        >>> import torch
        >>> from pid_lens.estimators import BROJA
        >>> from pid_lens.reads import Reads
        >>> p = torch.tensor([[.99, .01], [.01, .99]]).expand(1, 3, 2, 2)
        >>> reads = Reads.from_posteriors(p.log(), labels=[0, 1])
        >>> entry = Found(BROJA().update(reads).result(), reads).as_json()
        >>> entry["n"], entry["accuracy"], round(entry["redundancy"][0], 2)
        (2, 1.0, 0.92)
    """

    spectrum: Spectrum
    reads: Reads

    def as_json(self) -> dict[str, Any]:
        """Return the task's entry in the JSON report."""
        numbers = {
            name: getattr(self.spectrum, name).tolist() for name in (*ATOMS, "information", "gap")
        }
        return {
            "layers": list(self.spectrum.layers),
            **numbers,
            "accuracy": self.reads.accuracy(),
            "cross_entropy": self.reads.cross_entropy(),
            "n": self.spectrum.n,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 1 if not, 2 if the request cannot be served.

    Example:
        >>> main(["demo", "--task", "speech"])  # the reason goes to stderr
        2
    """
    options = _parser().parse_args(arguments)
    try:
        run = options.prepare(options)
        return 0 if run() else 1
    except (ValueError, OSError) as error:
        print(f"pid-lens: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pid-lens",
        description="Where a vision-language model's answer comes from, layer by layer.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('pid_lens')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="the four atoms of four tasks, on a small model that is shipped",
        description="Measures the shipped model on held-out scanned digits: four tasks, each made "
        "so that its answer comes from one atom. Draws every layer.",
    )
    demo.add_argument("--task", metavar="NAME", help=f"one task only: {', '.join(TASKS)}")
    demo.add_argument("--n", type=int, metavar="N", help="samples per task (default: every digit)")
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="of coins and noise (0)")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("pid-lens-demo"),
        metavar="DIR",
        help="folder for plot, CSV and report (pid-lens-demo)",
    )
    demo.add_argument("--json", type=Path, metavar="FILE", help="the report (DIR/demo.json)")
    demo.set_defaults(prepare=prepare_demo)
    check = commands.add_parser(
        "check",
        help="test whether a model's results may be trusted, property by property",
        description="Loads a model of transformers with its processor and proves on two images "
        "and questions that ablated inputs do not leak; 'demo' is the shipped one. Exit status 1 "
        "if some property fails.",
    )
    check.add_argument("model", metavar="MODEL", help="a folder, a name on the hub, or 'demo'")
    check.add_argument("--dtype", default="auto", metavar="TYPE", help=", ".join(DTYPES))
    check.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, ... (cpu)")
    check.set_defaults(prepare=prepare_check)
    return parser


def prepare_check(options: argparse.Namespace) -> Callable[[], bool]:
    """Load a model, and return a function that checks it and prints the report.

    Raises:
        ValueError: there is no such model, or none that answers questions about images, or its
            processor has no chat template; no such device or dtype.
        OSError: it is not in a folder and cannot be fetched.

    Example:
        >>> import argparse
        >>> run = prepare_check(argparse.Namespace(model="demo", dtype="auto", device="cpu"))
        >>> run()
        LlavaForConditionalGeneration: 9 of 9 properties hold
          ok     lens: ...
        True
    """
    import pid_lens

    _require_known_target(options)
    model, processor = _loaded(options)
    batch = _pictures(processor, model.dtype)

    def run() -> bool:
        report = pid_lens.check(model, batch, processor=processor)
        print(report)
        return report.ok

    return run


def _require_known_target(options: argparse.Namespace) -> None:
    """Require that dtype and device are there."""
    import torch

    if options.dtype not in DTYPES:
        raise ValueError(f"no dtype {options.dtype!r}: choose one of {', '.join(DTYPES)}")
    try:
        torch.zeros(1, device=options.device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"no device {options.device!r} here: {reason}") from error


def _loaded(options: argparse.Namespace) -> tuple[Any, Any]:
    """Load model and processor."""
    import torch

    import pid_lens

    if options.model == "demo":
        shipped, processor = pid_lens.demo.load()
        dtype = shipped.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
        return shipped.to(options.device, dtype), processor
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model: Any = AutoModelForImageTextToText.from_pretrained(options.model, dtype=options.dtype)
    return model.eval().to(options.device), AutoProcessor.from_pretrained(options.model)


def _pictures(processor: Any, dtype: Any) -> Batch:
    """Build a batch of two digits, each with a question of its own, in the model's precision."""
    import pid_lens

    images = pid_lens.demo.digits("test").images[:2]
    task = pid_lens.demo.task("synergy")
    questions = [task.question(digit, coin) for digit, coin in ((0, 0), (1, 1))]
    try:
        batch = pid_lens.batch(processor, images=images, questions=questions, options=("A", "B"))
    except Exception as error:  # templates are programs, and fail as they like
        raise ValueError(f"{type(processor).__name__} makes no prompt: {error}") from error
    inputs = {k: v.to(dtype) if _is_floating(v) else v for k, v in batch.inputs.items()}
    return replace(batch, inputs=inputs)


def _is_floating(value: Any) -> bool:
    return bool(getattr(value, "is_floating_point", bool)())


def prepare_demo(options: argparse.Namespace) -> Callable[[], bool]:
    """Check the request, and return a function that measures, prints a table, writes the files.

    Raises:
        ValueError: an unknown task, or an n that the digits do not give.
        OSError: the output folder or the report cannot be written to.

    Example:
        >>> import argparse
        >>> from pathlib import Path
        >>> options = argparse.Namespace(task="vision", n=1000, seed=0, out=Path("."), json=None)
        >>> prepare_demo(options)
        Traceback (most recent call last):
        ...
        ValueError: n=1000 samples of 'test' asked for: there are 1 to 900
    """
    import pid_lens

    tasks = [options.task] if options.task else list(TASKS)
    report = options.json or options.out / "demo.json"
    plans = {t: pid_lens.demo.batches(t, n=options.n, seed=options.seed) for t in tasks}
    if report.is_dir():
        raise IsADirectoryError(f"cannot write to {report}: it is a folder. Give --json a file")
    for folder in (options.out, report.parent):
        _writable(folder)

    def run() -> bool:
        found = measure(plans, options.seed)
        print(table(found))
        _write(found, options.out, report)
        return True

    return run


def measure(plans: Mapping[str, Iterable[Batch]], seed: int = 0) -> dict[str, Found]:
    """Compute the shipped model's spectrum on each task's batches.

    Example:
        >>> import pid_lens
        >>> found = measure({"vision": pid_lens.demo.batches("vision", n=16)})
        >>> found["vision"].spectrum.n, bool(found["vision"].spectrum.unique_vision[-1] > 0.8)
        (16, True)
    """
    import torch

    import pid_lens

    begun = time.perf_counter()
    model, processor = pid_lens.demo.load()
    found = {}
    for task, batches in plans.items():
        _say(f"{task}: calibrating the noise on training digits")
        moments = pid_lens.calibrate(model, pid_lens.demo.batches(task, split="train"))
        lens = pid_lens.Lens(model, processor, moments=moments, seed=seed)
        _say(f"{task}: reading every layer, with and without each modality")
        for batch in batches:
            with lens(batch), torch.no_grad():
                model(**batch.inputs)
        _say(f"{task}: solving for the atoms")
        found[task] = Found(lens.spectrum(), lens.reads)
    tasks = "task" if len(found) == 1 else "tasks"
    _say(f"{len(found)} {tasks} in {time.perf_counter() - begun:.0f} s\n")
    return found


def table(found: dict[str, Found]) -> str:
    """Tabulate the last layer of each task, and the layer where each atom is largest.

    Example:
        >>> import torch
        >>> from pid_lens.cli import Found
        >>> from pid_lens.estimators import BROJA
        >>> from pid_lens.reads import Reads
        >>> p = torch.tensor([[.99, .01], [.01, .99]]).expand(1, 3, 2, 2)
        >>> reads = Reads.from_posteriors(p.log(), labels=[0, 1])
        >>> print(table({"toy": Found(BROJA().update(reads).result(), reads)}).splitlines()[3])
        toy           2     1.000         0.919       0.000       0.000       0.000        0.919
    """
    unit = next(iter(found.values())).spectrum.unit
    head = f"{'task':<10}{'n':>5}{'accuracy':>10}  " + "".join(
        f"{SHORT[name]:>12}" for name in ATOMS
    )
    lines = [f"Last layer, {unit}:", head + f"{'information':>13}", "-" * (len(head) + 13)]
    for task, one in found.items():
        last = [float(getattr(one.spectrum, name)[-1]) for name in ATOMS]
        atoms = "".join(f"{round(value, 3) + 0.0:>12.3f}" for value in last)
        lines.append(
            f"{task:<10}{one.spectrum.n:>5}{one.reads.accuracy():>10.3f}  {atoms}"
            f"{float(one.spectrum.information[-1]):>13.3f}"
        )
    lines += ["", f"Where each atom peaks, {unit} at layer:", head[:10] + head[27:]]
    for task, one in found.items():
        lines.append(f"{task:<10}" + "".join(f"{_peak(one.spectrum, name):>12}" for name in ATOMS))
    return "\n".join([*lines, *_doubts(found)])


def _peak(spectrum: Spectrum, name: str) -> str:
    value = getattr(spectrum, name)
    at = int(value.argmax())
    return f"{float(value[at]):.2f} at {spectrum.layers[at]}" if value[at] > 0.05 else "-"


def _doubts(found: dict[str, Found]) -> list[str]:
    doubts = {
        task: [layer for layer, bad in zip(s.layers, s.doubtful.tolist(), strict=True) if bad]
        for task, s in ((task, one.spectrum) for task, one in found.items())
    }
    named = [f"{task} {', '.join(map(str, at))}" for task, at in doubts.items() if at]
    if not named:
        return []
    return [
        "",
        f"Not to be relied on (the conditions contradict each other or there is no answer yet; "
        f"drawn hollow): layers {'; '.join(named)}",
    ]


def _write(found: dict[str, Found], out: Path, report: Path) -> None:
    import matplotlib as mpl
    import pandas as pd

    from pid_lens.results import plot_spectra

    mpl.use("agg")
    figure = plot_spectra({task: one.spectrum for task, one in found.items()})
    figure.savefig(out / "demo.png", dpi=160)
    frames = {task: one.spectrum.to_pandas() for task, one in found.items()}
    pd.concat(frames, names=["task"]).to_csv(out / "demo.csv")
    report.write_text(
        json.dumps({"tasks": {t: one.as_json() for t, one in found.items()}}, indent=1)
    )
    print(f"\nwrote {out / 'demo.png'}, {out / 'demo.csv'}, {report}")


def _writable(folder: Path) -> None:
    """Require that a folder can be written to, before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".pid-lens"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"cannot write to {folder}: {error.strerror}. Choose another --out"
        ) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
