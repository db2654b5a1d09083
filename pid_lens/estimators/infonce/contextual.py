"""ContextualContribution: what the text adds to what the image alone tells of the answer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Self

from pid_lens.estimators.common.over_reads import OverReads
from pid_lens.estimators.infonce.by_critics import ByCritics, near_cap_layers
from pid_lens.estimators.infonce.estimator import InfoNCE
from pid_lens.reads import Reads
from pid_lens.results import Curve


@dataclass
class StatesInContext(OverReads):
    """Which states a contextual contribution is of."""

    image: str = "image_last"
    """The state that knows the image alone."""
    multimodal: str = "answer"
    """The state that knows image and text."""
    y: str = "answer"
    """The state whose last layer both are to tell of."""


@dataclass
class ContextualContribution(ByCritics, StatesInContext):
    """What text and image tell of the last layer's state beyond the image alone, by InfoNCE.

    ::

        contribution(l) = I(h_l of the last token; h_L) - I(h_l of the last image token; h_L)

    h_L is the last token's state in the last layer that was read. Both states come from one
    forward pass: under causal attention the last image token does not see the text behind it.
    ``Lens(..., states=[Pooled("image", token="last"), Pooled("answer")])`` keeps them, and
    refuses a model or a prompt in which the image sees the text.

    *What it can tell.* Where the last state is image plus text in four noisy dimensions, 1,500
    samples say 2.22 bits (truth: 2.32); where it is the image alone, -0.03 (truth: 0). Both are
    means over eight draws of the samples; single ones scatter by 0.06 and 0.04.

    *What it cannot tell.* h_L is a function of the same input. Without noise both terms are
    infinite, and good critics read the log of their number of samples for both: what is left
    measures the critics. In the last layer of the digits model, under a constant question, where
    text adds 0 bits, it reads 2.8 (450 samples, cap 7.2, 16 components). Twelve dimensions, six
    of them the text's, known ever more exactly, truly add 1.2, 4.4, 8.0, 11.2 and 17.0 bits;
    1,500 samples with a cap of 9.0 say 1.2, 3.0, 1.8, 0.6 and 0.0. A small contribution means
    that the text adds little only where both ``parts`` are well below their cap: a warning comes
    within 10 % of it, the squeeze begins before.

    Source:
        Traceable and explainable multimodal large language models (COLM 2025),
        https://openreview.net/forum?id=pQm66IPmeE; ``constants="paper"`` takes its constants,
        see `InfoNCE`

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> reads = Reads.from_posteriors(torch.zeros(1, 1, 300, 1), conditions=["full"])
        >>> generator = torch.Generator().manual_seed(0)
        >>> image, text, noise, y = torch.randn(4, 1, 300, 1, generator=generator)
        >>> states = {"image_last": image, "answer": image + text + noise}
        >>> states["y"] = image + text + y
        >>> ContextualContribution(y="y").update(replace(reads, states=states)).result()
        Curve(contextual contribution, layer 0: ...±... bits; n=300, 1 layers, ...)
    """

    def _terms(self) -> dict[str, InfoNCE]:
        """An estimator for either term."""
        return {
            name: InfoNCE(x=x, y=self.y, **self.critic_settings)
            for name, x in (("multimodal", self.multimodal), ("image only", self.image))
        }

    def update(self, reads: Reads) -> Self:
        """Takes in more samples; one that came before is replaced.

        Raises:
            ValueError: a state was not kept, or these reads cannot be mixed with those before.
        """
        for term in self._terms().values():
            term.update(reads.rows(()))
        return super().update(reads)

    def result(self) -> Curve:
        """The contribution over everything seen; its error is that of a paired difference.

        Raises:
            ValueError: no sample was seen or too few, or NaN among the states.
        """
        reads = self.gather()
        parts = {name: term.update(reads).measure() for name, term in self._terms().items()}
        for name, part in parts.items():
            if bool(part.near_cap.any()):
                warnings.warn(
                    f"the {name} term is within 10 % of its cap at layers "
                    f"{near_cap_layers(part)}: there the contribution is squeezed towards 0 and "
                    "says little; more samples raise the cap",
                    stacklevel=2,
                )
        multimodal, image = parts.values()
        return Curve(
            name="contextual contribution",
            pointwise=multimodal.pointwise - image.pointwise,
            layers=reads.layers,
            ids=multimodal.ids,
            estimator=type(self).__name__,
            unit=self.unit,
            settings={**reads.settings, **self.settings_of("image", "multimodal", "y")},
            groups=multimodal.groups,
            parts=parts,
        )
