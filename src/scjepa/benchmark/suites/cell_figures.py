"""Figures of a comparison of cells: maps, scores and robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scjepa._core.palette import palette
from scjepa.benchmark.figures import DEFAULT, OTHER, as_labels, plain_axes
from scjepa.benchmark.figures import umaps as umaps_of
from scjepa.benchmark.suites.cell_tables import HEADINGS, place_of, title_of
from scjepa.benchmark.suites.cell_tasks import BATCHES, DROPOUT, FITTED, PLAIN, ZERO_SHOT, TargetCells
from scjepa.pl.figure import finish, panels

Embeddings = Mapping[tuple[str, str], np.ndarray]
"""By method and read-out."""

_BARS = ("avg_bio", "nmi", "ari", "asw_scaled", "knn_accuracy")
_CURVES = ("neighbors", "label_accuracy", "nmi", "avg_bio")
_FITTED = "#E3C9A8"
"""Bars of methods that have seen the cells that are scored."""

_LINES: dict[str, Literal["--"]] = {"genes": "--"}
"""Of read-outs; others are drawn through."""

_MARKERS = "os^Dv<>P"


def every_figure(
    target: TargetCells, rows: pd.DataFrame, embeddings: Embeddings, integrated: Embeddings
) -> dict[str, Figure]:
    """Return figures by name; what cannot be drawn is left out.

    ``umap`` (a map for each method, by label and by batch), ``umap_batches`` (the same where batches were integrated by
    what can), ``avg_bio`` (bars, seeds as points) and ``dropout`` (curves against the share of molecules).
    """
    scores = rows[rows["value"].notna()]
    figures = {
        "umap": umaps(target, embeddings, _told(scores, ZERO_SHOT, ("avg_bio",))),
        "umap_batches": umaps(target, integrated, _told(scores, BATCHES, ("bio", "batch"))),
        "avg_bio": score_bars(scores),
        "dropout": robustness(scores),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _told(scores: pd.DataFrame, task: str, metrics: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return scores of the embeddings that are drawn, those of each method's first seed, in words."""
    words: dict[tuple[str, str], list[str]] = {}
    for metric in metrics:
        own = scores[(scores["task"] == task) & (scores["metric"] == metric)].sort_values("seed", kind="stable")
        first = own.groupby(["method", "readout"], sort=False)["value"].first()
        for (method, readout), value in first.items():
            words.setdefault((str(method), str(readout)), []).append(f"{HEADINGS[metric]} {value:.2f}")
    return {case: ", ".join(own) for case, own in words.items()}


def umaps(
    target: TargetCells, embeddings: Embeddings, told: Mapping[tuple[str, str], str], seed: int = 0
) -> Figure | None:
    """Draw each method's embedding in two dimensions, colored by label, and below by batch where there is one.

    Of a method with several read-outs the first is drawn; ``told`` is what stands below its name.
    """
    first: dict[str, tuple[str, str]] = {}
    for method, readout in embeddings:
        if len(embeddings[method, readout]) == len(target.labels):
            first.setdefault(method, (method, readout))
    colorings = [as_labels("cell type", target.labels)]
    if target.batches is not None:
        colorings.append(as_labels("batch", target.batches))
    titles = {key: "\n".join([_named(*key), *([told[key]] if key in told else [])]) for key in first.values()}
    return umaps_of({titles[key]: embeddings[key] for key in first.values()}, colorings, seed)


def _named(method: str, readout: str) -> str:
    return title_of(method) if readout == PLAIN else f"{title_of(method)}, {readout}"


