"""Figures of comparisons: maps on the tissue and in two dimensions, scores, ablations, robustness."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scjepa._core import keys as _keys
from scjepa._core.leiden import umap_of
from scjepa._core.palette import SAFE, palette
from scjepa.benchmark.method import OWN, Parts
from scjepa.benchmark.score import ALL, HARMONY
from scjepa.benchmark.store import Level, RunKey, Store
from scjepa.benchmark.suites.cell_tasks import BATCHES, DROPOUT, FITTED, PLAIN, ZERO_SHOT, TargetCells
from scjepa.benchmark.suites.cells import place_of, title_of
from scjepa.benchmark.suites.section_models import OURS
from scjepa.benchmark.suites.sections import SHOWN, WEIGHTED, table_1, table_2
from scjepa.benchmark.suites.tissue import TECHNOLOGIES, Task
from scjepa.benchmark.table import LENGTHS, expressed_genes, heading, with_values
from scjepa.metrics import nmi
from scjepa.pl.figure import apart, bare, panels, point_size
from scjepa.pl.labels import Labels

DEFAULT, OTHER = SAFE[0], "#A9B0C6"
"""Bars of what is looked at, and of the others."""

SIZE, WRAP = 2.5, 4
"""Width of a map in inches, and maps in a row."""

_MARKERS = "os^Dv<>Ph"

_LETTER = 0.085
"""Width of a letter of the legend in inches."""


def as_labels(title: str, values: np.ndarray) -> Labels:
    """Return names, ``None`` for cells without one, as colored labels."""
    codes, names = pd.factorize(pd.Series(values, dtype=object), sort=True)
    named = list(map(str, names))
    return Labels(title, codes.astype(np.int64), named, palette(len(named)), False)


def plain_axes(ax: Axes) -> None:
    """Take away what scores do not need: two sides of the frame, and large labels."""
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def umaps(embeddings: Mapping[str, np.ndarray], colorings: Sequence[Labels]) -> Figure | None:
    """Draw embeddings in two dimensions, once for each coloring, below one another.

    Parameters
    ----------
    embeddings
        ``(n_cells, n_dims)`` by what stands above them.
    colorings
        Labels of the cells.
    """
    if not embeddings:
        return None
    n_cols = min(WRAP, len(embeddings))
    blocks = -(-len(embeddings) // n_cols)
    figure, grid = panels(blocks * len(colorings), n_cols, SIZE, SIZE + 0.35)
    longest = max(len(name) for labels in colorings for name in labels.names)
    figure.set_figwidth(n_cols * SIZE + 0.7 + _LETTER * longest)  # else the legend takes its room from the maps
    order = np.random.default_rng(0).permutation(len(colorings[0].codes))
    for number, (title, embedding) in enumerate(embeddings.items()):
        block, column = divmod(number, n_cols)
        xy = umap_of(np.asarray(embedding), 15, 0)
        for row, labels in enumerate(colorings):
            ax = grid[block * len(colorings) + row, column]
            labels.draw(ax, xy, order, min(point_size(xy, SIZE, SIZE), 8.0))
            bare(ax)
            ax.set_box_aspect(1)
            if row == 0:
                ax.set_title(title, fontsize=9)
            if column == 0:
                ax.set_ylabel(labels.title, fontsize=9)
    for row, labels in enumerate(colorings):
        labels.legend(grid[row, n_cols - 1], SIZE, titled=False)
    for number in range(len(embeddings), blocks * n_cols):
        for row in range(len(colorings)):
            grid[number // n_cols * len(colorings) + row, number % n_cols].set_axis_off()
    return apart(figure)


def _beside(ax: Axes, handles: Sequence[Artist], labels: Sequence[str], size: int, **more: float) -> None:
    """Draw a legend to the right of a panel."""
    ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=size, **more)


# -- of sections ---------------------------------------------------------------------------------------------------

METATOKEN, NORMALIZATIONS = "encoder.metatoken", "tokens.values × tokens.ranks"
"""Axis whose levels are drawn on the tissue, and the grid whose levels are drawn in families."""

_CONTROL = SAFE[3]
"""Lines of the untrained encoder."""

_AREA = 5.0
"""Area of a panel in square inches."""

_FIRST = (
    *("niche+X", "niche", "hops", "z30", "plain", OWN),
    *("aligned_niche+X", "aligned_niche", "aligned_hops", "aligned30"),
)

PREFERRED = (*_FIRST, *(f"{name}{HARMONY}" for name in _FIRST if name != OWN))
"""Which read-out of a method is drawn where there are no labels: the first that it has."""


def figures_of_sections(tasks: Sequence[Task], store: Store, rows: pd.DataFrame) -> dict[str, Figure]:
    """Return figures by name; what cannot be drawn is left out.

    ``niches`` (maps of each task, NMI above each), ``umap`` (by technology), ``nmi_ilisi``, ``ablation`` (bars of each
    axis), ``normalizations``, ``metatoken`` (maps) and ``expressed_genes``, each followed by the name of its data.
    """
    return {name: figure for name, figure in _figures(tasks, store, rows) if figure is not None}


def _figures(tasks: Sequence[Task], store: Store, rows: pd.DataFrame) -> Iterator[tuple[str, Figure | None]]:
    one, two = table_1(rows), table_2(rows, store.levels)
    changed = _changed(store.levels)
    for task in tasks:
        name = _file_name(task)
        own = _of(one, task)
        found = found_of(task, store, _first_runs(task, store, changed))
        if found:
            yield f"niches_{name}", niche_maps(task, found)
        if found and task.kind == TECHNOLOGIES:
            embedded = {f"{one.title}\n{one.readout}": one.embedding for one in found if one.embedding is not None}
            known = _known(task)
            colorings = [as_labels("technology", task.technologies), *([] if known is None else [known])]
            yield f"umap_{name}", umaps(embedded, colorings)
        for mixing in with_values(own, ("ilisi_technology", "ilisi_section")):
            yield f"nmi_{mixing}_{name}", agreement_against_mixing(_joined(own, mixing, changed), mixing)
        yield f"expressed_genes_{name}", expressed_genes_per_cell(task)
        if len(two):
            yield from _ablation(task, name, _of(two, task), store)


def _changed(levels: Sequence[Level]) -> set[str]:
    """Return the configurations that an ablation made, which the figures of all methods leave out."""
    default = {name for level in levels if level.default for name in (level.configuration, level.untrained)}
    return {name for level in levels for name in (level.configuration, level.untrained)} - default - {""}


def _ablation(task: Task, name: str, table: pd.DataFrame, store: Store) -> Iterator[tuple[str, Figure | None]]:
    readout = next((r for r in PREFERRED if r in set(table["readout"])), None)
    shown = table[(table["readout"] == readout) | table["reason"].notna()]
    for axis in dict.fromkeys(shown["axis"]):
        if " × " not in axis:
            yield f"ablation_{axis}_{name}", ablation_bars(shown, axis)
    group = WEIGHTED if WEIGHTED in set(shown["group"]) else next(iter(shown["group"].dropna()), None)
    yield f"normalizations_{name}", normalization_families(shown[shown["group"] == group])
    if METATOKEN in set(shown["axis"]):
        levels = {level.value: level.configuration for level in store.levels if level.axis == METATOKEN}
        keys = {
            {"True": "with metatoken", "False": "without metatoken"}.get(value, value): key
            for value, configuration in levels.items()
            for key in _runs(task, store)
            if key.method == OURS and key.configuration == configuration and key.seed == 0
        }
        found: list[Found] = found_of(task, store, keys)
        if found:
            yield f"metatoken_{name}", niche_maps(task, found)


def _of(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    return table[(table["data"] == task.data) & (table["task"] == task.kind)]


def _runs(task: Task, store: Store) -> list[RunKey]:
    return [key for key in store.keys if key.data == task.data and key.task == task.kind]


def _first_runs(task: Task, store: Store, changed: set[str]) -> dict[str, RunKey]:
    """Return the run of the lowest seed of each method, levels of an ablation left out, by a title."""
    runs = [key for key in _runs(task, store) if key.configuration not in changed]
    first: dict[tuple[str, str, str], RunKey] = {}
    for key in sorted(runs, key=lambda key: key.seed):
        first.setdefault((key.method, key.settings, key.configuration), key)
    several = pd.Series([method for method, _, _ in first]).value_counts()
    titles = {}
    for key in _runs(task, store):
        if key in first.values():
            more = [word for word in (key.settings, key.configuration) if word != "-"]
            titles[", ".join([key.method, *(more if several[key.method] > 1 else [])])] = key
    return titles


def _joined(table: pd.DataFrame, mixing: str, changed: set[str]) -> pd.DataFrame:
    """Return one row for each method and read-out: agreement weighted by cells, mixing of all cells."""
    table = table[~table["configuration"].isin(changed)]
    if not (table["group"] == WEIGHTED).any():
        return table
    keys = ["method", "settings", "configuration", "readout"]
    mixed = [column for column in table if column.startswith(mixing)]
    weighted = table[table["group"] == WEIGHTED].drop(columns=mixed)
    return weighted.merge(table.loc[table["group"] == ALL, [*keys, *mixed]], on=keys)


def _file_name(task: Task) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", f"{task.data}_{task.kind}").strip("_")


# -- on the tissue ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a method found on a task: its name in the figure, and its clusters and embedding at one read-out."""

    title: str
    readout: str
    clusters: np.ndarray
    embedding: np.ndarray | None


