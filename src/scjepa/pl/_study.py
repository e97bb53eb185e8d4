"""Figures of a study: numbers of niches, what differs between conditions, what makes a niche, surprising cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scjepa._core import keys as _keys
from scjepa._core.anndata import column_of
from scjepa._core.plain import whole
from scjepa.pl._maps import MapOptions, draw_map
from scjepa.pl.figure import Drawn, blocks, finish, one_panel, panels
from scjepa.pl.labels import Numbers, cells_of
from scjepa.tl import NicheNumber

if TYPE_CHECKING:
    from spatialdata import SpatialData


_BLUE, _GRAY, _ORANGE = "#0072B2", "#8C8C8C", "#D55E00"

_LINE, _WIDTH = 0.2, 2.6
"""Height of a bar and width of a panel in inches."""

_SURE, _UNSURE = "#0072B2", "#BFBFBF"
"""Drivers below the false discovery rate, and the others."""

_KINDS = {"neighbor": "neighbor hidden", "gene": "gene hidden"}

_FINEST = 1e-2
"""P-values of this and less have the last color of a map."""


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
    shown = table.dropna(subset="p_value").head(whole("n_rows", n_rows, least=1))
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


# -- drivers and surprise ----------------------------------------------------------------------------------------------


def niche_drivers(
    drivers: pd.DataFrame,
    *,
    n_drivers: int = 6,
    fdr: float = 0.05,
    ncols: int | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw which neighbors and genes speak for each niche, after :func:`scjepa.tl.niche_drivers` or ``model.explain``.

    A block for each niche: bars of the mean fall of its log-odds when a neighbor (above) or a gene (below) is hidden,
    the strongest against the null first; blue where the false discovery rate is met, gray where not. The line is the
    null, its mean and two standard deviations about it.

    Parameters
    ----------
    drivers
        Table of drivers.
    n_drivers
        Bars of a panel, at most.
    fdr
        False discovery rate.
    ncols
        Blocks in a row.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    list of matplotlib.axes.Axes or None
        One or two panels for each niche, where they are not shown.

    Raises
    ------
    KeyError
        If the table has not the columns of drivers.
    ValueError
        If the table is empty, or ``n_drivers`` is not positive.

    Examples
    --------
    >>> scjepa.pl.niche_drivers(scjepa.tl.niche_drivers(adata))
    """
    n_drivers = whole("n_drivers", n_drivers, least=1)
    missing = [name for name in ("niche", "kind", "driver", "effect", "null_sd") if name not in drivers]
    if missing:
        raise KeyError(f"The table has no column {missing[0]!r}: pass what scjepa.tl.niche_drivers(adata) returns.")
    if not len(drivers):
        raise ValueError("The table has no driver: no niche had five cells with a neighbor to hide.")
    niches = list(dict.fromkeys(drivers["niche"]))
    kinds = [kind for kind in _KINDS if (drivers["kind"] == kind).any()]
    _, places = blocks(len(niches), len(kinds), _WIDTH, n_drivers * _LINE + 0.3, ncols)
    for niche, axes in zip(niches, places, strict=True):
        for kind, ax in zip(kinds, axes, strict=True):
            own = drivers[(drivers["niche"] == niche) & (drivers["kind"] == kind)]
            _draw_drivers(ax, own.nlargest(n_drivers, "z"), n_drivers, fdr)
            ax.set_title(f"{niche}: {_KINDS[kind]}", fontsize=9, loc="left")
        axes[-1].set_xlabel("fall of log-odds", fontsize=8)
    return finish(list(places.flat), save, show)


def _draw_drivers(ax: Axes, own: pd.DataFrame, n_drivers: int, fdr: float) -> None:
    place = np.arange(len(own))
    colors = np.where(own["p_adjusted"] <= fdr, _SURE, _UNSURE)
    ax.barh(place, own["effect"], height=0.75, color=colors)
    ax.errorbar(own["null_mean"], place, xerr=2 * own["null_sd"], fmt="none", ecolor="black", elinewidth=0.8)
    rings = [_named(ring) for ring in own["ring"]]
    ax.set_yticks(place, [f"{name}{ring}" for name, ring in zip(own["driver"], rings, strict=True)], fontsize=8)
    ax.set_ylim(n_drivers - 0.5, -0.5)
    ax.axvline(0, color="black", linewidth=0.5)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _named(ring: object) -> str:
    if pd.isna(ring):
        return ""
    return ", itself" if ring == 0 else f", ring {ring}"


def surprise(
    adata: AnnData | SpatialData,
    key: str = "surprise",
    *,
    title: str | None = None,
    library_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    unit: str | None = None,
    pixel_size: float | None = None,
    ncols: int | None = None,
    size: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Drawn | None:
    """Draw how surprising each cell is among cells of its type and depth, one panel for each section.

    The color is the p-value on a logarithmic axis, from 1 to 0.01 and less; the most surprising cells lie on top, those
    without neighbors are gray. For spillover pass its key. Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Annotated data after :func:`scjepa.tl.surprise` or :func:`scjepa.tl.spillover`.
    key
        Column of ``adata.obs`` that they wrote; the p-values are in a column of the same name and ``_p_value``.
    title
        What the color is called. ``None``: "log10 p" and the key.
    library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or list of them or None
        As for :func:`scjepa.pl.niches`.

    Raises
    ------
    KeyError
        If the p-values are not there, with the next call.
    ValueError
        If ``ax`` is given for more than one panel.

    Examples
    --------
    >>> scjepa.tl.surprise(adata)
    >>> scjepa.pl.surprise(adata)
    """
    adata = cells_of(adata, spatial_key)
    found = column_of(adata, f"{key}_p_value", f"Compute it first: scjepa.tl.{key}(adata)")
    values = np.log10(np.maximum(found.to_numpy(dtype=np.float64, na_value=np.nan), _FINEST))
    drawn = [Numbers(title or f"log10 p, {key}", values, float(np.log10(_FINEST)), 0.0, lowest_on_top=True)]
    return draw_map(adata, drawn, MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show))
