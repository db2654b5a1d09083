"""Compare: two spectra of the same samples, paired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pid_lens.differences import DIFFERENCE

if TYPE_CHECKING:
    import pandas as pd

    from pid_lens.spectra import Spectrum

EFFECTS = {
    "trapped visual-unique information": "unique_vision",
    "compensatory synergy": "synergy",
    "total information cost": "information",
}


def compare(changed: Spectrum, baseline: Spectrum) -> Spectrum:
    """What changed from a baseline, with the error of the change.

    ``changed - baseline``, sample by sample: what both spectra owe to the draw of the samples
    cancels, so that the error of the change is that of the differences of influences, mostly far
    below the two errors' sum. With a knockout as ``changed`` the three figures of the PID Flow
    paper are its ``unique_vision`` (trapped visual-unique information), ``synergy``
    (compensatory synergy) and ``information`` (total information cost); `effects` lists them.

    Args:
        changed: the spectrum after a change (a knockout, a later checkpoint).
        baseline: the spectrum before it, over the same sample ids.

    Returns:
        A `Spectrum` of differences; ``standard_error`` and ``interval`` are paired.

    Raises:
        ValueError: other samples, layers, unit, estimator, repair or threshold.

    Example:
        >>> import pid_lens
        >>> batches = pid_lens.demo.batches("synergy", n=128)
        >>> before, after = (
        ...     pid_lens.spectrum(pid_lens.demo.load(name)[0], batches)
        ...     for name in ("tune-0150", "final")
        ... )
        >>> change = compare(after, before)
        >>> bool(change.synergy[-1] > 5 * change.standard_error("synergy")[-1])
        True
    """
    return changed - baseline


def effects(change: Spectrum) -> pd.DataFrame:
    """The three figures by which the PID Flow paper sums up a knockout, with errors.

    ======================================= ==================================================
    trapped visual-unique information       change of U_vision. On answers: below 0, what only
                                            vision told and no longer reaches them; on states, as
                                            in the paper, it may rise
    compensatory synergy                    change of S
    total information cost                  change of I(X1, X2; Y) = R + U_vision + U_language + S
    ======================================= ==================================================

    Args:
        change: `compare(with_knockout, without)`.

    Returns:
        One row a layer: each figure and its paired standard error (``..., error``), in the unit
        of the spectra.

    Raises:
        ValueError: it is no difference of two spectra, or has no errors.

    Source:
        How vision becomes language: a layer-wise information-theoretic analysis of multimodal
        reasoning (Wu et al., 2026), https://arxiv.org/abs/2602.15580

    Example:
        >>> import pid_lens
        >>> model, processor = pid_lens.demo.load()
        >>> batches = pid_lens.demo.batches("vision", n=64)
        >>> hidden = [pid_lens.Knockout("image", "question")]
        >>> closed = pid_lens.spectrum(model, batches, interventions=hidden)
        >>> change = compare(closed, pid_lens.spectrum(model, batches))
        >>> bool(effects(change)["trapped visual-unique information"].iloc[-1] < -0.9)
        True
    """
    import pandas as pd

    if not change.estimator.startswith(DIFFERENCE):
        raise ValueError(
            f"the effects of a knockout are differences: effects(compare(with_it, without)); got "
            f"a spectrum of {change.estimator}"
        )
    columns: dict[str, Any] = {}
    for figure, name in EFFECTS.items():
        columns[figure] = getattr(change, name).numpy()
        columns[f"{figure}, error"] = change.standard_error(name).numpy()
    return pd.DataFrame(columns, index=pd.Index(change.layers, name="layer"))
