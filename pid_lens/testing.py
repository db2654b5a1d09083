"""Conformance tests for estimators of answers: invariances and contracts, one law each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from pid_lens import truth
from pid_lens.estimators import Estimator
from pid_lens.reads import Reads
from pid_lens.results import ATOMS

_SWAPPED = {"vision": "language", "language": "vision"}
_N = 120


@dataclass(frozen=True)
class Law:
    """Outcome of one law for an estimator.

    Attributes:
        name: of the law, as in `check_estimator`.
        ok: whether the estimator keeps it.
        detail: the largest deviation, or what went wrong.

    Example:
        >>> print(Law("order", False, "off by 2.0e-01"))
        BROKEN order: off by 2.0e-01
    """

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok    ' if self.ok else 'BROKEN'} {self.name}: {self.detail}"


@dataclass(frozen=True)
class Report:
    """Outcomes of all laws that `check_estimator` checked; one line per law in print.

    Attributes:
        estimator: its repr.
        laws: outcomes, in the order of the table there.

    Example:
        >>> from pid_lens.testing import Law
        >>> print(Report("Mine()", (Law("order", True, "0"), Law("gates", False, "AND"))))
        Mine(): 1 of 2 laws kept
          ok     order: 0
          BROKEN gates: AND
    """

    estimator: str
    laws: tuple[Law, ...]

    @property
    def ok(self) -> bool:
        """Whether every law is kept."""
        return all(law.ok for law in self.laws)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the laws that are not kept."""
        return tuple(law.name for law in self.laws if not law.ok)

    def __str__(self) -> str:
        kept = len(self.laws) - len(self.broken)
        head = f"{self.estimator}: {kept} of {len(self.laws)} laws kept"
        return "\n  ".join([head, *map(str, self.laws)])


def check_estimator(
    estimator: Estimator,
    *,
    exact: bool = False,
    answers: tuple[int, ...] = (2, 3),
    tol: float = 1e-6,
    raises: bool = True,
) -> Report:
    """Check an estimator that decomposes answers against laws, on fresh copies of it.

    ======== ==================================================================================
    fields   the result has atoms and information, float64 and finite, one per layer
    sum      R + U_vision + U_language + S is the information
    swap     exchanging vision and language exchanges their unique informations
    relabel  invariance to the order of the options
    order    invariance to the order of the samples
    stream   many updates give the result of one
    merge    two merged estimators give the result of one
    repeat   a sample that is read again replaces its record
    again    result() may be called twice, and between updates
    empty    result() without samples raises ValueError
    gates    exact estimators alone: the atoms of `truth.GATES`
    ======== ==================================================================================

    Args:
        estimator: an instance with the settings to try; it is copied, and stays as it is.
        exact: whether it claims the exact decomposition of what it is given.
        answers: numbers of options to try.
        tol: by how much two results may differ, in their unit; certified gaps are added to it.
        raises: whether a broken law is an error; else see ``Report.ok``.

    Returns:
        The outcome of every law.

    Raises:
        AssertionError: a law is broken; the message names all that are.
        TypeError: not an estimator, or a class instead of an instance.

    Example:
        >>> import pid_lens
        >>> check_estimator(pid_lens.BROJA(), exact=True).ok
        True
        >>> class Forgetful(pid_lens.BROJA):
        ...     def merge(self, other):
        ...         return self
        >>> check_estimator(Forgetful(), answers=(2,), raises=False).broken
        ('merge',)
    """
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise TypeError(
            "an estimator is an instance with update(reads), merge(other) and result(); got "
            f"{estimator!r}"
        )
    trials = [_Trial(estimator, _reads(k), tol) for k in answers]
    laws = [_tried(name, law, trials) for name, law in _LAWS.items()]
    if exact:
        laws.append(_tried("gates", _gates, [_Trial(estimator, trials[0].reads, tol)]))
    report = Report(repr(estimator), tuple(laws))
    if raises and not report.ok:
        raise AssertionError(f"broken laws: {', '.join(report.broken)}\n{report}")
    return report


# ---------------------------------------------------------------- trials


@dataclass(frozen=True)
class _Trial:
    """An estimator, the reads to test it on, and the tolerance."""

    estimator: Estimator
    reads: Reads
    tol: float

    def fed(self, *parts: Reads) -> Any:
        fresh = deepcopy(self.estimator)
        for part in parts:
            fresh.update(part)
        return fresh

    def result(self, *parts: Reads) -> Any:
        return self.fed(*parts).result()

    def rows(self, *at: int | None) -> Reads:
        return self.reads.rows(range(self.reads.n)[slice(*at)])

    def same(self, one: Any, other: Any, order: tuple[int, ...] = (0, 1, 2, 3)) -> str:
        """Require equal atoms of two results, up to tolerance and gaps; return the deviation."""
        gap = torch.maximum(_gap(one), _gap(other))[:, None]
        return _near(_atoms(one)[:, list(order)] - _atoms(other), self.tol + gap)


