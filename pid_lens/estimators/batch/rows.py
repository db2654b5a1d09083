"""Input of BATCH: features of two sources, and the answer's posterior given each and both."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float, Float64, Int64
from torch import Tensor

from pid_lens.estimators.common.arrays import SUM_ROUNDING, as_float64

GivenRows = tuple[Any, Any, Any, Any, Any]
"""x1, x2, p(y|x1), p(y|x2), p(y|x1,x2): tensors or arrays with one row per sample."""
ARGUMENTS = ("x1", "x2", "p(y|x1)", "p(y|x2)", "p(y|x1,x2)")


@dataclass(frozen=True)
class BatchRows:
    """Samples: features of two sources and posteriors of the answer, all float32.

    Attributes:
        vision: x1, [n, d1].
        language: x2, [n, d2].
        given_vision: p(y|x1), [n, answers].
        given_language: p(y|x2), [n, answers].
        given_both: p(y|x1,x2), [n, answers].
    """

    vision: Float[Tensor, "n d1"]
    language: Float[Tensor, "n d2"]
    given_vision: Float[Tensor, "n answers"]
    given_language: Float[Tensor, "n answers"]
    given_both: Float[Tensor, "n answers"]

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.vision)

    def batches(self, size: int, order: Int64[Tensor, " n"]) -> Iterator[BatchRows]:
        """Yield full batches in some order; drop the remainder, unless there is no full batch."""
        size = min(size, self.n)
        for rows in order[: self.n - self.n % size].split(size):
            yield BatchRows(*(getattr(self, one.name)[rows] for one in fields(self)))


def as_rows(which: str, given: GivenRows) -> BatchRows:
    """Validate samples and normalise their posteriors.

    Raises:
        TypeError: not a tuple of five tensors or arrays.
        ValueError: shapes that do not fit, no samples, NaN, rows that are not probabilities.
    """
    if not isinstance(given, tuple | list) or len(given) != len(ARGUMENTS):
        raise TypeError(
            f"{which} must be a tuple ({', '.join(ARGUMENTS)}); got {_describe(given)}"
        )
    named = [f"{which}'s {name}" for name in ARGUMENTS]
    tensors = [as_float64(x, name).detach() for name, x in zip(named, given, strict=True)]
    shapes = [list(x.shape) for x in tensors]
    n = len(tensors[0]) if tensors[0].ndim else 0
    fitting = all(len(s) == 2 and s[0] == n and 0 not in s for s in shapes)
    if not fitting or len({s[1] for s in shapes[2:]}) > 1:
        raise ValueError(
            f"{which} must be x1 [n, d1], x2 [n, d2] and three [n, answers], none empty; got "
            f"{', '.join(map('{} {}'.format, ARGUMENTS, shapes))}"
        )
    for name, x in zip(named, tensors, strict=True):
        if not bool(x.float().isfinite().all()):
            raise ValueError(f"{name} has NaN or infinite entries (float32); leave such rows out")
    posteriors = [_normalise(x, name) for name, x in zip(named[2:], tensors[2:], strict=True)]
    device = tensors[0].device
    return BatchRows(*(x.float().to(device) for x in (*tensors[:2], *posteriors)))


def _normalise(p: Tensor, name: str) -> Float64[Tensor, "n answers"]:
    total = p.sum(1, keepdim=True)
    if bool((p < 0).any()):
        raise ValueError(f"{name} has negative entries; pass probabilities (logs: x.exp())")
    worst = float((total - 1).abs().max())
    if worst > SUM_ROUNDING:
        raise ValueError(
            f"every row of {name} must sum to 1, one is off by {worst:.2g}; divide by the sums "
            "(p / p.sum(-1, keepdim=True)), or take logits.softmax(-1)"
        )
    return p / total


def require_same_widths(train: BatchRows, val: BatchRows) -> None:
    """Require features and answers of the same widths in training and validation.

    Raises:
        ValueError: widths differ.
    """
    one, other = (
        [x.shape[1] for x in (rows.vision, rows.language, rows.given_both)]
        for rows in (train, val)
    )
    if one != other:
        raise ValueError(
            f"train and val must have the same d1, d2 and answers; got {one} and {other}"
        )


def require_varying(rows: BatchRows) -> None:
    """Require a source that varies between samples; warn if one is constant, its posterior not.

    Warns:
        UserWarning: one source is the same in all samples, though the posterior given it is not.

    Raises:
        ValueError: both sources are the same in all samples.
    """
    sources = {"x1": (rows.vision, rows.given_vision), "x2": (rows.language, rows.given_language)}
    constant = [name for name, (x, _) in sources.items() if rows.n > 1 and _range(x) == 0]
    if len(constant) == len(sources):
        raise ValueError(
            "x1 and x2 are the same in all samples: there is nothing that networks could align. "
            "Features of another layer or span?"
        )
    for name in constant:
        spread = _range(sources[name][1])
        if spread > SUM_ROUNDING:
            warnings.warn(
                f"{name} is the same in all samples, though p(y|{name}) differs by {spread:.2g}: "
                "networks cannot distinguish them. Features of another layer or span?",
                stacklevel=4,
            )


def _range(x: Tensor) -> float:
    """Compute the largest range of a column: maximum less minimum over rows."""
    return float((x.amax(0) - x.amin(0)).max())


def _describe(given: Any) -> str:
    count = f" of {len(given)}" if isinstance(given, tuple | list) else ""
    return f"{type(given).__name__}{count}"
