"""Figures of scores: agreement against mixing, bars of an ablation, and how many genes cells express."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core.palette import SAFE, palette
from scjepa.benchmark._markdown import HEADINGS
from scjepa.benchmark._occupancy import LENGTHS, expressed_genes
from scjepa.benchmark._tasks import Task
from scjepa.pl.figure import finish, panels

_MARKERS = "os^Dv<>Ph"

_DEFAULT, _OTHER = SAFE[0], "#A9B0C6"
"""Bars of the default, and of the others."""

_CONTROL = SAFE[3]
"""Lines of the untrained encoder."""

_SIDES = ("top", "right")


def agreement_against_mixing(table: pd.DataFrame, mixing: str) -> Figure | None:
    """Draw NMI against iLISI, a panel for each read-out, a marker for each method.

    Parameters
    ----------
    table
        Rows of Table 1 of one task: agreement weighted by cells (or of the only technology), mixing of all cells.
    mixing
        ``"ilisi_technology"`` or ``"ilisi_section"``.
    """
    shown = table[table["nmi"].notna() & table[mixing].notna()]
    if shown.empty:
        return None
    names = list(dict.fromkeys(_names(shown)))
    readouts = list(dict.fromkeys(shown["readout"]))
    colors = dict(zip(names, palette(max(len(names), 1)), strict=False))
    figure, grid = panels(1, len(readouts), 3.6, 3.2)
    for ax in grid[0, 1:]:  # before anything is drawn: limits then take in the points of all
        ax.sharex(grid[0, 0])
        ax.sharey(grid[0, 0])
    for ax, readout in zip(grid[0], readouts, strict=True):
        own = shown[shown["readout"] == readout]
        for name, row in zip(_names(own), own.to_dict("records"), strict=True):
            marker = _MARKERS[names.index(name) // len(SAFE) % len(_MARKERS)]
            ax.errorbar(
                row[mixing],
                row["nmi"],
                xerr=_bar(row, f"{mixing}_std_seeds"),
                yerr=_bar(row, "nmi_std_seeds"),
                fmt=marker,
                color=colors[name],
                markersize=8,
                markeredgecolor="black",
                markeredgewidth=0.5,
                elinewidth=1,
                label=name,
            )
        ax.set_title(f"read-out: {readout}", fontsize=10)
        ax.set_xlabel(f"{HEADINGS[mixing]} (higher: better mixed)")
        ax.spines[list(_SIDES)].set_visible(False)
        ax.margins(0.12)
    grid[0, 0].set_ylabel("NMI (mean over resolutions)")
    handles = {label: handle for ax in grid[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    grid[0, -1].legend(
        [handles[name] for name in names],
        names,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        frameon=False,
        fontsize=9,
    )
    return finish(figure, None, False)


def _names(table: pd.DataFrame) -> list[str]:
    """Return names of methods, with their settings where a method has several."""
    several = table.groupby("method")["settings"].nunique()
    return [f"{row.method}, {row.settings}" if several[row.method] > 1 else row.method for row in table.itertuples()]


def _bar(row: dict, column: str) -> float | None:
    value = row.get(column)
    return None if value is None or pd.isna(value) else value


def ablation_bars(table: pd.DataFrame, axis: str) -> Figure | None:
    """Draw the levels of an axis: a row for each technology, a column for each of four metrics.

    Bars are means over seeds and resolutions, error bars the standard deviation over seeds; the default is dark. A line
    across a bar is the untrained encoder of that level, where it took part.

    Parameters
    ----------
    table
        Rows of Table 2 of one task and one read-out.
    axis
        The axis.
    """
    shown = table[(table["axis"] == axis) & table["reason"].isna()]
    metrics = _four(shown)
    if shown.empty or not metrics:
        return None
    shown = shown[shown[metrics].notna().any(axis=1)]  # labels carried from one technology to another are not drawn
    groups = list(dict.fromkeys(shown["group"]))
    levels = list(dict.fromkeys(table.loc[table["axis"] == axis, "value"]))
    figure, grid = panels(len(groups), len(metrics), max(2.2, 0.45 * len(levels) + 1.2), 2.0)
    for row, group in enumerate(groups):
        own = shown[shown["group"] == group].set_index("value")
        for column, metric in enumerate(metrics):
            _bars(grid[row, column], own, levels, metric)
            if row == 0:
                grid[row, column].set_title(HEADINGS[metric], fontsize=10)
            if column == 0:
                grid[row, column].set_ylabel(group, fontsize=9)
            if row == len(groups) - 1:
                grid[row, column].set_xlabel(axis, fontsize=9)
    figure.suptitle(_heading(axis, shown, metrics), fontsize=10)
    return finish(figure, None, False)


def _heading(what: str, shown: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Return what bars are of, at which read-out, and what the line across them is."""
    readouts = list(dict.fromkeys(shown["readout"])) if "readout" in shown else []
    crossed = any(f"{m}_untrained" in shown and shown[f"{m}_untrained"].notna().any() for m in metrics)
    return ", ".join([what, *(f"read-out: {name}" for name in readouts), *(["line: untrained"] if crossed else [])])


