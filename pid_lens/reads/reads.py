"""Reads: the durable record of option log-probabilities, from which every number is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from pid_lens.reads import scores
from pid_lens.reads.draws import concat_spreads
from pid_lens.reads.pass_settings import PassSettings
from pid_lens.reads.preconditions import (
    join_names,
    require_joinable,
    require_labels,
    require_no_nan,
    require_same_kind,
    require_same_options,
)
from pid_lens.records import load_record, save_record

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

MOST_LOG_MASS = 1e-3
"""Rounding by which the log of a sum of probabilities may exceed 0."""
TAU = 0.3
"""Mass on the options below which there is no answer yet, as in: A comprehensive
information-decomposition analysis of large vision-language models (ICLR 2026),
https://openreview.net/forum?id=6WsBGk4Iag"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Reads:
    """Log-probability of each option at every layer, under every condition, for every sample.

    `Lens.reads` and the ``reads`` of an adapter's `Stream` hold them for a model,
    `from_posteriors` makes them from a table. Nothing in them is thresholded or normalised.

    Attributes:
        ids: names of the samples; a sample that is read again replaces its record.
        conditions: names of the conditions.
        layers: numbers of the layers.
        log_probs: natural log of the full-vocabulary probability of each option, [layers,
            conditions, n, answers]; -inf where it is absent.
        options: token id of each option, [n, answers]; -1 where a sample has fewer.
        labels: index of the right option, [n]; -1 where unknown.
        states: name -> pooled hidden states of the rows without ablation, [layers, n, width].
        spread: variance over noise draws of each posterior, as log_probs; None for single draws.
        on_disk: whether the tensors are mapped from a file.
        contents: hash of each sample's content, where known, which identifies it under any name.
        settings: the record of `PassSettings`; only reads of equal settings mix.

    Raises:
        ValueError: ids, labels or contents not one per sample, or log_probs of another shape.

    Example:
        >>> import torch
        >>> certain = torch.tensor([[.9, .1], [.1, .9]]).log().expand(1, 3, 2, 2)
        >>> reads = Reads.from_posteriors(certain, labels=[0, 1])
        >>> reads
        Reads(2 samples, 1 layers, conditions full vision language, 2 options)
        >>> reads.accuracy(layer=-1, condition="language")
        1.0
        >>> reads.posteriors()[0, 0, 1].exp()  # layer 0, condition "full", sample 1
        tensor([0.1000, 0.9000], dtype=torch.float64)
    """

    ids: tuple[str, ...]
    conditions: tuple[str, ...]
    layers: tuple[int, ...]
    log_probs: Float[Tensor, "layers conditions n answers"]
    options: Int[Tensor, "n answers"]
    labels: Int[Tensor, " n"]
    states: dict[str, Float[Tensor, "layers n width"]] = field(default_factory=dict)
    spread: Float[Tensor, "layers conditions n answers"] | None = None
    on_disk: bool = False
    contents: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.layers), len(self.conditions), *self.options.shape)
        n = len(self.options)
        for name in ("ids", "labels", *(["contents"] if self.contents else [])):
            if len(getattr(self, name)) != n:
                raise ValueError(
                    f"{n} samples need as many {name}; got {len(getattr(self, name))}"
                )
        if self.log_probs.shape != expected:
            raise ValueError(
                f"log_probs must be [layers, conditions, n, answers] = {list(expected)}; got "
                f"{list(self.log_probs.shape)}"
            )

    @classmethod
    def from_posteriors(
        cls,
        log_p: Float[Tensor, "layers conditions n answers"],
        *,
        conditions: Sequence[str] = ("full", "vision", "language"),
        ids: Sequence[Any] | None = None,
        labels: Sequence[int] | Tensor | None = None,
        present: Bool[Tensor, "n answers"] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Self:
        """Make reads from a table of log-probabilities of any origin.

        Args:
            log_p: natural logs, [layers, conditions, n, answers]; -inf is probability 0.
            conditions: names of the conditions.
            ids: names of the samples; their numbers by default.
            labels: indices of the right options.
            present: which options each sample has; all by default.
            settings: settings on which the reads depend.

        Raises:
            ValueError: another shape, or logs whose probabilities sum to more than 1.
        """
        log_p = torch.as_tensor(log_p)
        if log_p.ndim != 4:
            raise ValueError(
                "log_p must be [layers, conditions, samples, answers]; got a tensor of shape "
                f"{list(log_p.shape)}"
            )
        if log_p.shape[1] != len(conditions):
            raise ValueError(
                f"log_p has {log_p.shape[1]} conditions: name them, conditions=(...); got "
                f"{tuple(conditions)}"
            )
        layers, _, n, answers = log_p.shape
        present = torch.ones(n, answers).bool() if present is None else torch.as_tensor(present)
        log_p = log_p.masked_fill(~present, -math.inf)
        if bool((log_p.double().logsumexp(-1) > MOST_LOG_MASS).any()):
            raise ValueError(
                "probabilities of a sample's options sum to more than 1: log_p takes natural logs "
                "(p.log(), or logits.log_softmax(-1))"
            )
        return cls(
            ids=tuple(map(str, range(n) if ids is None else ids)),
            conditions=tuple(conditions),
            layers=tuple(range(layers)),
            log_probs=log_p,
            options=torch.arange(answers).expand(n, answers).where(present, -1),
            labels=torch.full((n,), -1) if labels is None else torch.as_tensor(labels),
            settings=settings or {},
        )

    # ---------------------------------------------------------------- scores

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    @property
    def mask(self) -> Bool[Tensor, "n answers"]:
        """Whether a sample has an option, [n, answers] bool."""
        return self.options >= 0

    @property
    def mass(self) -> Float[Tensor, "layers conditions n"]:
        """Full-vocabulary probability of all options together, before any threshold."""
        return self.log_probs.double().logsumexp(-1).exp()

    def fallback(self, tau: float = TAU) -> Float[Tensor, "layers conditions"]:
        """Compute the share of samples whose mass is below tau: no answer yet, hence uniform."""
        return scores.is_unanswered(self.log_probs, tau).double().mean(-1)

    def draws_of(self, condition: str) -> int:
        """Return the number of noise draws over which a condition is averaged.

        Raises:
            ValueError: it is unknown.
        """
        return PassSettings.of(self.settings).draws_of(condition)

    def posteriors(
        self, tau: float = TAU, conditions: Sequence[str] | None = None
    ) -> Float[Tensor, "layers conditions n answers"]:
        """Compute the log-posterior over a sample's options under each condition.

        Uniform where the mass is below tau. float64, -inf where an option is absent.

        Args:
            tau: the least mass on the options that counts as an answer.
            conditions: those to return, in this order; all by default.

        Raises:
            ValueError: NaN among the log-probabilities, or a condition that was not read.
        """
        at = slice(None) if conditions is None else [self.index(name) for name in conditions]
        require_no_nan(self)
        return scores.log_posteriors(self.log_probs, self.mask, tau)[:, at]

    def accuracy(self, layer: int = -1, condition: str = "full") -> float:
        """Compute the share of samples whose likeliest option is the label.

        ``layer`` is a position among the layers that were read, -1 the last of them.

        Raises:
            ValueError: a sample without label, or a condition that was not read.
        """
        return scores.accuracy(self.log_probs[layer, self.index(condition)], require_labels(self))

    def cross_entropy(self, layer: int = -1, condition: str = "full", tau: float = TAU) -> float:
        """Compute the mean of -log2 p(label), bits; ``layer`` as in `accuracy`.

        Raises:
            ValueError: NaN among the log-probabilities, or as `accuracy`.
        """
        log_p = self.posteriors(tau)[layer, self.index(condition)]
        return scores.cross_entropy(log_p, require_labels(self))

    def calibration_error(
        self, layer: int = -1, condition: str = "full", tau: float = TAU, bins: int = 10
    ) -> float:
        """Compute the expected calibration error; ``layer`` and errors as in `cross_entropy`.

        |confidence - accuracy| of each bin of confidence, weighted by its share of the samples.

        Source:
            On calibration of modern neural networks (Guo, Pleiss, Sun, Weinberger, 2017),
            https://arxiv.org/abs/1706.04599
        """
        log_p = self.posteriors(tau)[layer, self.index(condition)]
        return scores.calibration_error(log_p, require_labels(self), bins)

    def index(self, condition: str) -> int:
        """Look up the position of a condition along its axis; ValueError if it was not read."""
        if condition not in self.conditions:
            raise ValueError(
                f"no condition {condition!r} was read; there are {', '.join(self.conditions)}"
            )
        return self.conditions.index(condition)

    # ---------------------------------------------------------------- concatenate and join

    @classmethod
    def concat(cls, parts: Iterable[Reads]) -> Reads:
        """Concatenate along samples; of a sample read more than once the last record stays.

        Raises:
            ValueError: no parts, or other layers, conditions or settings (model, noise).
        """
        parts = list(parts)
        if not parts:
            raise ValueError("no reads to put together")
        for part in parts[1:]:
            require_same_kind(parts[0], part)
        width = max(part.options.shape[-1] for part in parts)
        parts = [part._padded(width) for part in parts]
        whole = replace(
            parts[0],
            on_disk=False,
            ids=tuple(i for part in parts for i in part.ids),
            log_probs=torch.cat([part.log_probs for part in parts], 2),
            options=torch.cat([part.options for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            states={k: torch.cat([p.states[k] for p in parts], 1) for k in parts[0].states},
            spread=concat_spreads([part.spread for part in parts]),
            contents=tuple(c for part in parts for c in part.contents or part.ids),
        )
        whole = replace(whole, ids=join_names(whole.ids, whole.contents))
        last = {name: row for row, name in enumerate(whole.ids)}
        return whole if len(last) == whole.n else whole.rows(last.values())

    @classmethod
    def join(cls, **conditions: Reads) -> Reads:
        """Join reads of the same samples along conditions, each of one condition.

        Raises:
            ValueError: nothing, several conditions, other samples, layers, model or readout.

        Example:
            >>> import torch
            >>> even = torch.full((1, 1, 4, 2), 0.5).log()
            >>> one = Reads.from_posteriors(even, conditions=["plain"])
            >>> Reads.join(full=one, vision=one, language=one).conditions
            ('full', 'vision', 'language')
        """
        if not conditions:
            raise ValueError("nothing to join: Reads.join(full=..., vision=..., language=...)")
        first = next(iter(conditions.values()))
        for name, reads in conditions.items():
            require_joinable(name, reads, first)
        aligned = [reads.rows(map(reads.ids.index, first.ids)) for reads in conditions.values()]
        for name, reads in zip(conditions, aligned, strict=True):
            require_same_options(name, reads, aligned[0])
        log_probs = torch.cat([reads.log_probs for reads in aligned], 1)
        states = next((reads.states for reads in aligned if reads.states), {})
        known = any(reads.spread is not None for reads in aligned)
        none = torch.zeros_like(aligned[0].log_probs)
        drawn = [none if reads.spread is None else reads.spread for reads in aligned]
        return replace(
            first,
            conditions=tuple(conditions),
            log_probs=log_probs,
            states=states,
            spread=torch.cat(drawn, 1) if known else None,
        )

    def rows(self, keep: Iterable[int]) -> Reads:
        """Select samples by position."""
        keep = list(keep)
        at = torch.tensor(keep, dtype=torch.long, device=self.log_probs.device)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in keep),
            log_probs=self.log_probs[:, :, at],
            options=self.options[at],
            labels=self.labels[at],
            states={name: state[:, at] for name, state in self.states.items()},
            spread=None if self.spread is None else self.spread[:, :, at],
            contents=tuple(self.contents[row] for row in keep) if self.contents else (),
        )

    def _padded(self, answers: int) -> Reads:
        more = answers - self.options.shape[-1]
        pad = torch.nn.functional.pad
        return (
            self
            if not more
            else replace(
                self,
                log_probs=pad(self.log_probs, (0, more), value=-math.inf),
                options=pad(self.options, (0, more), value=-1),
                spread=None if self.spread is None else pad(self.spread, (0, more)),
            )
        )

    # ---------------------------------------------------------------- memory and files

    @property
    def bytes(self) -> int:
        """Size of the tensors, bytes."""
        tensors = [self.log_probs, self.options, self.labels, *self.states.values()]
        spread = 0 if self.spread is None else self.spread.nbytes
        return spread + sum(tensor.nbytes for tensor in tensors)

    def cpu(self) -> Reads:
        """Move the tensors to the CPU."""
        return replace(
            self,
            log_probs=self.log_probs.cpu(),
            options=self.options.cpu(),
            labels=self.labels.cpu(),
            spread=None if self.spread is None else self.spread.cpu(),
            states={name: state.cpu() for name, state in self.states.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file for `load`; FileNotFoundError without its folder."""
        tensors = {"log_probs": self.log_probs, "options": self.options, "labels": self.labels}
        if self.spread is not None:
            tensors["spread"] = self.spread
        tensors |= {f"states.{name}": state for name, state in self.states.items()}
        about = {
            "ids": self.ids,
            "conditions": self.conditions,
            "layers": self.layers,
            "settings": self.settings,
            "contents": self.contents,
        }
        save_record(path, "pid_lens.Reads", tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> Reads:
        """Load reads that `save` wrote.

        Raises:
            ValueError: the file is not a safetensors file, or holds another kind of record.
            FileNotFoundError: there is no such file.
        """
        tensors, about = load_record(path, "pid_lens.Reads")
        states = {
            name.removeprefix("states."): tensors.pop(name)
            for name in list(tensors)
            if name.startswith("states.")
        }
        return cls(
            ids=tuple(about["ids"]),
            conditions=tuple(about["conditions"]),
            layers=tuple(about["layers"]),
            settings=about["settings"],
            contents=tuple(about["contents"]),
            states=states,
            on_disk=True,
            **tensors,
        )

    def __repr__(self) -> str:
        return (
            f"Reads({self.n} samples, {len(self.layers)} layers, conditions "
            f"{' '.join(self.conditions)}, {self.options.shape[-1]} options)"
        )