def _reads(answers: int) -> Reads:
    """Draw samples of layers that are asymmetric in modalities and in options."""
    layers = ("redundant", "language", "synergy", "mixed")
    return truth.layered_reads(_N, answers, layers=layers, noise=0.2, seed=7).reads


def _tried(name: str, law: Callable[[_Trial], str], trials: list[_Trial]) -> Law:
    """Apply a law to all trials; any exception breaks it, as the estimator is the user's code."""
    said = []
    for trial in trials:
        try:
            said.append(law(trial))
        except AssertionError as error:
            return Law(name, False, str(error))
        except Exception as error:
            return Law(name, False, f"{type(error).__name__}: {error}")
    return Law(name, True, max(said, key=_size))


def _size(said: str) -> float:
    return float(said.removeprefix("off by ")) if said.startswith("off by ") else 0.0


def _near(difference: Tensor, allowed: Tensor) -> str:
    said = f"off by {float(difference.abs().max()):.1e}"
    if not bool((difference.abs() <= allowed).all()):
        raise AssertionError(said)
    return said


def _atoms(result: Any) -> Float64[Tensor, "layers atoms"]:
    return torch.stack([getattr(result, name) for name in ATOMS], -1)


def _gap(result: Any) -> Float64[Tensor, " layers"]:
    return getattr(result, "gap", torch.zeros_like(result.synergy)).nan_to_num(0.0)


# ---------------------------------------------------------------- laws


def _fields(trial: _Trial) -> str:
    result, layers = trial.result(trial.reads), len(trial.reads.layers)
    for name in (*ATOMS, "information"):
        value = getattr(result, name)
        if value.shape != (layers,) or value.dtype != torch.float64:
            raise AssertionError(f"{name} must be float64 [{layers}], got {value}")
        if not bool(value.isfinite().all()):
            raise AssertionError(f"{name} is not finite: {value.tolist()}")
    return "float64, finite, one per layer"


def _sum(trial: _Trial) -> str:
    result = trial.result(trial.reads)
    off = _atoms(result).sum(-1) - result.information
    return _near(off, trial.tol + _gap(result))


def _swap(trial: _Trial) -> str:
    names = tuple(_SWAPPED.get(name, name) for name in trial.reads.conditions)
    other = trial.result(replace(trial.reads, conditions=names))
    return trial.same(trial.result(trial.reads), other, (0, 2, 1, 3))


def _relabel(trial: _Trial) -> str:
    reads, last = trial.reads, trial.reads.options.shape[-1] - 1
    other = replace(
        reads,
        log_probs=reads.log_probs.flip(-1),
        options=reads.options.flip(-1),
        labels=(last - reads.labels).where(reads.labels >= 0, -1),
    )
    return trial.same(trial.result(reads), trial.result(other))


def _order(trial: _Trial) -> str:
    order = torch.randperm(trial.reads.n, generator=torch.Generator().manual_seed(0))
    other = trial.result(trial.reads.rows(order.tolist()))
    return trial.same(trial.result(trial.reads), other)


def _stream(trial: _Trial) -> str:
    parts = [trial.rows(at, at + 17) for at in range(0, trial.reads.n, 17)]
    return trial.same(trial.result(trial.reads), trial.result(*parts))


def _merge(trial: _Trial) -> str:
    one, other = trial.fed(trial.rows(50)), trial.fed(trial.rows(50, None))
    merged = one.merge(other)
    if merged is not one:
        raise AssertionError("merge must return the estimator itself")
    return trial.same(trial.result(trial.reads), merged.result())


def _repeat(trial: _Trial) -> str:
    wrong = trial.rows(40)
    wrong = replace(wrong, log_probs=wrong.log_probs.flip(2))
    return trial.same(trial.result(trial.reads), trial.result(wrong, trial.reads, trial.rows(9)))


def _again(trial: _Trial) -> str:
    fed = trial.fed(trial.rows(60))
    fed.result()
    if fed.update(trial.rows(60, None)) is not fed:
        raise AssertionError("update must return the estimator itself")
    whole = trial.result(trial.reads)
    return max(trial.same(whole, fed.result()), trial.same(whole, fed.result()), key=_size)


def _empty(trial: _Trial) -> str:
    try:
        trial.result()
    except ValueError as error:
        return f"ValueError: {error}"
    raise AssertionError("no ValueError")


def _gates(trial: _Trial) -> str:
    said = []
    for name in truth.GATES:
        log_p = truth.posteriors_of(truth.gate(name), 800)
        result = trial.result(Reads.from_posteriors(log_p))
        off = _atoms(result)[0] - _atoms(truth.atoms_of(name))
        try:
            said.append(_near(off, trial.tol + _gap(result)))
        except AssertionError as error:
            raise AssertionError(f"{name} is {error}") from None
    return max(said, key=_size)


_LAWS: dict[str, Callable[[_Trial], str]] = {
    "fields": _fields,
    "sum": _sum,
    "swap": _swap,
    "relabel": _relabel,
    "order": _order,
    "stream": _stream,
    "merge": _merge,
    "repeat": _repeat,
    "again": _again,
    "empty": _empty,
}
