"""Figures of a study: what speaks for each number of niches, and what differs between conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scjepa.pl.figure import finish, one_panel, panels
from scjepa.tl import NicheNumber

_BLUE, _GRAY, _ORANGE = "#0072B2", "#8C8C8C", "#D55E00"


def niche_number(found: NicheNumber, *, save: str | Path | None = None, show: bool | None = None) -> list[Axes] | None:
    """Draw what :func:`scjepa.tl.niche_number` found: stability, also without clusters, and the other evidence.

    Parameters
    ----------
    found
        What it returned.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    list of matplotlib.axes.Axes or None
        Three panels, where they are not shown. The recommended number is marked; shaded are others that are as stable.

    Raises
    ------
    TypeError
        If ``found`` is something else.

    Examples
    --------
    >>> scjepa.pl.niche_number(scjepa.tl.niche_number(adata))
    """
    if not isinstance(found, NicheNumber):
        raise TypeError(f"found must be what scjepa.tl.niche_number returned, found {type(found).__name__}.")
    table = found.table
    figure, [[left, middle, right]] = panels(1, 3, 3.2, 2.6)
    left.plot(table.index, table["stability"], marker="o", markersize=4, color=_BLUE, label="these cells")
    low, high = (table["stability"] + sign * table["stability_sd"] for sign in (-1, 1))
    left.fill_between(table.index, low, high, color=_BLUE, alpha=0.2, linewidth=0)
    left.plot(table.index, table["stability_null"], color=_GRAY, linestyle="--", label="without clusters")
    lowest = min(0.0, float(np.nanmin(table[["stability", "stability_null"]].to_numpy(dtype=float))))
    left.set(ylabel="ARI between halves of the tissue", ylim=(lowest - 0.02, 1.02), title="stability")
    middle.plot(table.index, table["likelihood"], marker="o", markersize=4, color=_BLUE)
    middle.set(ylabel="nats a cell", title="likelihood of held-out cells")
    for name, color in (("confidence", _BLUE), ("coherence", _ORANGE), ("markers", _GRAY)):
        if table[name].notna().any():
            right.plot(table.index, table[name], marker="o", markersize=4, color=color, label=name)
    right.set(ylim=(-0.02, 1.02), title="other evidence")
    for ax in (left, right):  # below, where no line is
        ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1.0)
    for ax in (left, middle, right):
        for number in found.defensible:
            ax.axvspan(number - 0.5, number + 0.5, color=_GRAY, alpha=0.15, linewidth=0)
        if found.recommended is not None:
            ax.axvline(found.recommended, color=_ORANGE, linewidth=1)
        ax.set(xlabel="niches")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
    verdict = "no clear number" if found.recommended is None else f"recommended: {found.recommended} niches"
    figure.suptitle(verdict, fontsize=10)
    return finish([left, middle, right], save, show)


def differential_niches(
    table: pd.DataFrame,
    *,
    n_rows: int = 20,
    level: float = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw what :func:`scjepa.tl.differential_niches` found: differences of the rows with the smallest p-values.

    Parameters
    ----------
    table
        What it returned.
    n_rows
        Rows at most.
    level
        Adjusted p-value up to which a row is in color; the others are gray.
    title
        Above the panel. ``None``: nothing.
    ax
        Axes to draw in. ``None``: a new figure.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or None
        Differences in log2, with two standard errors to each side, where the figure is not shown.

    Raises
    ------
    ValueError
        If the table lacks columns of that function, no row was tested, or ``n_rows`` is not positive.

    Examples
    --------
    >>> scjepa.pl.differential_niches(scjepa.tl.differential_niches(adata, "treatment", "patient"))
    """
    needed = {"niche", "difference", "spread", "p_adjusted", "n_reference", "n_other"}
    if not needed <= set(table.columns):
        raise ValueError(
            f"table lacks {sorted(needed - set(table.columns))}; pass what tl.differential_niches returned."
        )
    if n_rows < 1:
        raise ValueError(f"n_rows must be positive, found {n_rows}.")
    shown = table.dropna(subset="p_value").head(n_rows)
    if shown.empty:
        raise ValueError("No row of the table was tested: each niche is in fewer than three samples of a condition.")
    names = shown["niche"].astype(str)
    if "feature" in shown:
        names = names + ": " + shown["feature"].astype(str)
    error = 2 * shown["spread"] * np.sqrt(1 / shown["n_reference"] + 1 / shown["n_other"])
    given, ax = ax, one_panel(ax, 4.0, 0.26 * len(shown) + 0.8)
    for row, (difference, half, adjusted) in enumerate(
        zip(shown["difference"], error, shown["p_adjusted"], strict=True)
    ):
        color = _ORANGE if adjusted <= level else _GRAY
        ax.errorbar(difference, row, xerr=half, marker="o", markersize=5, color=color, linewidth=1.2)
    ax.axvline(0, color="0.6", linewidth=0.8)
    ax.set_yticks(range(len(shown)), names)
    ax.set(ylim=(len(shown) - 0.4, -0.6))
    pair = table.attrs.get("conditions", ["the first", "the second"])
    ax.set(xlabel=f"log2 difference, {pair[1]} less {pair[0]} (±2 standard errors)")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if title is not None:
        ax.set_title(title)
    return finish(ax, save, show, given=given)