def _cases(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """Return methods and read-outs that have scores, methods in their order."""
    found = list(dict.fromkeys(scores[["method", "readout"]].itertuples(index=False, name=None)))
    return sorted(found, key=lambda case: place_of(case[0]))


def score_bars(scores: pd.DataFrame) -> Figure | None:
    """Draw zero-shot scores: a bar for each method and read-out, a panel for each score, seeds as points."""
    own = scores[(scores["task"] == ZERO_SHOT) & scores["metric"].isin(_BARS)]
    if own.empty:
        return None
    cases = _cases(own)
    figure, grid = panels(1, len(_BARS), 2.1, max(1.6, 0.28 * len(cases) + 0.6))
    places = np.arange(len(cases))[::-1]
    for ax, metric in zip(grid[0], _BARS, strict=True):
        for place, case in zip(places, cases, strict=True):
            mine = own[(own["method"] == case[0]) & (own["readout"] == case[1]) & (own["metric"] == metric)]
            values = mine["value"].to_numpy(dtype=float)
            if len(values):
                fitted = (mine["settings"] == FITTED).any()
                color = DEFAULT if case[0] == "celljepa" else _FITTED if fitted else OTHER
                ax.barh(place, values.mean(), color=color, height=0.72)
                ax.scatter(
                    values, np.full(len(values), place), s=14, color="black", zorder=3, linewidths=0, clip_on=False
                )
                ax.text(1.03, place, f"{values.mean():.2f}", va="center", fontsize=7)
        ax.set_title(HEADINGS[metric], fontsize=9)
        ax.set_yticks(places, [_named(*case) for case in cases] if ax is grid[0, 0] else [], fontsize=8)
        ax.set_xlim(min(0.0, float(own["value"].min())), 1)
        plain_axes(ax)
    if (own["settings"] == FITTED).any():
        figure.supxlabel("light brown: fitted on the counts of the cells that are scored", fontsize=8)
    return finish(figure, None, False)


def robustness(scores: pd.DataFrame) -> Figure | None:
    """Draw scores against the share of molecules: a line for each method and read-out, seeds as points."""
    own = scores[(scores["task"] == DROPOUT) & scores["metric"].isin(_CURVES)]
    if own.empty:
        return None
    cases = _cases(own)
    methods = list(dict.fromkeys(method for method, _ in cases))
    colors = dict(zip(methods, palette(max(len(methods), 1)), strict=False))
    figure, grid = panels(1, len(_CURVES), 2.7, 2.6)
    own = own.assign(share=own["group"].str.rstrip("%").astype(float))
    for ax, metric in zip(grid[0], _CURVES, strict=True):
        for method, readout in cases:
            mine = own[(own["method"] == method) & (own["readout"] == readout) & (own["metric"] == metric)]
            means = mine.groupby("share")["value"].mean()
            ours = method == "celljepa"  # on top of the controls, which may lie where it lies
            (line,) = ax.plot(means.index, means, _LINES.get(readout, "-"), color=colors[method])
            line.set(marker=_marker(methods, method), markersize=4, linewidth=2.0 if ours else 1.2)
            line.set_zorder(3 if ours else 2)
            if mine["seed"].nunique() > 1:
                ax.scatter(mine["share"], mine["value"], s=6, color=colors[method], alpha=0.5, linewidths=0)
        ax.set_title(HEADINGS[metric], fontsize=9)
        ax.set_xscale("log")
        shares = sorted(own["share"].unique())
        ax.set_xticks(shares, [f"{value:g}%" for value in shares], fontsize=8)
        ax.minorticks_off()
        ax.invert_xaxis()
        ax.set_ylim(min(0.0, float(own["value"].min())), 1.02)
        plain_axes(ax)
    figure.supxlabel("molecules kept", fontsize=9)
    grid[0, -1].legend(handles=_legend(cases, methods, colors), loc="upper left", bbox_to_anchor=(1.02, 1.0), **_LEGEND)
    return finish(figure, None, False)


_LEGEND = {"frameon": False, "fontsize": 8, "handlelength": 2.4, "borderaxespad": 0.0}


def _legend(cases: Sequence[tuple[str, str]], methods: Sequence[str], colors: Mapping[str, str]) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=colors[method],
            linestyle=_LINES.get(readout, "-"),
            marker=_marker(methods, method),
            markersize=4,
            label=_named(method, readout),
        )
        for method, readout in cases
    ]


def _marker(methods: Sequence[str], method: str) -> str:
    return _MARKERS[methods.index(method) % len(_MARKERS)]
