"""Tuned lens: a layer's residual stream, translated to the last layer's basis, then unembedded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from pid_lens.model import Anatomy
from pid_lens.readouts.logit_lens import LogitLens
from pid_lens.records import load_record, save_record

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from matplotlib.axes import Axes
    from torch import Tensor

KIND = "pid_lens.TunedLens"


@dataclass(frozen=True, eq=False)
class Translator:
    """An affine map of the residual stream, h -> h + A h + b, float32; the identity at A, b = 0.

    Attributes:
        matrix: A, [width, width].
        bias: b, [width].

    Raises:
        ValueError: a matrix that is not square, or a bias of another width.

    Example:
        >>> import torch
        >>> shift = Translator(torch.tensor([[0., 2.], [0., 0.]]), torch.tensor([1., 0.]))
        >>> shift(torch.tensor([[5., 4.]]))  # (5 + 2 * 4 + 1, 4)
        tensor([[14.,  4.]])
    """

    matrix: Float[Tensor, "width width"]
    bias: Float[Tensor, " width"]

    def __post_init__(self) -> None:
        width = len(self.bias) if self.bias.ndim == 1 else None
        if self.matrix.shape != (width, width):
            raise ValueError(
                "a translator needs a square matrix [width, width] and a bias [width]; got "
                f"{list(self.matrix.shape)} and {list(self.bias.shape)}"
            )

    def __call__(self, state: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """Translate a residual stream, in float32; return it in the precision in which it came."""
        # h + A h + b, row by row
        matrix, bias = self.matrix.to(state.device), self.bias.to(state.device)
        wide = state.float()
        return (wide + wide @ matrix.T + bias).to(state.dtype)

    def to(self, device: torch.device | str) -> Translator:
        """Move the translator to another device."""
        return Translator(self.matrix.to(device), self.bias.to(device))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TunedLens(LogitLens):
    """Tuned lens: the logit lens behind one affine translator per layer, of `pid_lens.tune`.

    ::

        log p_l(option) = W[option] norm(t_l) - logsumexp_v W[v] norm(t_l)
        t_l = h_l + A_l h_l + b_l

    Earlier layers write in another basis than the last, so that the logit lens may decode nothing
    where there is information; the translator undoes what is affine in that. The last layer's is
    the identity, so there this is the model's own answer. Layers that tuning did not help keep the
    identity too. It is trained on the model's own answers, never on labels. It serves the one
    model that it was tuned on, and raises a ValueError for any other. Two lenses are equal where
    their model and their translators are.

    Attributes:
        model: fingerprint of the model that it was tuned on.
        translators: layer -> its translator, all of one width, for each layer that tuning helped
            on the samples that training stopped by; all other layers keep the identity.
        divergence: KL(model's answer || this lens's answer), full vocabulary, bits, on held-out
            samples, [layers].
        untuned: the same of the logit lens, on the same samples, [layers].
        n: number of samples that these two were measured on.

    Raises:
        ValueError: fields whose shapes do not fit together.

    Source:
        Eliciting latent predictions from transformers with the tuned lens (Belrose et al.,
        2023), https://arxiv.org/abs/2303.08112

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pid_lens import Anatomy
        >>> from pid_lens.readouts import Translator
        >>> anatomy = Anatomy(model=nn.Identity(), decoder=nn.Identity(), layers=[None, None],
        ...                   norm=nn.Identity(), unembed=nn.Linear(2, 2, bias=False))
        >>> _ = nn.init.eye_(anatomy.unembed.weight)
        >>> swap = Translator(torch.tensor([[-1., 1.], [1., -1.]]), torch.zeros(2))
        >>> tuned = TunedLens(model=anatomy.fingerprint(), translators={0: swap},
        ...                   divergence=torch.zeros(2), untuned=torch.zeros(2), n=1)
        >>> state, options = torch.tensor([[3., 0.]]), torch.tensor([[0, 1]])
        >>> [tuned(state, options, anatomy, layer=layer).argmax().item() for layer in (0, 1)]
        [1, 0]
    """

    model: str
    translators: Mapping[int, Translator]
    divergence: Float[Tensor, " layers"]
    untuned: Float[Tensor, " layers"]
    n: int
    # Anatomies that were found to be this model's, with the versions of their weights then
    _known: WeakKeyDictionary[Anatomy, tuple[Any, ...]] = field(
        default_factory=WeakKeyDictionary, init=False
    )

    def __post_init__(self) -> None:
        last = len(self.divergence) - 1
        if last < 0 or self.untuned.shape != self.divergence.shape:
            raise ValueError(
                "divergence and untuned must be one number per layer each; got "
                f"{list(self.divergence.shape)} and {list(self.untuned.shape)}"
            )
        strange = [layer for layer in self.translators if not 0 <= layer < last]
        if strange:
            raise ValueError(
                f"translators are for layers 0..{last - 1}, for the last is the identity; got "
                f"them for {strange}"
            )
        widths = {len(one.bias) for one in self.translators.values()}
        if len(widths) > 1:
            raise ValueError(f"translators must be of one width; got {sorted(widths)}")

    def __call__(
        self,
        state: Float[Tensor, "n width"],
        options: Int[Tensor, "n answers"],
        anatomy: Anatomy,
        layer: int,
    ) -> Float[Tensor, "n answers"]:
        """Compute full-vocabulary log-probabilities of the options, natural log, float32.

        Args:
            state: the residual stream after the layer.
            options: token id of each option, -1 where a sample has fewer: there they are -inf.
            anatomy: the model's modules.
            layer: number of the layer.

        Raises:
            ValueError: another model, another number of layers, a layer that the lens does not
                have, or a residual stream of another width than the translators.
        """
        self.check(anatomy)
        if not 0 <= layer < len(self.divergence):
            raise ValueError(
                f"layer must be one of this lens's 0..{len(self.divergence) - 1}; got {layer}"
            )
        translator = self.translators.get(layer)
        if translator is not None and state.shape[-1] != len(translator.bias):
            raise ValueError(
                f"this lens translates states of width {len(translator.bias)}, not of "
                f"{state.shape[-1]}: run pid_lens.tune(model, batches) on this model"
            )
        translated = state if translator is None else translator(state)
        return super().__call__(translated, options, anatomy, layer)

    def check(self, anatomy: Anatomy) -> None:
        """Require the model that the lens was tuned on.

        Raises:
            ValueError: another model, or another number of layers.
        """
        if self._known.get(anatomy) == anatomy.versions:
            return
        if len(anatomy.layers) != len(self.divergence):
            raise ValueError(
                f"this lens was tuned on {len(self.divergence)} layers, not on "
                f"{len(anatomy.layers)}: run pid_lens.tune(model, batches) on this model"
            )
        found = anatomy.fingerprint()
        if found != self.model:
            raise ValueError(
                f"this lens was tuned on model {self.model}, not on {found}: its translators "
                "would mean nothing there. Run pid_lens.tune(model, batches) on this model"
            )
        self._known[anatomy] = anatomy.versions

    def to(self, device: torch.device | str) -> TunedLens:
        """Move the translators to another device; else they are copied there at every reading."""
        moved = {layer: one.to(device) for layer, one in self.translators.items()}
        return replace(self, translators=moved)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the model's fingerprint and all translators."""
        digest = hashlib.sha256(self.model.encode())
        for layer in sorted(self.translators):
            one = self.translators[layer]
            digest.update(str(layer).encode())
            for tensor in (one.matrix, one.bias):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        """Return whether another lens has the same model and the same translators."""
        return isinstance(other, TunedLens) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle all but the known anatomies, which belong to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_known"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _known=WeakKeyDictionary())

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the held-out divergence of tuned lens and logit lens over the layers."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
        for values, label, marker in (
            (self.untuned, "logit lens", "s"),
            (self.divergence, "tuned lens", "o"),
        ):
            ax.plot(range(len(values)), values.numpy(), marker=marker, label=label)
        ax.set_xlabel("layer")
        ax.set_ylabel("KL to the model's answer (bits)")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return ax

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        tensors = {"divergence": self.divergence, "untuned": self.untuned}
        for layer, one in self.translators.items():
            tensors |= {f"{layer}.matrix": one.matrix, f"{layer}.bias": one.bias}
        about = {"model": self.model, "n": self.n, "layers": sorted(self.translators)}
        save_record(path, KIND, tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> TunedLens:
        """Load what `save` wrote.

        Raises:
            ValueError: the file is not a safetensors file, or holds another kind of record.
            FileNotFoundError: there is no such file.
        """
        tensors, about = load_record(path, KIND)
        translators = {
            layer: Translator(tensors[f"{layer}.matrix"], tensors[f"{layer}.bias"])
            for layer in about["layers"]
        }
        return cls(
            model=about["model"],
            translators=translators,
            divergence=tensors["divergence"],
            untuned=tensors["untuned"],
            n=about["n"],
        )

    def __repr__(self) -> str:
        return (
            f"TunedLens({len(self.translators)} of {len(self.divergence)} layers translated, "
            f"held-out KL {self.divergence.mean():.3g} bits a layer (logit lens "
            f"{self.untuned.mean():.3g}), n={self.n}, model {self.model}, weights "
            f"{self.fingerprint})"
        )
