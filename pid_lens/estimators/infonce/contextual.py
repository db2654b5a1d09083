"""Contextual contribution: a difference of two InfoNCE bounds, image and text less image."""

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
    """Names of the hidden states that a contextual contribution compares.

    Attributes:
        image: the state that depends on the image alone.
        multimodal: the state that depends on image and text.
        y: the state whose last layer is the target of both terms.
    """

    image: str = "image_last"
    multimodal: str = "answer"
    y: str = "answer"


@dataclass
class ContextualContribution(ByCritics, StatesInContext):
    """Contextual contribution: information of image and text about h_L beyond the image's alone.

    ::

        contribution(l) = I(h_l of the last token; h_L) - I(h_l of the last image token; h_L)

    Each I is an InfoNCE lower bound (`InfoNCE`); h is a hidden state, h_L that of the last token
    in the last layer that was read. Both states come from one forward pass: under the causal mask
    the last image token does not attend to the text after it.
    ``Lens(..., states=[Pooled("image", token="last"), Pooled("answer")])`` keeps them, and
    refuses a model or a prompt in which image positions attend to the text.

    *Where it is right.* Where h_L is image plus text in four noisy dimensions, 1,500 samples
    give 2.22 bits (truth: 2.32); where it is the image alone, -0.03 (truth: 0). Both are means
    over eight sets of samples; single ones scatter by 0.06 and 0.04.

    *Where it is not.* h_L is a function of the same input. Without noise both terms are
    infinite, and good critics read the log of their number of samples for both: their difference
    measures the critics. In the last layer of the digits model, under a constant question, where
    text adds 0 bits, it reads 2.8 (450 samples, cap 7.2, 16 components). Twelve dimensions, six
    of them the text's, known ever more exactly, truly add 1.2, 4.4, 8.0, 11.2 and 17.0 bits;
    1,500 samples with a cap of 9.0 give 1.2, 3.0, 1.8, 0.6 and 0.0. A small contribution means
    that the text adds little only where both ``parts`` are well below their cap: a warning comes
    within 10 % of it, but the bound saturates before.

    Attributes:
        image: name of the state that depends on the image alone.
        multimodal: name of the state that depends on image and text.
        y: name of the state whose last layer is the target of both terms.
        constants: name of the critics' recipe, ``"default"`` or ``"paper"``.
        components: principal components kept of each state's normal scores; None keeps all.
        folds: number of held-out folds.
        seed: of folds, weights and batches.
        unit: ``"bits"`` or ``"nats"``.
        groups: sample id -> its group of dependent samples; None where all are independent.
        progress: whether to show a bar when it takes longer than two seconds.

    Source:
        Traceable and explainable multimodal large language models (COLM 2025),
        https://openreview.net/forum?id=pQm66IPmeE; ``constants="paper"`` takes its constants,
        see `InfoNCE`

    Raises:
        ValueError: unknown constants or unit, fewer than one component (or any with
            ``constants="paper"``), or fewer than two folds.

    Example:
        >>> import torch
        >>> from dataclasses import replace
        >>> from pid_lens import Reads
        >>> reads = Reads.from_posteriors(torch.zeros(1, 1, 300, 1), conditions=["full"])
        >>> generator = torch.Generator().manual_seed(0)
        >>> image, text, noise, y = torch.randn(4, 1, 300, 1, generator=generator)
        >>> states = {"image_last": image, "answer": image + text + noise}
        >>> states["y"] = image + text + y
        >>> found = ContextualContribution(y="y").update(replace(reads, states=states)).result()
        >>> abs(float(found.value) - 0.13) < 0.1  # bits, of a truth of 0.13
        True
    """

    def _terms(self) -> dict[str, InfoNCE]:
        """Build an `InfoNCE` for either term of the difference."""
        return {
            name: InfoNCE(x=x, y=self.y, **self.critic_settings)
            for name, x in (("multimodal", self.multimodal), ("image only", self.image))
        }

    def update(self, reads: Reads) -> Self:
        """Add samples to both terms; one with the id of an earlier sample replaces it.

        Raises:
            ValueError: a state was not kept, or these reads cannot be mixed with those before.
        """
        for term in self._terms().values():
            term.update(reads.rows(()))
        return super().update(reads)

    def result(self) -> Curve:
        """Compute the contribution over all samples; its error is that of a paired difference.

        Raises:
            ValueError: no samples or too few, NaN among the states, or a sample that ``groups``
                lack.
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
        # Paired difference: sample by sample, so that the error includes their covariance
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
