"""Figures of a benchmark on the tissue and in two dimensions: what each method found, beside the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.leiden import umap_of
from scjepa._core.palette import palette
from scjepa.benchmark._readouts import HARMONY
from scjepa.benchmark._scoring import OWN
from scjepa.benchmark._store import RunKey, Store
from scjepa.benchmark._tasks import Task
from scjepa.metrics import nmi
from scjepa.pl.figure import bare, finish, panels, point_size
from scjepa.pl.labels import Labels

_AREA = 5.0
"""Area of a panel in square inches."""

_WRAP = 4
"""Panels in a row, where there is one section."""

_FIRST = (
    *("niche+X", "niche", "hops", "z30", "plain", OWN),
    *("aligned_niche+X", "aligned_niche", "aligned_hops", "aligned30"),
)

PREFERRED = (*_FIRST, *(f"{name}{HARMONY}" for name in _FIRST if name != OWN))
"""Which read-out of a method is drawn where there are no labels: the first that it has."""


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


def as_labels(title: str, values: np.ndarray) -> Labels:
    """Return names, ``None`` for cells without one, as colored labels."""
    codes, names = pd.factorize(pd.Series(values, dtype=object), sort=True)
    named = list(map(str, names))
    return Labels(title, codes.astype(np.int64), named, palette(len(named)), False)


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
    n_cols = min(_WRAP, len(layers)) if single else len(sections)
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
    return finish(figure, None, False)


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


def umaps(task: Task, found: Sequence[Found], seed: int = 0) -> Figure | None:
    """Draw each method's embedding in two dimensions: colored by technology above, by label below."""
    shown = [one for one in found if one.embedding is not None]
    if not shown:
        return None
    known = _known(task)
    colorings = [as_labels("technology", task.technologies), *([] if known is None else [known])]
    size = 2.6
    figure, grid = panels(len(colorings), len(shown), size, size + 0.3)
    order = np.random.default_rng(seed).permutation(len(task.labels))
    for column, one in enumerate(shown):
        xy = umap_of(np.asarray(one.embedding), 15, seed)
        for row, labels in enumerate(colorings):
            ax = grid[row, column]
            labels.draw(ax, xy, order, min(point_size(xy, size, size), 12.0))
            bare(ax)
            ax.set_box_aspect(1)
            if row == 0:
                ax.set_title(f"{one.title}\n{one.readout}", fontsize=9)
            if column == 0:
                ax.set_ylabel(labels.title)
            if column == len(shown) - 1:
                labels.legend(ax, size, titled=False)
    return finish(figure, None, False)
