"""Maps of cells: niches and other columns on the tissue, predictive components there, and embeddings in two dimensions.

A map of the tissue has a panel for each section and column, and scale bars where the unit is known.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.anndata import (
    array_of,
    as_embedding,
    column_of,
    embedding_of,
    entry_of,
    groups_of,
    record,
    record_of,
    refuse_users,
    require_anndata,
    text_of,
)
from scjepa._core.arrays import first_components
from scjepa._core.graph import section_key_of
from scjepa._core.leiden import umap_of
from scjepa._core.options import unknown_name
from scjepa.pl.figure import bare, blocks, finish, grid_shape, panels, point_size
from scjepa.pl.labels import VIRIDIS, Labels, Numbers, scatter
from scjepa.tl import predictive_genes as genes_of

_UP, _DOWN = "#0072B2", "#D55E00"
"""Blue and vermilion, which color-blind readers tell apart."""

_LINE, _WIDTH = 0.16, 2.6
"""Height of a gene's bar and width of a panel, in inches."""

_CUT = 2
"""Percent of the cells at either end that share the first and the last color of a map."""

_PANEL = 3.6
"""Width and height of a panel in inches."""


@dataclass(frozen=True)
class _MapOptions:
    """How a map is laid out; the fields are the arguments of :func:`scjepa.pl.niches` of the same names."""

    library_key: str | None
    spatial_key: str
    unit: str | None
    pixel_size: float | None
    ncols: int | None
    size: float | None
    ax: Axes | None
    save: str | Path | None
    show: bool

    def __post_init__(self) -> None:
        if self.pixel_size is not None and self.unit is None:
            raise ValueError("pixel_size needs the unit it is in: unit='µm', pixel_size=0.065.")
        if self.pixel_size is not None and not self.pixel_size > 0:
            raise ValueError(f"pixel_size must be positive, found {self.pixel_size}.")


def _draw_map(adata: AnnData, drawn: Sequence[Labels | Numbers], how: _MapOptions) -> Figure:
    """Draw each layer on each section, one section having its layers side by side, several a row for each layer."""
    xy = _coordinates_of(adata, how.spatial_key)
    sections = _sections_of(adata, how.library_key, xy)
    n_panels = len(sections) * len(drawn)
    if how.ax is not None and n_panels > 1:
        raise ValueError(
            f"ax holds one panel; {len(sections)} section(s) × {len(drawn)} column(s) need {n_panels}. Leave ax out, "
            "or draw a subset of the cells."
        )
    width, height = _panel_size(xy, sections, len(drawn))
    if how.ax is not None:
        figure, places = cast(Figure, how.ax.figure), np.array([[how.ax]])
    elif len(sections) == 1:
        figure, places = panels(1, len(drawn), width, height)
    else:
        figure, places = blocks(len(sections), len(drawn), width, height, how.ncols)
    for (name, rows), axes in zip(sections.items(), places, strict=True):
        for layer, panel in zip(drawn, axes, strict=True):
            layer.draw(panel, xy, rows, how.size or point_size(xy[rows], width, height))
            panel.set_aspect("equal")
            bare(panel)
            if how.unit is not None:
                _scale_bar(panel, xy[rows], how.unit, how.pixel_size or 1.0)
        if len(sections) > 1:
            axes[0].set_title(name)
    _, in_a_row = grid_shape(len(sections), how.ncols)
    _label_rows(drawn, places[:in_a_row], height, many=len(sections) > 1)
    return finish(figure, how.save, how.show, owned=how.ax is None)


def _coordinates_of(adata: AnnData, key: str) -> np.ndarray:
    """Return the first two coordinates of the cells, float64; NaN for those without."""
    given = array_of(entry_of(adata, "obsm", key, "Name the key of the coordinates: spatial_key=..."))
    if given.ndim != 2 or given.shape[1] < 2:
        raise ValueError(f"adata.obsm[{key!r}] must have two columns or more, found the shape {given.shape}.")
    try:
        return given[:, :2].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"adata.obsm[{key!r}] must hold numbers: {error}.") from error