def found_of(task: Task, store: Store, keys: Mapping[str, RunKey]) -> list[Found]:
    """Return what runs found, by the titles given; runs whose arrays are not there are left out.

    Every method is shown at the read-out that is best for it, by NMI: one for all would favor whom it suits.
    """
    results = []
    for title, key in keys.items():
        arrays = store.arrays(key)
        clusters = {name: arrays[f"clusters_{name}"] for name in PREFERRED if f"clusters_{name}" in arrays}
        clusters = {name: own for name, own in clusters.items() if len(own) == len(task.labels)}
        if clusters:
            readout = max(clusters, key=lambda name: _nmi_of(task, clusters[name]))
            results.append(Found(title, readout, clusters[readout], arrays.get(f"embedding_{readout}")))
    return results


def _nmi_of(task: Task, clusters: np.ndarray) -> float:
    if task.n_labels < 2:
        return 0.0  # the first of all equals
    return nmi(task.labels[task.labelled], clusters[task.labelled], ignore=())


def _known(task: Task) -> Labels | None:
    if not task.labelled.any():
        return None
    labels = task.labels.copy()
    labels[~task.labelled] = None
    return as_labels("labels", labels)


def niche_maps(task: Task, found: Sequence[Found]) -> Figure:
    """Draw the labels and each method's niches on the tissue, read-out and NMI above each.

    A row for each method and a column for each section; where there is one section, methods side by side. Niches take
    the color of the label they share most cells with, one to one; the legend has the colors of those left over too.
    """
    known = _known(task)
    layers: list[tuple[str, Labels]] = [] if known is None else [("labels", known)]
    for one in found:
        own = as_labels(one.title, one.clusters)
        layers.append((f"{one.title}, {one.readout}", own if known is None else own.colored_like(known)))
    legend = known if known is None else _with_left_over(known, [labels for _, labels in layers])
    places = np.asarray(task.adata.obsm[_keys.SPATIAL])[:, :2]
    sections = {name: np.flatnonzero(task.sections == name) for name in np.unique(task.sections)}
    width, height = _panel_size(places, sections)
    single = len(sections) == 1
    n_cols = min(WRAP, len(layers)) if single else len(sections)
    n_rows = -(-len(layers) // n_cols) if single else len(layers)
    figure, grid = panels(n_rows, n_cols, width, height + 0.5)
    axes = iter(grid.flat)
    for number, (title, labels) in enumerate(layers):
        for name, rows in sections.items():
            ax = next(axes)
            labels.draw(ax, places, rows, point_size(places[rows], width, height))
            ax.set_aspect("equal")
            bare(ax)
            score = "" if labels is known or known is None else _agreement(task, labels, rows)
            head = title if single else f"{_section(task, name, rows) if number == 0 else name}: {title}"
            ax.set_title("\n".join(part for part in (head, score) if part), fontsize=9)
            if labels is known and legend is not None and name == list(sections)[-1] and not single:
                legend.legend(ax, height, titled=False)
        if number == 0 and single and legend is not None:
            legend.legend(grid[0, n_cols - 1], height, titled=False)
    for unused in axes:
        unused.remove()
    return apart(figure)


def _with_left_over(known: Labels, drawn: Sequence[Labels]) -> Labels:
    """Return the labels with the colors of niches that are matched with none."""
    further = list(dict.fromkeys(c for labels in drawn for c in labels.colors if c not in known.colors))
    return replace(known, names=[*known.names, *["unmatched" for _ in further]], colors=[*known.colors, *further])


def _section(task: Task, name: str, rows: np.ndarray) -> str:
    """Return a section's name, and its technology's where there are several."""
    technology = task.technologies[rows[0]]
    return name if technology == name or len(set(task.technologies)) == 1 else f"{name} ({technology})"


def _agreement(task: Task, labels: Labels, rows: np.ndarray) -> str:
    kept = rows[task.labelled[rows] & (labels.codes[rows] >= 0)]
    if len(set(task.labels[kept])) < 2:
        return "one label or none here"
    return f"NMI {nmi(task.labels[kept], labels.codes[kept], ignore=()):.2f}"


def _panel_size(places: np.ndarray, sections: Mapping[str, np.ndarray]) -> tuple[float, float]:
    extents = np.array([np.ptp(places[rows], axis=0) for rows in sections.values()])
    extents = extents[(extents > 0).all(axis=1)]
    shape = float(np.clip(np.median(extents[:, 0] / extents[:, 1]), 0.4, 2.5)) if len(extents) else 1.0
    return float(np.sqrt(_AREA * shape)), float(np.sqrt(_AREA / shape))


# -- scores --------------------------------------------------------------------------------------------------------


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
    colors, handles = dict(zip(names, palette(len(names)), strict=False)), {}
    figure, grid = panels(1, len(readouts), 3.6, 3.2)
    for ax in grid[0, 1:]:  # before anything is drawn: limits then take in the points of all
        ax.sharex(grid[0, 0])
        ax.sharey(grid[0, 0])
    for ax, readout in zip(grid[0], readouts, strict=True):
        own = shown[shown["readout"] == readout]
        for name, row in zip(_names(own), own.to_dict("records"), strict=True):
            marker = _MARKERS[names.index(name) // len(SAFE) % len(_MARKERS)]
            spread = {"xerr": _bar(row, f"{mixing}_std_seeds"), "yerr": _bar(row, "nmi_std_seeds"), "elinewidth": 1}
            look = {"markersize": 8, "markeredgecolor": "black", "markeredgewidth": 0.5, "color": colors[name]}
            handles[name] = ax.errorbar(row[mixing], row["nmi"], fmt=marker, label=name, **spread, **look)
        ax.set_title(f"read-out: {readout}", fontsize=10)
        ax.set_xlabel(f"{heading(mixing)} (higher: better mixed)")
        plain_axes(ax)
        ax.margins(0.12)
    grid[0, 0].set_ylabel("NMI (mean over resolutions)")
    _beside(grid[0, -1], [handles[name] for name in names], names, 9)
    return apart(figure)


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
                grid[row, column].set_title(heading(metric), fontsize=10)
            if column == 0:
                grid[row, column].set_ylabel(group, fontsize=9)
            if row == len(groups) - 1:
                grid[row, column].set_xlabel(axis, fontsize=9)
    figure.suptitle(_heading(axis, shown, metrics), fontsize=10)
    return apart(figure)


def _heading(what: str, shown: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Return what bars are of, at which read-out, and what the line across them is."""
    readouts = list(dict.fromkeys(shown["readout"])) if "readout" in shown else []
    crossed = ["line: untrained"] if with_values(shown, [f"{metric}_untrained" for metric in metrics]) else []
    return ", ".join([what, *(f"read-out: {name}" for name in readouts), *crossed])


def _four(table: pd.DataFrame) -> list[str]:
    """Return the four metrics that are drawn: with mixing where it was measured, else matched scores."""
    for metrics in (
        ("nmi", "ari", "ilisi_technology", "mmd_technology"),
        ("nmi", "ari", "ilisi_section", "mmd_section"),
        ("nmi", "ari", "nmi_matched", "ari_matched"),
    ):
        if with_values(table, metrics) == list(metrics):
            return list(metrics)
    return with_values(table, SHOWN)[:4]


def _bars(ax: Axes, own: pd.DataFrame, levels: Sequence[str], metric: str) -> None:
    if not with_values(own, [metric]):
        return ax.set_axis_off()
    heights = own[metric].reindex(levels)
    errors = own.get(f"{metric}_std_seeds", pd.Series(np.nan, index=own.index)).reindex(levels)
    default = own["default"].reindex(levels, fill_value=False).astype(bool)
    places = np.arange(len(levels))
    ax.bar(places, heights, color=[DEFAULT if is_default else OTHER for is_default in default], width=0.75)
    has = errors.notna().to_numpy()
    ax.errorbar(places[has], heights[has], errors[has], fmt="none", color="black", elinewidth=1, capsize=2)
    beside = own.get(f"{metric}_untrained", pd.Series(np.nan, index=own.index)).reindex(levels)
    ax.hlines(beside, places - 0.45, places + 0.45, color=_CONTROL, linewidth=2)
    long = max(map(len, levels)) > 5
    ax.set_xticks(places, levels, rotation=45 if long else 0, ha="right" if long else "center", fontsize=8)
    ax.axhline(0, color="black", linewidth=0.8)
    plain_axes(ax)


def normalization_families(table: pd.DataFrame) -> Figure | None:
    """Draw normalizations in three families: of values alone, of ranks alone, and of both; NMI and ARI.

    The default is dark; a line across a bar is the untrained encoder of that level, where it took part.

    Parameters
    ----------
    table
        Rows of Table 2 of one task, read-out and technology.
    """
    shown = table[(table["axis"] == NORMALIZATIONS) & table["reason"].isna()]
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
    return apart(figure)


def expressed_genes_per_cell(task: Task) -> Figure:
    """Draw how many genes cells express, a panel for each technology, and how many cells fill L tokens."""
    counts = expressed_genes(task.adata.X)
    names = np.unique(task.technologies)
    figure, grid = panels(len(names), 1, 5.5, 2.4)
    most = max(int(counts.max()), 2)
    edges = np.unique(np.round(np.geomspace(1, most + 1, 50)).astype(int))
    for ax, name in zip(grid[:, 0], names, strict=True):
        own = counts[task.technologies == name]
        # Wide bins hold several numbers of genes, narrow ones one: without the width the bars would jump.
        ax.stairs(np.histogram(np.maximum(own, 1), edges)[0] / np.diff(edges), edges, fill=True, color=OTHER)
        ax.set_xscale("log", base=2)
        ax.set_xlim(1, 2.6 * most)
        top = ax.get_ylim()[1]
        for length in (length for length in LENGTHS if length <= 2 * most):
            ax.axvline(length, color=DEFAULT, linewidth=1)
            text = f" L={length}\n {(own >= length).mean():.0%}"
            ax.text(length, 1.3 * top, text, va="top", ha="left", fontsize=8, color=DEFAULT)
        ax.set_ylim(0, 1.3 * top)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_title(f"{name}: {len(own):,} cells; under each L the cells that fill it", fontsize=9)
        ax.set_ylabel("cells per number of genes", fontsize=9)
        plain_axes(ax)
    grid[-1, 0].set_xlabel("genes that a cell expresses")
    return apart(figure)


# -- of cells ------------------------------------------------------------------------------------------------------

Embeddings = Mapping[tuple[str, str], np.ndarray]
"""By method and read-out."""

_BARS = ("avg_bio", "nmi", "ari", "asw_scaled", "knn_accuracy")
_CURVES = ("neighbors", "label_accuracy", "nmi", "avg_bio")
_FITTED = "#E3C9A8"
"""Bars of methods that have seen the cells that are scored."""

_LINES = {"genes": "--"}
"""Of read-outs; others are drawn through."""


def figures_of_cells(
    target: TargetCells, rows: pd.DataFrame, embeddings: Embeddings, integrated: Embeddings
) -> dict[str, Figure]:
    """Return figures by name; what cannot be drawn is left out.

    ``umap`` (a map for each method, by label and by batch), ``umap_batches`` (the same where batches were integrated by
    what can), ``avg_bio`` (bars, seeds as points) and ``dropout`` (curves against the share of molecules).
    """
    scores = rows[rows["value"].notna()]
    figures = {
        "umap": umaps_of_cells(target, embeddings, _told(scores, ZERO_SHOT, ("avg_bio",))),
        "umap_batches": umaps_of_cells(target, integrated, _told(scores, BATCHES, ("bio", "batch"))),
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
            words.setdefault((str(method), str(readout)), []).append(f"{heading(metric)} {value:.2f}")
    return {case: ", ".join(own) for case, own in words.items()}


def umaps_of_cells(target: TargetCells, embeddings: Embeddings, told: Mapping[tuple[str, str], str]) -> Figure | None:
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
    return umaps({titles[key]: embeddings[key] for key in first.values()}, colorings)


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
                points = {"s": 14, "color": "black", "zorder": 3, "linewidths": 0, "clip_on": False}
                ax.scatter(values, np.full(len(values), place), **points)
                ax.text(1.03, place, f"{values.mean():.2f}", va="center", fontsize=7)
        ax.set_title(heading(metric), fontsize=9)
        ax.set_yticks(places, [_named(*case) for case in cases] if ax is grid[0, 0] else [], fontsize=8)
        ax.set_xlim(min(0.0, float(own["value"].min())), 1)
        plain_axes(ax)
    if (own["settings"] == FITTED).any():
        figure.supxlabel("light brown: fitted on the counts of the cells that are scored", fontsize=8)
    return apart(figure)


def robustness(scores: pd.DataFrame) -> Figure | None:
    """Draw scores against the share of molecules: a line for each method and read-out, seeds as points."""
    own = scores[(scores["task"] == DROPOUT) & scores["metric"].isin(_CURVES)]
    if own.empty:
        return None
    cases = _cases(own)
    methods = list(dict.fromkeys(method for method, _ in cases))
    colors = dict(zip(methods, palette(len(methods)), strict=False))
    figure, grid = panels(1, len(_CURVES), 2.7, 2.6)
    own = own.assign(share=own["group"].str.rstrip("%").astype(float))
    handles = []
    for method, readout in cases:
        look: Parts = {"color": colors[method], "markersize": 4, "linestyle": _LINES.get(readout, "-")}
        look["marker"] = _MARKERS[methods.index(method) % len(_MARKERS)]
        handles.append(Line2D([], [], **look))
        for ax, metric in zip(grid[0], _CURVES, strict=True):
            mine = own[(own["method"] == method) & (own["readout"] == readout) & (own["metric"] == metric)]
            means = mine.groupby("share")["value"].mean()
            ours = method == "celljepa"  # on top of the controls, which may lie where it lies
            order = {"linewidth": 2.0 if ours else 1.2, "zorder": 3 if ours else 2}
            ax.plot(means.index, means, **look, **order)
            if mine["seed"].nunique() > 1:
                ax.scatter(mine["share"], mine["value"], s=6, color=colors[method], alpha=0.5, linewidths=0)
    shares = sorted(own["share"].unique())
    for ax, metric in zip(grid[0], _CURVES, strict=True):
        ax.set_title(heading(metric), fontsize=9)
        ax.set_xscale("log")
        ax.set_xticks(shares, [f"{value:g}%" for value in shares], fontsize=8)
        ax.minorticks_off()
        ax.invert_xaxis()
        ax.set_ylim(min(0.0, float(own["value"].min())), 1.02)
        plain_axes(ax)
    figure.supxlabel("molecules kept", fontsize=9)
    _beside(grid[0, -1], handles, [_named(*case) for case in cases], 8, handlelength=2.4, borderaxespad=0.0)
    return apart(figure)
