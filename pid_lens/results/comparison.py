"""Paired comparison of two spectra over the same samples."""

from __future__ import annotations

from pid_lens.results.spectrum import Spectrum


def compare(changed: Spectrum, baseline: Spectrum) -> Spectrum:
    """Subtract a baseline from a spectrum, sample by sample, with the paired standard error.

    ``changed - baseline``: the sampling error that both spectra have in common cancels, so that
    the error of the change is that of the differences of influences, mostly far below the sum of
    the two errors. With an attention knockout as ``changed`` the three figures of the PID Flow
    paper are the change's ``unique_vision`` (trapped visual-unique information), ``synergy``
    (compensatory synergy) and ``information`` (total information cost);
    `Spectrum.effects` lists them.

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
