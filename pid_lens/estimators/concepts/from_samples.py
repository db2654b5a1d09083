"""Concept information: variational bounds of I(C; h) and I(C; h | question) from samples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pid_lens.estimators.concepts.held_out_information import (
    ConceptInformation,
    Settings,
    measure_concepts,
)
from pid_lens.estimators.concepts.inputs import Labels
from pid_lens.estimators.concepts.recipe import BottleneckConstants, BottleneckRecipe
from pid_lens.results import Unit


def concept_information(
    hidden: Float[Tensor, "layers n width"] | np.ndarray,
    concepts: Tensor | np.ndarray,
    *,
    groups: Labels | None = None,
    clusters: Labels | None = None,
    shared: bool = False,
    constants: BottleneckConstants | BottleneckRecipe = "default",
    seed: int = 0,
    unit: Unit = "bits",
    progress: bool = True,
    ids: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> ConceptInformation:
    r"""Bound the mutual information of concepts and hidden states, by a concept bottleneck.

    A sample's concept C is drawn from its target t: a detector's scores, made to sum to 1, or
    one class index. A network (bottleneck) maps its hidden state h to a distribution q over
    concepts. With m the mean target, the variational bound is

    .. math::  I(C; h) \ge E \sum_c t_c \log \frac{q_c(h)}{m_c}
                   = E\,KL(t \| m) - E\,KL(t \| q),

    for any network that was not trained on the sample: every sample is in a held-out fold once.
    Given the question's group G, the group's mean takes the place of m and G is an input of the
    network; that bounds I(C; h | G). The difference, I(C; h) - I(C; h | G) =
    I(C; G) - I(C; G | h), is the co-information of concepts, state and question:

    * above 0, the state's information is in part what the question alone gives away;
    * below 0, the state is more informative once the question is known. Where questions carry no
      information about the concepts, I(C; G) = 0, it cannot be above.

    A bound falls short by what the network did not learn and, on average, by (concepts - 1) / 2n
    nats at most because m is the mean of the samples at hand; groups multiply it, and n counts
    clusters where there are some (of unequal size, fewer). A warning says so where that is over
    .05 bits. So a bound may be a little below 0, and that of a layer that never changes is.

    The gain is a difference of two lower bounds, and bounds nothing. **It is biased upward**: the
    conditional bottleneck has more to learn, and groups have means of fewer samples. So it is
    computed once more with groups exchanged at random, which carry no information (a permutation
    baseline). Compare the gain to this ``gain_by_chance``: what is not above it is no gain, and a
    warning names layers whose gain is positive but within two errors of it. Where true groups
    were random, too, the gain by chance was within .005 bits of the gain on average (13 settings,
    two or three data sets): with n = 600 samples of eight classes (width 32) the gain reads .05
    bits for 5 groups and .17 for 10; with 80 concepts and 9 groups .15 at n = 900; with n = 2000
    and 5 groups .02 at most.

    ``gain_beyond_chance``, the gain minus that, is for the claim that there is a gain at all: of
    34 data sets without one, 2 lay beyond two errors. As a size it errs to the other side where
    the state itself determines the group, for then the true groups cost the bottleneck less than
    exchanged ones: -.01 to -.03 bits where the truth is 0 (the gain reads .00 to .08), .91 to
    .99 where it is 1 (the gain .93 to 1.00; n = 450), and less if there is much to learn. So it
    does not replace the gain. Neither shows what cannot be learned from the samples at hand:
    eight classes whose states are exchanged among four groups have a gain of -1.83, and read .09
    at n = 300, .02 at 600 and -1.79 at 2000.

    Groups are exchanged within each fold, so that each keeps its share; with clusters, each
    takes all the groups of another. That is a third of the time of a result with groups.

    Standard errors are those of a mean over samples, or cluster-robust: the variation between
    seeds is not in them.

    Measured on eleven systems of known information (those of the tests), n = 2000, five data sets
    each: .88 (80 concepts) to 1.04 of the truth, at most 1.5 standard errors above it, and -.008
    to .000 bits where it is 0. Targets without a pattern need more samples: 40 scenes, each with
    80 scores that have nothing to do with those of other scenes, .72 at n = 3000. States of width
    4096 and 8 classes take 7 s per layer and bound on one thread at n = 2000.

    Source:
        Traceable and explainable multimodal large language models (COLM 2025),
        https://openreview.net/forum?id=pQm66IPmeE. Its numbers are ``paper``, with its constants
        under ``constants="paper", shared=True``; there too states are standardised, outputs begin
        at the mean target, and every sample is held out once. The bound: Information maximization
        in noisy channels: a variational approach (Barber, Agakov, 2003),
        https://papers.neurips.cc/paper_files/paper/2003/hash/a6ea8471c120fe8cc35a2954c9b9c595-Abstract.html

    Args:
        hidden: hidden states, [layers, n, width].
        concepts: scores of at least 0, [n, concepts]; or class indices 0 to concepts - 1, [n].
        groups: the group of each sample's question, any hashable values (`question_groups`): two
            at least, each in three folds or more (two without judges).
        clusters: the cluster of each sample, any hashable values: several questions on one image.
            A bottleneck trained on the image would remember its concepts, so a cluster is held
            out together; errors are cluster-robust.
        shared: whether one bottleneck serves all layers; it finds only what the same function
            predicts from each of them.
        constants: ``"default"``, ``"paper"`` or a `BottleneckRecipe` of your own.
        seed: of the folds, weights and batches.
        unit: ``"bits"`` or ``"nats"``.
        progress: whether to show a bar if it takes over 2 seconds.
        ids: one name per sample, no two alike; its number by default.
        layers: one number per layer, no two alike; its position by default.

    Returns:
        The bounds of each layer as `Curve`s; with groups the gains, too.

    Raises:
        TypeError: not tensors or arrays.
        ValueError: other shapes, NaN, negative scores or class indices, a sample without any
            score, fewer than two concepts, class indices beyond the number of samples, one group
            only or one in too few folds, names that are not unique or not one each, unknown
            constants or unit, a training that diverged.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> concept = torch.arange(400) % 2
        >>> noise = torch.randn(1, 400, 3, generator=generator)
        >>> found = concept_information(torch.cat([noise, noise + 9 * concept[:, None]]), concept)
        >>> [round(abs(bits), 1) for bits in found.unconditional.value.tolist()]
        [0.0, 1.0]
    """
    settings = Settings(shared, constants, seed, unit, progress)
    found, said = measure_concepts(settings, hidden, concepts, groups, clusters, ids, layers)
    for words in said:
        warnings.warn(words, stacklevel=2)
    return found