def _four(table: pd.DataFrame) -> list[str]:
    """Return the four metrics that are drawn: with mixing where it was measured, else matched scores."""
    for metrics in (
        ("nmi", "ari", "ilisi_technology", "mmd_technology"),
        ("nmi", "ari", "ilisi_section", "mmd_section"),
        ("nmi", "ari", "nmi_matched", "ari_matched"),
    ):
        if all(metric in table and table[metric].notna().any() for metric in metrics):
            return list(metrics)
    return [metric for metric in HEADINGS if metric in table and table[metric].notna().any()][:4]


def _bars(ax: Axes, own: pd.DataFrame, levels: Sequence[str], metric: str) -> None:
    if metric not in own or own[metric].isna().all():
        ax.set_axis_off()
        return
    heights = own[metric].reindex(levels)
    errors = own.get(f"{metric}_std_seeds", pd.Series(np.nan, index=own.index)).reindex(levels)
    default = own["default"].reindex(levels, fill_value=False).astype(bool)
    places = np.arange(len(levels))
    ax.bar(places, heights, color=[_DEFAULT if is_default else _OTHER for is_default in default], width=0.75)
    has = errors.notna().to_numpy()
    ax.errorbar(places[has], heights[has], errors[has], fmt="none", color="black", elinewidth=1, capsize=2)
    beside = own.get(f"{metric}_untrained", pd.Series(np.nan, index=own.index)).reindex(levels)
    ax.hlines(beside, places - 0.45, places + 0.45, color=_CONTROL, linewidth=2)
    long = max(map(len, levels)) > 5
    ax.set_xticks(places, levels, rotation=45 if long else 0, ha="right" if long else "center", fontsize=8)
    ax.tick_params(axis="y", labelsize=8)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.spines[list(_SIDES)].set_visible(False)


def normalization_families(table: pd.DataFrame, axis: str = "tokens.values × tokens.ranks") -> Figure | None:
    """Draw normalizations in three families: of values alone, of ranks alone, and of both; NMI and ARI.

    The default is dark; a line across a bar is the untrained encoder of that level, where it took part.

    Parameters
    ----------
    table
        Rows of Table 2 of one task, read-out and technology.
    axis
        Name of the grid.
    """
    shown = table[(table["axis"] == axis) & table["reason"].isna()]
    if shown.empty or not shown["default"].any():
        return None
    pairs = shown["value"].str.split(" × ", expand=True)
    values, ranks = shown.loc[shown["default"], "value"].iloc[0].split(" × ")
    families = {
        "values alone": (pairs[1] == ranks, pairs[0]),
        "ranks alone": (pairs[0] == values, pairs[1]),
        "both alike": (pairs[0] == pairs[1], pairs[0]),
    }
    figure, grid = panels(2, 3, 2.8, 2.2)
    top = {metric: float(shown[metric].max()) for metric in ("nmi", "ari")}
    for column, (family, (rows, names)) in enumerate(families.items()):
        own = shown[rows].assign(value=names[rows]).drop_duplicates("value").set_index("value")
        for row, metric in enumerate(("nmi", "ari")):
            _bars(grid[row, column], own, list(own.index), metric)
            grid[row, column].set_ylim(min(0.0, float(shown[metric].min())), 1.08 * top[metric])
        grid[0, column].set_title(family, fontsize=10)
    grid[0, 0].set_ylabel("NMI")
    grid[1, 0].set_ylabel("ARI")
    figure.suptitle(_heading("normalization of values and ranks", shown, ("nmi", "ari")), fontsize=10)
    return finish(figure, None, False)


def expressed_genes_per_cell(task: Task, lengths: Sequence[int] = LENGTHS) -> Figure:
    """Draw how many genes cells express, a panel for each technology, and how many cells fill L tokens."""
    counts = expressed_genes(task.adata.X)
    names = np.unique(task.technologies)
    figure, grid = panels(len(names), 1, 5.5, 2.4)
    most = max(int(counts.max()), 2)
    edges = np.unique(np.round(np.geomspace(1, most + 1, 50)).astype(int))
    for ax, name in zip(grid[:, 0], names, strict=True):
        own = counts[task.technologies == name]
        # Wide bins hold several numbers of genes, narrow ones one: without the width the bars would jump.
        ax.stairs(np.histogram(np.maximum(own, 1), edges)[0] / np.diff(edges), edges, fill=True, color=_OTHER)
        ax.set_xscale("log", base=2)
        ax.set_xlim(1, 2.6 * most)
        top = ax.get_ylim()[1]
        for length in (length for length in lengths if length <= 2 * most):
            ax.axvline(length, color=_DEFAULT, linewidth=1)
            text = f" L={length}\n {(own >= length).mean():.0%}"
            ax.text(length, 1.3 * top, text, va="top", ha="left", fontsize=8, color=_DEFAULT)
        ax.set_ylim(0, 1.3 * top)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_title(f"{name}: {len(own):,} cells; under each L the cells that fill it", fontsize=9)
        ax.set_ylabel("cells per number of genes", fontsize=9)
        ax.spines[list(_SIDES)].set_visible(False)
    grid[-1, 0].set_xlabel("genes that a cell expresses")
    return finish(figure, None, False)
