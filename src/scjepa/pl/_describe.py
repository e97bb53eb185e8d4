"""What can be said of niches: which partners they have, what is in them, which touch, and which genes mark them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox, offset_copy

from scjepa._core import keys as _keys
from scjepa._core.anndata import niches_of, record_of
from scjepa._core.counts import log_normalized_cells
from scjepa._core.keys import UNLABELLED
from scjepa._core.matching import border_shares
from scjepa._core.palette import MISSING
from scjepa._core.plain import whole
from scjepa.pl.figure import check_choice, finish, one_panel
from scjepa.pl.labels import Labels, cells_of, outer_legend
from scjepa.tl import compare_niches, niche_composition

if TYPE_CHECKING:
    from spatialdata import SpatialData

_BAR = 0.28
"""Height of a bar with its gap in inches."""

_OTHER = "#A6A6A6"
"""Labels that are lumped together: darker than cells without a label."""

_ACROSS = 30
"""Genes that fit side by side on a page; more stand in rows."""

_SCALE = "mean log count,\nscaled by gene"

_CELL = 0.42
"""Side of a field in inches, in which a number of three characters can be read."""

_NAME_INCHES = 0.085
"""Width of a character of a name in inches."""

_PAD = 0.05
"""Space around a figure in inches."""

_MARK = 9.0
"""Distance of the color marks from the axes in points."""

_TURNED_FROM = 4
"""Characters from which names below a matrix stand upright."""


def compare(
    adata: AnnData | SpatialData,
    a: str,
    b: str,
    *,
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw how two columns of niches go together, partners on the diagonal.

    Numbers are shares of the row's cells. The title gives the share of cells in matched niches, the normalized mutual
    information and the adjusted Rand index of :func:`scjepa.tl.compare_niches`.

    Parameters
    ----------
    adata
        Annotated data.
    a, b
        Columns of ``adata.obs``, in rows and in columns. ``b`` without colors of its own takes those of its partners,
        and keeps them in ``adata.uns``.
    title
        Above the panel. ``None``: what :func:`scjepa.tl.compare_niches` found.
    ax
        Axes to draw in. ``None``: a new figure.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or None
        The axes where they are not shown.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche in both.
    """
    adata = cells_of(adata)
    found = compare_niches(adata, a, b)
    partners = found.matching["b"].dropna()
    columns = [*partners, *(name for name in found.counts.columns if name not in set(partners))]
    rows = [*found.matching["a"][partners.index], *found.matching["a"].drop(partners.index)]
    counts = found.counts.loc[rows, columns].to_numpy()
    first = Labels.of(adata, a).keep(adata, a)
    second = Labels.of(adata, b).colored_like(first).keep(adata, b)
    shares, sides = counts / counts.sum(axis=1, keepdims=True), (first.part(rows), second.part(columns))
    panel = _heat_map(ax, shares, *sides, "share of the row's cells")
    panel.set(xlabel=b, ylabel=a)
    agreement = f"{found.agreement:.0%} of {found.n_cells:,} cells\nin matched niches"
    text = f"{agreement}\nNMI {found.nmi:.2f}, ARI {found.ari:.2f}" if title is None else title
    panel.set_title(text, fontsize=10, loc="left")
    return finish(panel, save, show, given=ax)