def _sections_of(adata: AnnData, library_key: str | None, xy: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of each section that have coordinates, sections in their categories' order."""
    placed = np.isfinite(xy).all(axis=1)
    if not placed.any():
        raise ValueError("No cell has finite coordinates: there is nothing to draw.")
    key = section_key_of(adata, library_key)
    groups = groups_of(adata, key)
    if key is None or groups is None:
        return {"": np.flatnonzero(placed)}
    names = text_of(adata.obs[key].astype("category").cat.categories.to_series())
    rows = {name: np.flatnonzero(placed & (groups == name)) for name in names}
    return {name: cells for name, cells in rows.items() if len(cells)}


def _panel_size(xy: np.ndarray, sections: dict[str, np.ndarray], n_columns: int) -> tuple[float, float]:
    """Return width and height in inches that suit the shape of the sections and their number."""
    extents = np.array([np.ptp(xy[rows], axis=0) for rows in sections.values()])
    extents = extents[(extents > 0).all(axis=1)]
    shape = np.clip(np.median(extents[:, 0] / extents[:, 1]), 0.4, 2.5) if len(extents) else 1.0
    area = 12.0 if len(sections) * n_columns <= 2 else 7.0
    return float(np.sqrt(area * shape)), float(np.sqrt(area / shape))


def _label_rows(drawn: Sequence[Labels | Numbers], top: np.ndarray, height: float, many: bool) -> None:
    """Name what each panel or row of panels shows, and put its legend at the right end of the ``top`` sections."""
    for position, layer in enumerate(drawn):
        first, last = top[0][position], top[-1][position]
        layer.legend(last, height, titled=many)
        if not many:
            first.set_title(layer.title)
        elif len(drawn) > 1:
            first.set_ylabel(layer.title)


def _scale_bar(ax: Axes, xy: np.ndarray, unit: str, step: float) -> None:
    """Draw a bar of about a quarter of the section's width below it, its length 1, 2 or 5 × a power of ten.

    ``step`` is the length of one step of the coordinates in ``unit``.
    """
    low, high = xy[:, 0].min(), xy[:, 0].max()
    if high == low:
        return
    wanted = (high - low) * step / 4
    magnitude = 10.0 ** np.floor(np.log10(wanted))
    length = max(digit * magnitude for digit in (1, 2, 5) if digit * magnitude <= wanted)
    end = low + length / step
    transform = ax.get_xaxis_transform()  # x in the tissue's units, y in shares of the panel
    ax.plot([low, end], [-0.03, -0.03], color="black", linewidth=2, transform=transform, clip_on=False)
    ax.text((low + end) / 2, -0.05, f"{length:g} {unit}", transform=transform, ha="center", va="top", fontsize=9)


def niches(
    adata: AnnData,
    key: str = _keys.NICHE,
    *,
    reference: str | None = None,
    library_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    unit: str | None = None,
    pixel_size: float | None = None,
    ncols: int | None = None,
    size: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw niches on the tissue, one panel for each section, beside labels to compare them with.

    Colors are those of ``adata.uns[f"{key}_colors"]``. A reference without colors of its own takes the color of the
    niche it shares most cells with, so that agreement shows as equal colors. Cells without a label (NaN or
    ``"unlabelled"``) are gray, those without coordinates are not drawn. Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Annotated data with ``obs[key]`` and ``obsm[spatial_key]``.
    key
        Column of ``adata.obs`` to draw.
    reference
        Column of ``adata.obs`` drawn beside it, such as ``"region"``.
    library_key
        Column of ``adata.obs`` that tells sections apart. ``None``: ``"section"`` if there is such a column, else all
        cells are one section.
    spatial_key
        Key in ``adata.obsm`` of the coordinates; the first two columns are drawn, in equal scale.
    unit
        Unit of length, such as ``"µm"``: draws a scale bar. ``None``: no scale bar.
    pixel_size
        Length of one step of the coordinates in ``unit``, for coordinates in pixels. ``None``: they are in ``unit``.
    ncols
        Sections in a row; default at most 4.
    size
        Marker area in points². ``None``: fits the number of cells.
    ax
        Axes to draw in, for one section and no reference. ``None``: a new figure.
    save
        File to save the figure in.
    show
        Call ``matplotlib.pyplot.show()``.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; its panels are ``figure.axes``.

    Raises
    ------
    KeyError
        If a column or ``spatial_key`` is not there.
    ValueError
        If no cell has coordinates, they have fewer than two columns, or ``ax`` is given for more than one panel.
    """
    drawn = [Labels.of(adata, key)]
    if reference is not None:
        drawn.append(Labels.of(adata, reference).colored_like(drawn[0]))
    return _draw_map(adata, drawn, _MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show))


def confidence(
    adata: AnnData,
    key: str = _keys.NICHE_CONFIDENCE,
    *,
    reference: str | None = None,
    library_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    unit: str | None = None,
    pixel_size: float | None = None,
    ncols: int | None = None,
    size: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw each cell's confidence in its niche on the tissue, one panel for each section.

    Colors run from 0 to 1 in every figure, so that figures can be compared. The least sure cells lie on top, those
    without a confidence are gray. Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Annotated data with ``obs[key]``, shares in [0, 1], and ``obsm[spatial_key]``.
    key
        Column of ``adata.obs`` that :func:`scjepa.tl.niche_confidence` wrote.
    reference
        Column of ``adata.obs`` with labels to draw beside it, such as ``"niche"``, in its own colors.
    library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; its panels are ``figure.axes``.

    Raises
    ------
    KeyError
        If a column or ``spatial_key`` is not there.
    ValueError
        If the confidence is not a number in [0, 1], no cell has coordinates, or ``ax`` is given for more than one
        panel.
    """
    require_anndata(adata)
    if key == _keys.NICHE_CONFIDENCE and key not in adata.obs:
        raise KeyError(
            f"adata.obs has no {key!r}. Compute it first: "
            "scjepa.tl.niche_confidence(adata, model.get_masked_representations())"
        )
    drawn: list[Labels | Numbers] = [Numbers(key, _shares(adata, key), 0.0, 1.0)]
    if reference is not None:
        drawn.append(Labels.of(adata, reference))
    return _draw_map(adata, drawn, _MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show))


def _shares(adata: AnnData, key: str) -> np.ndarray:
    column = column_of(adata, key)
    if not pd.api.types.is_numeric_dtype(column):
        raise ValueError(f"adata.obs[{key!r}] must hold numbers in [0, 1], found {column.dtype}.")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    found = values[~np.isnan(values)]
    if len(found) and (found.min() < 0 or found.max() > 1):
        raise ValueError(
            f"adata.obs[{key!r}] must hold numbers in [0, 1], found {found.min():.3g} to {found.max():.3g}."
        )
    return values


def predictive_genes(
    adata: AnnData,
    *,
    n_genes: int = 8,
    n_comps: int = 6,
    tissue: bool = False,
    section: str | None = None,
    library_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    key: str = _keys.PREDICTIVE,
    ncols: int | None = None,
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw the genes of largest weight in each predictive component, after :func:`scjepa.tl.predictive_components`.

    A panel for each component: bars of the weights of standardized genes, up and down, and in the title the
    correlation of the component with the surroundings of a cell. Cells of a positive component express the genes with
    bars to the right.

    Parameters
    ----------
    adata
        Annotated data after :func:`scjepa.tl.predictive_components` of counts.
    n_genes
        Genes at either end.
    n_comps
        Components, from the first; at most as many as there are.
    tissue
        Draw each component on the tissue below its bars.
    section
        Section that is drawn. Default: the one of most cells.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    spatial_key
        Key in ``adata.obsm`` of the coordinates.
    key
        Key of the components.
    ncols
        Components in a row; default at most 4.
    save
        File to save the figure in.
    show
        Call ``matplotlib.pyplot.show()``.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    KeyError
        If there are no components of counts, or no coordinates or sections of that name where the tissue is drawn.
    ValueError
        If ``n_genes``, ``n_comps`` or ``ncols`` is not positive, or there is no such section.

    Examples
    --------
    >>> scjepa.tl.predictive_components(adata)
    >>> scjepa.pl.predictive_genes(adata, tissue=True)
    """
    table = genes_of(adata, n_genes, n_comps=n_comps, key=key)
    numbers = list(table["component"].unique())
    heights = [0.5 + _LINE * table.groupby("component").size().max()]
    if tissue:
        xy, rows = _section_of(adata, section, library_key, spatial_key)
        width, length = np.ptp(xy[rows], axis=0)
        heights.append(float(_WIDTH * np.clip(length / width if min(width, length) > 0 else 1.0, 0.3, 2.0)))
        components = as_embedding(adata.obsm[key])
    figure, places = blocks(len(numbers), len(heights), _WIDTH, float(np.mean(heights)), ncols)
    grid = places[0, 0].get_gridspec()
    grid.set_height_ratios(heights * (grid.nrows // len(heights)))
    for number, axes in zip(numbers, places, strict=True):
        _draw_bars(axes[0], table[table["component"] == number])
        if tissue:
            _draw_component(axes[1], components[:, number], xy, rows, heights[1])
    return finish(figure, save, show)


def _draw_bars(ax: Axes, genes: pd.DataFrame) -> None:
    weights = genes["weight"].to_numpy()
    places = np.arange(len(weights))
    ax.barh(places, weights, height=0.8, color=np.where(weights >= 0, _UP, _DOWN))
    ax.set_yticks(places, genes["gene"], fontsize=8)
    ax.set(ylim=(len(weights) - 0.5, -0.5))
    ax.axvline(0, color="black", linewidth=0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.locator_params(axis="x", nbins=3)
    ax.set_xlabel("weight", fontsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    number, correlation = genes["component"].iloc[0], genes["correlation"].iloc[0]
    ax.set_title(f"component {number}, r = {correlation:.2f}", fontsize=10)


def _section_of(
    adata: AnnData, section: str | None, library_key: str | None, spatial_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of all cells and the rows of one section, by default of the largest."""
    xy = _coordinates_of(adata, spatial_key)
    sections = _sections_of(adata, library_key, xy)
    if section is None:
        section = max(sections, key=lambda name: len(sections[name]))
    if section not in sections:
        raise ValueError(unknown_name("section", section, sections))
    return xy, sections[section]


def _draw_component(ax: Axes, component: np.ndarray, xy: np.ndarray, rows: np.ndarray, height: float) -> None:
    """Draw a component on a section, dark to light from its lowest to its highest values."""
    values = component.astype(np.float64)
    low, high = np.percentile(values[rows], [_CUT, 100 - _CUT])
    Numbers("", values, low, high).draw(ax, xy, rows, point_size(xy[rows], _WIDTH, height))
    ax.set_aspect("equal")
    bare(ax)


def embedding(
    adata: AnnData,
    use_rep: str = _keys.EMBEDDING,
    *,
    color: str | Sequence[str] = _keys.NICHE,
    method: str = "umap",
    n_neighbors: int = 15,
    random_state: int = 0,
    ncols: int | None = None,
    size: float | None = None,
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw an embedding in two dimensions, one panel for each column that colors it.

    Parameters
    ----------
    adata
        Annotated data with ``obsm[use_rep]``.
    use_rep
        Key in ``adata.obsm`` of the embedding.
    color
        Columns of ``adata.obs``: categories get a legend, numbers a color bar; cells without a value are gray.
    method
        ``"umap"``: UMAP of the graph of nearest neighbors. It is kept in ``adata.obsm[f"{use_rep}_umap"]`` and used
        again while the embedding and the options are the same. ``"pca"``: the first two principal components.
    n_neighbors
        Neighbors of each cell in the graph, itself included.
    random_state
        Seed of the graph and of UMAP.
    ncols
        Panels in a row; default at most 3.
    size
        Marker area in points². ``None``: fits the number of cells.
    save
        File to save the figure in.
    show
        Call ``matplotlib.pyplot.show()``.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. With ``method="umap"``, ``adata.obsm[f"{use_rep}_umap"]`` and
        ``adata.uns["scjepa"][f"{use_rep}_umap"]`` are written; ``adata.obsm["X_umap"]`` is left alone.

    Raises
    ------
    KeyError
        If ``use_rep`` or a column is not there.
    ValueError
        If the embedding has a NaN, ``method`` is not known, or ``adata.obsm[f"{use_rep}_umap"]`` is there and scjepa
        did not write it.
    """
    keys = [color] if isinstance(color, str) else list(color)
    if not keys:
        raise ValueError("color names no column of adata.obs.")
    columns = [column_of(adata, key) for key in keys]
    if method == "umap":
        xy, axis = _umap(adata, use_rep, n_neighbors, random_state), "UMAP"
    elif method == "pca":
        xy, axis = first_components(embedding_of(adata, use_rep)), "PC"
    else:
        raise ValueError(unknown_name("method", method, ("umap", "pca")))

    figure, grid = blocks(len(keys), 1, _PANEL + 1.0, _PANEL, ncols, at_most=3)
    # In a fixed random order no category lies on top of the others.
    rows = np.random.default_rng(0).permutation(len(xy))
    size = size or min(point_size(xy, _PANEL, _PANEL), 20.0)
    for key, column, ax in zip(keys, columns, grid.flat, strict=True):
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            points = scatter(ax, xy[rows], size, c=column.to_numpy(dtype=float, na_value=np.nan)[rows], cmap=VIRIDIS)
            figure.colorbar(points, ax=ax, shrink=0.7)
        else:
            labels = Labels.of(adata, key)
            labels.draw(ax, xy, rows, size)
            labels.legend(ax, _PANEL, titled=False)
        bare(ax)
        ax.set(title=key, xlabel=f"{axis} 1", ylabel=f"{axis} 2", box_aspect=1)
    return finish(figure, save, show)


def _umap(adata: AnnData, use_rep: str, n_neighbors: int, seed: int) -> np.ndarray:
    """Return the UMAP kept in ``adata``, or make and keep it."""
    values = embedding_of(adata, use_rep)
    key = f"{use_rep}_umap"
    refuse_users(adata, "obsm", key)
    how = {
        "slot": "obsm",
        "use_rep": use_rep,
        "n_neighbors": n_neighbors,
        "random_state": seed,
        "checksum": zlib.crc32(np.ascontiguousarray(values).data),
    }
    if key not in adata.obsm or record_of(adata, key) != how:
        adata.obsm[key] = umap_of(values, n_neighbors, seed)
        record(adata, key, **how)
    return np.asarray(adata.obsm[key])
