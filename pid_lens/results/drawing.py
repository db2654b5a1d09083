"""Plots of spectra over the layers; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pid_lens.results.atoms import ATOMS
from pid_lens.results.layer_atoms import LayerAtoms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STYLE = {
    "redundancy": ("#009E73", "o", "redundancy: either alone"),
    "unique_vision": ("#0072B2", "s", "unique vision"),
    "unique_language": ("#E69F00", "D", "unique language"),
    "synergy": ("#CC3311", "^", "synergy: only both"),
}
"""Colour (distinct in grey and to colour-blind readers), marker and label of each atom."""


def plot_spectrum(spectrum: LayerAtoms, ax: Axes | None = None) -> Axes:
    """Plot the four atoms and their sum over the layers.

    The darker band around a line is its 95 % interval (`Spectrum.interval`: sampling error,
    certified gap, and the bracket of the bias), the lighter one reaches to the other repair's
    result, where there is one. A dotted line is the unique information of the permutation test's
    null (``floor``). Hollow markers: layers not to be relied on (``doubtful``).

    Example:
        >>> import pid_lens
        >>> model, _ = pid_lens.demo.load()
        >>> found = pid_lens.spectrum(model, pid_lens.demo.batches("vision", n=64))
        >>> ax = plot_spectrum(found)
        >>> drawn = next(line for line in ax.lines if line.get_color() == "#0072B2")
        >>> drawn.get_ydata().tolist() == found.unique_vision.tolist(), ax.get_ylabel()
        (True, 'information (bits)')
    """
    ax = layer_axes(ax)
    ax.plot(
        spectrum.layers,
        spectrum.information,
        color="0.45",
        linestyle=(0, (4, 2)),
        linewidth=1.2,
        label="all information",
        zorder=1,
    )
    for name in ATOMS:
        _draw_atom(ax, spectrum, name)
    label_layers(ax, spectrum.layers, f"information ({spectrum.unit})")
    if not ax.get_legend():
        ax.legend(frameon=False, fontsize="small")
    return ax


def plot_spectra(spectra: Mapping[str, LayerAtoms], title: str | None = None) -> Figure:
    """Plot several spectra side by side, one panel each, with one scale and one legend.

    Args:
        spectra: title of the panel -> spectrum.
        title: of the figure.

    Example:
        >>> import pid_lens, torch
        >>> spectra = {}
        >>> for name, p in {"unsure": torch.ones(2, 2) / 2, "sure": torch.eye(2)}.items():
        ...     reads = pid_lens.Reads.from_posteriors(p.log().expand(2, 3, 2, 2))
        ...     spectra[name] = pid_lens.BROJA().update(reads).result()
        >>> axes = plot_spectra(spectra).axes
        >>> total = [next(one for one in ax.lines if one.get_color() == "0.45") for ax in axes]
        >>> [(ax.get_title(), all(one.get_ydata() > 0.9)) for ax, one in zip(axes, total)]
        [('unsure', False), ('sure', True)]
    """
    import matplotlib.pyplot as plt

    width = 2.6 * len(spectra) + 0.6
    figure, axes = plt.subplots(
        1, len(spectra), figsize=(width, 3.5), sharey=True, layout="constrained", squeeze=False
    )
    for ax, (name, spectrum) in zip(axes[0], spectra.items(), strict=True):
        plot_spectrum(spectrum, ax)
        ax.set_title(name, fontsize="medium", fontweight="bold")
        handles, labels = ax.get_legend_handles_labels()
        ax.get_legend().remove()
        ax.label_outer()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize="small"
    )
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def _draw_atom(ax: Axes, spectrum: LayerAtoms, name: str) -> None:
    colour, marker, label = STYLE[name]
    value, half = getattr(spectrum, name), spectrum.gap / 2
    low, high = value - half, value + half
    # Darker band: the 95 % confidence interval
    if spectrum.influence is not None:
        ax.fill_between(
            spectrum.layers, *spectrum.interval(name), color=colour, alpha=0.3, linewidth=0
        )
    # Lighter band: from the certified interval to the other repair's value
    if spectrum.sensitivity is not None:
        other = getattr(spectrum.sensitivity, name)
        low, high = low.fmin(other), high.fmax(other)
    ax.fill_between(spectrum.layers, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(spectrum.layers, value, color=colour, linewidth=1.6, zorder=2)
    # Dotted line: mean of the permutation test's null
    if spectrum.floor is not None and name.startswith("unique"):
        chance = getattr(spectrum.floor, name).mean(0)
        ax.plot(spectrum.layers, chance, color=colour, linestyle=":", linewidth=1.2, zorder=1)
    # Hollow markers: doubtful layers
    for hollow in (False, True):
        at = (spectrum.doubtful == hollow).nonzero().flatten().tolist()
        ax.plot(
            [spectrum.layers[i] for i in at],
            value[at],
            linestyle="none",
            marker=marker,
            markersize=5.5,
            markeredgecolor=colour,
            markeredgewidth=1.4,
            markerfacecolor="white" if hollow else colour,
            label=None if hollow else label,
            zorder=3,
        )


def layer_axes(ax: Axes | None = None) -> Axes:
    """Prepare axes over the layers, those given or new ones, with a line at 0."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    return ax


def label_layers(ax: Axes, layers: tuple[int, ...], what: str) -> None:
    """Label both axes, at most nine evenly spaced layers, and remove the top and right frame."""
    ax.set_xlabel("layer")
    ax.set_ylabel(what)
    ax.set_xticks(list(layers[:: -(-len(layers) // 9)]))
    ax.spines[["top", "right"]].set_visible(False)