def composition(
    adata: AnnData | SpatialData,
    niche_key: str = _keys.NICHE,
    *,
    by: str = _keys.CELL_TYPE,
    normalize: bool = True,
    max_labels: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw the cell types (or sections, or other labels) of each niche as stacked bars.

    Colors are those of ``adata.uns[f"{by}_colors"]``, and are written there where they are new. Niches have none here,
    for a bar of the same color would seem to belong to them.

    Parameters
    ----------
    adata
        Annotated data.
    niche_key
        Column of ``adata.obs`` with niches; behind each stands its number of cells.
    by
        Column of ``adata.obs`` with labels. Cells without one are light gray.
    normalize
        ``True``: shares of the niche's cells. ``False``: numbers of cells.
    max_labels
        Labels that get a color of their own: those with the longest bars in any niche. The others are lumped together
        in dark gray: not many more colors can be told apart.
    title
        Above the panel. ``None``: nothing.
    ax
        Axes to draw in. ``None``: a new figure.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or None
        The axes where they are not shown.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche, or ``max_labels`` is not positive.
    """
    max_labels = whole("max_labels", max_labels, least=1)
    adata = cells_of(adata)
    counts, shares = niche_composition(adata, niche_key, by=by)
    totals = counts.sum(axis=1)
    values, colors = _lumped(shares if normalize else counts, Labels.of(adata, by).keep(adata, by), max_labels)
    height = len(values) * _BAR + 0.6
    panel = one_panel(ax, 5.0, height)
    places, left = np.arange(len(values)), np.zeros(len(values))
    for name, color in zip(values.columns, colors, strict=True):
        width = values[name].to_numpy(dtype=float)
        panel.barh(places, width, left=left, height=0.8, color=color, edgecolor="white", linewidth=0.4)
        left += width
    panel.set_yticks(places, [f"{name} ({total:,})" for name, total in totals.items()])
    panel.set(ylim=(len(values) - 0.4, -0.6), xlim=(0, float(left.max())))
    panel.set(xlabel="share of cells" if normalize else "cells", ylabel=f"{niche_key} (cells)")
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)
    handles = [Patch(color=color, label=str(name)) for name, color in zip(values.columns, colors, strict=True)]
    outer_legend(panel, handles, height, by)
    if title is not None:
        panel.set_title(title)
    return finish(panel, save, show, given=ax)


def _lumped(values: pd.DataFrame, labels: Labels, at_most: int) -> tuple[pd.DataFrame, list[str]]:
    """Return the values with labels of short bars added up in one column, and the colors of the columns."""
    missing = UNLABELLED[0]
    named = [name for name in values.columns if name != missing]
    longest = values[named].max().sort_values(ascending=False, kind="stable").index[:at_most]
    kept, few = [name for name in named if name in longest], [name for name in named if name not in longest]
    colors = labels.part(kept)[1]
    table = values[kept].copy()
    if few:
        table[f"{len(few)} others"] = values[few].sum(axis=1)
        colors.append(_OTHER)
    if missing in values:
        table[missing] = values[missing]
        colors.append(MISSING)
    return table, colors


def interactions(
    adata: AnnData | SpatialData,
    niche_key: str = _keys.NICHE,
    *,
    values: str = "shares",
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw which niches lie side by side, after :func:`scjepa.tl.niche_interactions`.

    Parameters
    ----------
    adata
        Annotated data that :func:`scjepa.tl.niche_interactions` was called on.
    niche_key
        Column of ``adata.obs`` with the niches.
    values
        ``"shares"``: of the edges that leave the row's niche for others, the share that goes to the column's: the
        sides on which it borders others. ``"z_scores"``: squidpy's enrichment over shuffled niches; its colors cover
        the range between different niches, since a patch of tissue touches itself most by far.
    title
        Above the panel. ``None``: nothing.
    ax
        Axes to draw in. ``None``: a new figure.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or None
        The axes where they are not shown: niches in rows and columns, in the colors that they have on the tissue.

    Raises
    ------
    KeyError
        If the interactions are not there.
    ValueError
        If the niches have changed since, or ``values`` is not known.
    """
    check_choice("values", values, ("shares", "z_scores"))
    adata = cells_of(adata)
    key = _keys.as_key(f"{niche_key}{_keys.ENRICHMENT_SUFFIX}")
    again = f"scjepa.tl.niche_interactions(adata, {niche_key!r})"
    if key not in adata.uns or record_of(adata, key).get("slot") != "uns":
        raise KeyError(f"adata.uns has no {key!r} of scjepa's. Compute it first: {again}")
    names = list(niches_of(adata, niche_key).categories)
    if list(record_of(adata, key)["niches"]) != names:
        raise ValueError(f"The niches in adata.obs[{niche_key!r}] have changed since. Compute again: {again}")
    side = Labels.of(adata, niche_key).keep(adata, niche_key).part(names)
    if values == "shares":
        shown = border_shares(np.asarray(adata.uns[key]["count"]))
        np.fill_diagonal(shown, np.nan)
        panel = _heat_map(ax, shown, side, side, "share of the row's border")
    else:
        shown = np.asarray(adata.uns[key]["zscore"], dtype=np.float64)
        between = np.abs(shown[~np.eye(len(shown), dtype=bool)])
        limit = float(np.nanmax(between)) if np.isfinite(between).any() else 1.0
        panel = _heat_map(ax, shown, side, side, "z-score of edges", ".0f", "PuOr_r", (-limit, limit))
    panel.set(xlabel=f"touches {niche_key}", ylabel=niche_key, title=title or "")
    return finish(panel, save, show, given=ax)


def markers(
    adata: AnnData | SpatialData,
    *,
    n_genes: int = 3,
    style: str = "dot",
    key: str = _keys.NICHE_MARKERS,
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> dict[str, Axes] | None:
    """Draw the marker genes of each niche, after :func:`scjepa.tl.niche_markers`, by scanpy.

    Each gene stands once, under the niche in which its score is highest. Colors are log-normalized counts, made again
    as for the ranking and scaled to [0, 1] for each gene; ``adata`` is left as it is.

    Parameters
    ----------
    adata
        Annotated data that :func:`scjepa.tl.niche_markers` was called on.
    n_genes
        Genes of each niche at most, those with positive scores.
    style
        ``"dot"``: the size of a dot is the share of cells with a count (:class:`scanpy.pl.DotPlot`). ``"matrix"``:
        means alone (:class:`scanpy.pl.MatrixPlot`).
    key
        Key in ``adata.uns`` of the ranking.
    title
        Above the panel. ``None``: nothing.
    ax
        Axes to draw in. ``None``: a new figure.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    dict of matplotlib.axes.Axes or None
        scanpy's axes by name (``"mainplot_ax"``) where they are not shown: genes in columns; in rows if there are more
        than 30.

    Raises
    ------
    KeyError
        If the ranking or its niches are not there.
    ValueError
        If ``style`` is not known, ``n_genes`` is not positive, or no gene has a positive score.
    """
    import scanpy as sc

    plots = {
        "dot": (sc.pl.DotPlot, {"colorbar_title": _SCALE, "size_title": "cells with\na count (%)"}),
        "matrix": (sc.pl.MatrixPlot, {"title": _SCALE}),
    }
    check_choice("style", style, list(plots))
    adata = cells_of(adata)
    n_genes = whole("n_genes", n_genes, least=1)
    how = record_of(adata, key)
    if key not in adata.uns or "niche_key" not in how:
        raise KeyError(f"adata.uns has no {key!r} of scjepa's. Rank the genes first: scjepa.tl.niche_markers(adata)")
    niche_key = how["niche_key"]
    found = _best_genes(adata.uns[key], n_genes)
    if not found:
        raise ValueError(f"No gene in adata.uns[{key!r}] has a positive score.")
    niches = niches_of(adata, niche_key)
    holder = log_normalized_cells(adata, how.get("layer"), cells=niches.codes >= 0)
    holder.obs[niche_key] = niches[niches.codes >= 0]
    names = list(holder.obs[niche_key].cat.categories)
    niche_of = {_keys.as_key(name): name for name in names}
    genes = {niche_of.get(niche, niche): best for niche, best in found.items()}
    across = sum(map(len, genes.values())) <= _ACROSS
    make, legend = plots[style]
    plot = make(holder, genes, niche_key, standard_scale="var", use_raw=False, ax=ax, title=title)
    plot.legend(**legend).style(cmap="Blues")
    if across:
        plot.make_figure()
    else:
        plot.swap_axes().make_figure()
        # scanpy turns these names and cuts those of small groups.
        for text, niche in zip(plot.ax_dict["gene_group_ax"].texts, genes, strict=True):
            text.set(text=niche, rotation=0, horizontalalignment="left")
    colors = Labels.of(adata, niche_key).keep(adata, niche_key).part(names)[1]
    _color_marks(plot.ax_dict["mainplot_ax"], colors, "left" if across else "bottom", start=0.5)
    if ax is None:
        _fit(plot.fig, list(plot.ax_dict.values()))
    return finish(plot.ax_dict, save, show, given=ax)


def _fit(figure: Figure, axes: Sequence[Axes]) -> None:
    """Give a figure the size of what is in ``axes``, so that no name is cut off, and no part of the page is blank.

    Constrained layout would move scanpy's brackets away from the genes that they are of.
    """
    for holder in set(figure.axes) - set(axes):
        holder.set_in_layout(False)
    size = figure.get_size_inches()
    drawn = figure.get_tightbbox().padded(_PAD)  # in inches
    places = {ax: ax.get_position().bounds for ax in figure.axes}
    figure.set_size_inches(drawn.width, drawn.height)
    for ax, (left, bottom, width, height) in places.items():
        corner = np.array([left, bottom]) * size - drawn.min
        ax.set_position(Bbox.from_bounds(*corner / drawn.size, *np.array([width, height]) * size / drawn.size))


def _best_genes(ranking: dict, n_genes: int) -> dict[str, list[str]]:
    """Return up to ``n_genes`` genes of each niche, best first: those that score positive, and nowhere higher."""
    names, scores = pd.DataFrame(ranking["names"]), pd.DataFrame(ranking["scores"])
    table = names.melt(var_name="niche", value_name="gene").assign(score=scores.melt()["value"])
    table = table[table["score"] > 0].sort_values("score", ascending=False, kind="stable").drop_duplicates("gene")
    best = {niche: list(table.loc[table["niche"] == niche, "gene"][:n_genes]) for niche in names.columns}
    return {niche: genes for niche, genes in best.items() if genes}


def _heat_map(
    ax: Axes | None,
    values: np.ndarray,
    rows: tuple[Sequence[str], Sequence[str]],
    columns: tuple[Sequence[str], Sequence[str]],
    bar: str,
    form: str = ".2f",
    cmap: str = "Blues",
    limits: tuple[float, float] = (0.0, 1.0),
) -> Axes:
    """Draw a matrix, its numbers but zeros written into it, in the user's axes or a new figure's.

    Parameters
    ----------
    ax
        The user's, if any.
    values
        Array of shape (n_rows, n_columns); NaN stays gray and without a number.
    rows, columns
        Names and colors.
    bar
        What the color bar shows.
    form
        Format of the numbers.
    cmap, limits
        Name of the color map, and the numbers of its first and its last color.
    """
    n_rows, n_columns = values.shape
    colors, norm = colormaps[cmap].with_extremes(bad=MISSING), Normalize(*limits)
    turned = _longest(columns[0]) >= _TURNED_FROM
    width = n_columns * _CELL + _longest(rows[0]) * _NAME_INCHES
    height = n_rows * _CELL + (_longest(columns[0]) if turned else 1) * _NAME_INCHES
    ax = one_panel(ax, width, height + 0.5)
    ax.imshow(values, cmap=colors, norm=norm)
    for (row, column), value in np.ndenumerate(values):
        text = format(value, form)
        if np.isfinite(value) and text.strip("-0."):  # zeros are left out
            red, green, blue, _ = colors(norm(value))
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    ax.set_xticks(range(n_columns), columns[0], rotation=90 if turned else 0)
    ax.set_yticks(range(n_rows), rows[0])
    ax.spines[:].set_visible(False)
    _color_marks(ax, rows[1], "left")
    _color_marks(ax, columns[1], "bottom")
    share = min(1.0, 1.8 / (n_rows * _CELL))
    side = ax.inset_axes((1 + 0.3 / (n_columns * _CELL), 1 - share, 0.14 / (n_columns * _CELL), share))
    beyond = np.nanmax(values, initial=limits[0]) > limits[1]
    ax.figure.colorbar(ScalarMappable(norm, colors), cax=side, label=bar, extend="max" if beyond else "neither")
    return ax


def _color_marks(ax: Axes, colors: Sequence[str], side: str, start: float = 0.0) -> None:
    """Put a dot of each category's color at the ``"left"`` or ``"bottom"`` of axes, one a step from ``start`` on.

    The names of the ticks move outwards to make room.
    """
    limits = ax.get_xlim(), ax.get_ylim()
    places, zeros = start + np.arange(len(colors)), np.zeros(len(colors))
    left = side == "left"
    along = ax.get_yaxis_transform() if left else ax.get_xaxis_transform()
    x, y, across, down = (-_MARK, 0.0, zeros, places) if left else (0.0, -_MARK, places, zeros)
    beside = offset_copy(along, ax.figure, x, y, units="points")  # type: ignore[arg-type]
    ax.scatter(across, down, c=list(colors), s=_MARK**2 / 2, linewidths=0, clip_on=False, transform=beside)
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.tick_params(axis="y" if left else "x", length=0, pad=2 * _MARK)


def _longest(names: Sequence[str]) -> int:
    return max(map(len, names))
