"""Lens: one hooked forward pass, its residual stream read at every layer under every condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, overload

from pid_lens.estimators import BROJA, Estimator
from pid_lens.forward import Recorder, Verified, View, join_views, settings_of_pass
from pid_lens.inputs import Batch, describe_batch, option_table
from pid_lens.interventions import Conditions, Moments, Variation, require_same_model
from pid_lens.model import Anatomy, dissect, processor_of, resolve_indices
from pid_lens.readouts import LogitLens, Pooled
from pid_lens.reads import MEMORY, Reads, ReadsBuffer

if TYPE_CHECKING:
    from pid_lens.interventions import Intervention
    from pid_lens.readouts import Readout
    from pid_lens.results import Spectrum


class Lens:
    """Logit lens at every layer in one forward pass: as it is, question ablated, image ablated.

    Inside ``with lens:`` every forward pass of the model is forked at its decoder's input. The
    batch rows are repeated once per condition, the embeddings of each copy are ablated (or its
    attention knocked out), and a readout is applied to the residual stream at the answer position
    of every layer. The caller gets its own rows of the logits, which no condition ablates. The
    vision tower runs once (in models with a question-aware Q-Former, once more per draw of each
    condition that ablates the question). With `views` the caller's own block runs once per
    condition instead.

    During a fork, your own hooks inside the decoder (a torch hook, a read in an nnsight trace,
    TransformerLens's cache) are given your n rows. A write there is refused: where every
    condition has rows of its own, one that names rows (``h[1, -1] = h[0, -1]``) would hit one
    condition alone. Replay with `views` runs your block once per condition, as it is. An edit that
    is meant for every row, such as steering, is let through by ``fork_edits=True``; it is given
    the rows of all conditions, one block of n each (`rows`). The activations that hooks are given
    in a fork are slices off the path of gradients: replay to differentiate with respect to one.

    Args:
        model: a vision-language model (or None, with ``anatomy``).
        processor: finds the question in plain inputs and resolves options that are text; the
            model's own (nnsight's `TransformersModel`, a bridge) by default.
        choices: the options of every sample, as text (the first token counts) or token ids; not
            needed where each batch has its own.
        moments: mean and standard deviation of the embeddings, for noise; of `calibrate`.
        conditions: name -> interventions; by default ``full``, ``vision`` (question noised) and
            ``language`` (image noised). A span of your own is known by its name: other tokens
            need another name.
        interventions: in force in *all* conditions, and on the caller's own rows: the spectrum is
            that of the model with a `Knockout`, say, and `compare` with the spectrum of a lens
            without it says what the knockout does.
        draws: noise draws to average over, as full-vocabulary probabilities.
        seed: of the noise.
        layers: which layers to read; by default all.
        readout: from a hidden state to log-probabilities of the options; by default `LogitLens`.
        states: pooled hidden states to keep along with the answers.
        estimators: each is updated inline with every forward pass.
        anatomy: the model's parts, for a model that `dissect` does not know.
        memory: bytes of reads to keep in memory; more goes to a temporary file.
        fork_edits: whether edits of yours inside the decoder are meant for the rows of all
            conditions; without it they are refused during a fork.
        check: whether to compare the last layer's reads with the model's own logits once, and an
            image-only hidden state with that under another text; `pid_lens.check` proves more.

    Raises:
        ValueError: no moments for the noise, or another model's; options that share their first
            token; a layer that is not there.
        TypeError: a model that no adapter knows; draws or a seed that are not whole numbers;
            moments, states, estimators or conditions of another type; a readout whose repr does
            not show its settings.

    Example:
        >>> import pid_lens, torch
        >>> model, processor = pid_lens.demo.load()
        >>> batches = pid_lens.demo.batches("language", n=32)
        >>> moments = pid_lens.calibrate(model, batches)
        >>> lens = Lens(model, processor, choices=("A", "B"), moments=moments)
        >>> with lens, torch.no_grad():
        ...     for batch in batches:
        ...         logits = model(**batch.inputs).logits
        >>> lens
        Lens(LlavaForConditionalGeneration, 6 layers, conditions full vision language, 32 samples)
        >>> bool(lens.spectrum().unique_language[-1] > .8)
        True
    """

    def __init__(
        self,
        model: Any = None,
        processor: Any = None,
        *,
        choices: Sequence[str | int] | None = None,
        moments: Moments | None = None,
        conditions: Mapping[str, Iterable[Intervention]] | None = None,
        interventions: Sequence[Intervention] = (),
        draws: int = 1,
        seed: int = 0,
        layers: Iterable[int] | None = None,
        readout: Readout | None = None,
        states: Sequence[Pooled] = (),
        estimators: Sequence[Estimator] = (),
        anatomy: Anatomy | None = None,
        memory: int = MEMORY,
        fork_edits: bool = False,
        check: bool = True,
    ) -> None:
        """Store the settings that the class describes."""
        self.anatomy = anatomy or dissect(model)
        _require_whole_numbers(draws=draws, seed=seed)
        _require_moments(moments)
        _require_instances("states", states, Pooled)
        _require_instances("estimators", estimators, Estimator)
        planned = Conditions.of(conditions, interventions, moments=moments, seed=seed, draws=draws)
        readout, processor = readout or LogitLens(), processor_of(model, processor)
        settings = settings_of_pass(self.anatomy, readout, planned)
        require_same_model(planned.every, self.anatomy, settings.model)
        self.estimators = tuple(estimators)
        self._recorder = Recorder(
            anatomy=self.anatomy,
            processor=processor,
            readout=readout,
            layers=resolve_indices(layers, len(self.anatomy.layers)),
            options=None if choices is None else option_table(choices, 1, processor),
            states=tuple(states),
            conditions=planned,
            settings=settings,
            fork_edits=fork_edits,
            verified=Verified(last_layer=not check, image_only=not check),
        )
        self.variations = planned.variations
        self._versions = self.anatomy.versions
        self._buffer = ReadsBuffer(memory)
        self._open: list[AbstractContextManager] = []

    @property
    def conditions(self) -> Mapping[str, tuple[Intervention, ...]]:
        """What each condition ablates, by name; moments and seed are filled in."""
        return MappingProxyType(self._recorder.conditions.named)

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Interventions in force in all conditions."""
        return self._recorder.conditions.always

    # ---------------------------------------------------------------- opening

    def __enter__(self) -> Self:
        opened = self._attach(self.variations, None, self._add)
        opened.__enter__()
        self._open.append(opened)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)

    @contextmanager
    def __call__(self, batch: Batch | None = None, **said: Any) -> Iterator[Self]:
        """Open the lens for one batch: ``with lens(batch): model(**batch.inputs)``.

        Or describe the batch in parts; what is left out is found from the inputs. A sample
        without an id is named by a hash of its content; read with and without its id, it counts
        once.

        Args:
            batch: a `Batch`.
            said: ``ids`` (n names), ``spans`` (masks [n, tokens] by name), ``options`` (one list,
                or one per sample), ``labels`` (n indices of options).

        Raises:
            TypeError: ``said`` has another name.
            ValueError: another batch runs inside than the one described.
            RuntimeError: another lens, or a block of `intervene`, is open on this model.
        """
        with self._attach(self.variations, describe_batch(batch, **said), self._add):
            yield self

    def views(self, batch: Batch | None = None, **said: Any) -> Iterator[View]:
        """Yield one view per condition and draw: replay your own block in each, without a fork.

        ``for view in lens.views(): with view: model(**inputs)``. The batch keeps its size; the
        lens takes the reads when the loop ends. The view that ablates nothing, if there is one,
        comes last, so that your block leaves behind what it would leave without a lens.

        Args:
            batch: as when the lens is called.
            said: as when the lens is called.

        Raises:
            ValueError: a view in which no forward pass ran, or passes over other samples than
                in the first; an image-only hidden state that no fork has yet proven to be so.
        """
        if self._recorder.probes:
            raise ValueError(
                "a view shows one condition, so it cannot prove that the image's last token is "
                "independent of the text: run one batch in the lens first, `with lens(batch): "
                "model(**batch.inputs)`, then go through its views"
            )
        given, views = describe_batch(batch, **said), []
        needed = [v for v in self.variations if v.condition or self._recorder.states]
        for variation in (*needed[1:], *needed[:1]):
            seen: list[Reads] = []
            views.append(View(variation, seen, self._attach((variation,), given, seen.append)))
            yield views[-1]
        self._add(join_views(views, tuple(self.conditions)))

    @contextmanager
    def _attach(
        self,
        variations: tuple[Variation, ...],
        given: Batch | None,
        sink: Callable[[Reads], None],
    ) -> Iterator[None]:
        if self.anatomy.versions != self._versions:
            raise ValueError(
                "the model's weights were changed since this lens was made, and reads of two "
                "models do not mix: make a new Lens (and calibrate anew)"
            )
        with self._recorder.attach(variations, given, sink):
            yield

    # ---------------------------------------------------------------- results

    @property
    def rows(self) -> tuple[str, ...]:
        """Condition of each block of n rows inside the decoder during a fork.

        The first pass of a lens that keeps ``Pooled("image", token="last")`` has one block more,
        without a name, which proves the image's hidden states independent of the text.
        """
        return tuple(one.condition for one in (*self.variations, *self._recorder.probes))

    @property
    def reads(self) -> Reads:
        """All reads so far, on the CPU.

        Raises:
            ValueError: nothing was read.
        """
        if not self._buffer.parts:
            raise ValueError(
                "no sample was read yet: run the model inside the lens, `with lens: "
                "model(**inputs)`; it must be open before the forward pass begins (in one line, "
                "`with lens, model.trace(...)`, the lens first), and a loop over lens.views() "
                "must run to its end"
            )
        return self._buffer.whole()

    @overload
    def spectrum(self, estimator: None = None) -> Spectrum: ...

    @overload
    def spectrum(self, estimator: Estimator) -> Any: ...

    def spectrum(self, estimator: Estimator | None = None) -> Any:
        """Decompose all reads so far, by an estimator; by default exactly, by `BROJA`.

        Args:
            estimator: an instance; it is copied, and does not change.

        Returns:
            A `Spectrum`, one decomposition per layer, or a `Curve` of an estimator of a single
            quantity.

        Raises:
            TypeError: the estimator is a class or a name.
            ValueError: nothing was read, not under the conditions that the estimator needs, or
                the model's logits were NaN.
        """
        if isinstance(estimator, type | str):
            raise TypeError(f"estimator must be an instance such as BROJA(); got {estimator!r}")
        return deepcopy(estimator or BROJA()).update(self.reads).result()

    def reset(self) -> Self:
        """Forget all reads so far; inline ``estimators`` keep theirs."""
        self._buffer = ReadsBuffer(self._buffer.memory)
        return self

    def __repr__(self) -> str:
        n = len(self._buffer.ids())
        return (
            f"Lens({type(self.anatomy.model).__name__}, {len(self._recorder.layers)} layers, "
            f"conditions {' '.join(self.conditions)}, {n} samples)"
        )

    def _add(self, reads: Reads) -> None:
        self._buffer.add(reads)
        for estimator in self.estimators:
            estimator.update(reads)


def _require_whole_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number; got {value!r}")


def _require_moments(moments: Any) -> None:
    if moments is not None and not isinstance(moments, Moments):
        raise TypeError(f"moments must be Moments of pid_lens.calibrate; got {moments!r}")


def _require_instances(name: str, given: Any, kind: type) -> None:
    """Raise a TypeError unless ``given`` is a list of instances; a class is not one."""
    listed = isinstance(given, list | tuple)
    if not listed or not all(isinstance(one, kind) and not isinstance(one, type) for one in given):
        raise TypeError(f"{name} must be a list of {kind.__name__} instances; got {given!r}")
