"""Niches on the tissue, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa import _keys
from scjepa.pl._figure import bare, finish, grid_shape, panels, point_size
from scjepa.pl._labels import Labels
from scjepa.tl._adata import groups_of

if TYPE_CHECKING:
    from anndata import AnnData


def niches(
    adata: AnnData,
    key: str = _keys.NICHE,
    *,
    reference: str | None = None,
    library_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    unit: str | None = None,
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
        Unit of the coordinates, such as ``"µm"``: draws a scale bar. ``None``: no scale bar.
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
    if key not in adata.obs and key == _keys.NICHE:
        raise KeyError(f"adata.obs has no {key!r}. Find niches first: scjepa.tl.niches(adata)")
    drawn = [Labels.of(adata, key)]
    if reference is not None:
        drawn.append(Labels.of(adata, reference).colored_like(drawn[0]))
    xy = _coordinates(adata, spatial_key)
    sections = _sections(adata, library_key, xy)
    if ax is not None and len(sections) * len(drawn) > 1:
        raise ValueError(
            f"ax holds one panel; {len(sections)} section(s) × {len(drawn)} column(s) of labels need "
            f"{len(sections) * len(drawn)}. Leave ax out, or draw a subset of the cells."
        )

    width, height = _panel_size(xy, sections, len(drawn))
    figure, places = _places(len(sections), len(drawn), ncols, (width, height), ax)
    for (name, rows), axes in zip(sections.items(), places, strict=True):
        for labels, panel in zip(drawn, axes, strict=True):
            labels.draw(panel, xy, rows, size or point_size(xy[rows], width, height))
            panel.set_aspect("equal")
            bare(panel)
            if unit is not None:
                _scale_bar(panel, xy[rows], unit)
        if len(sections) > 1:
            axes[0].set_title(name)
    _, in_a_row = grid_shape(len(sections), ncols)
    _label_rows(drawn, places[:in_a_row], height, many=len(sections) > 1)
    return finish(figure, save, show, owned=ax is None)


def _coordinates(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "none"
        raise KeyError(f"adata.obsm has no coordinates {key!r}; keys there: {there}. Name them with spatial_key=...")
    xy = np.asarray(adata.obsm[key], dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"adata.obsm[{key!r}] must have two columns or more, found the shape {xy.shape}.")
    return xy[:, :2]


def _sections(adata: AnnData, library_key: str | None, xy: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of each section that have coordinates, sections in their categories' order."""
    placed = np.isfinite(xy).all(axis=1)
    if not placed.any():
        raise ValueError("No cell has finite coordinates: there is nothing to draw.")
    if library_key is None and _keys.SECTION in adata.obs:
        library_key = _keys.SECTION
    if library_key is None:
        return {"": np.flatnonzero(placed)}
    groups = groups_of(adata, library_key)
    names = adata.obs[library_key].astype("category").cat.categories.astype(str)
    rows = {name: np.flatnonzero(placed & (groups == name)) for name in names}
    return {name: cells for name, cells in rows.items() if len(cells)}


def _panel_size(xy: np.ndarray, sections: dict[str, np.ndarray], n_columns: int) -> tuple[float, float]:
    """Return width and height in inches that suit the shape of the sections and their number."""
    extents = np.array([np.ptp(xy[rows], axis=0) for rows in sections.values()])
    extents = extents[(extents > 0).all(axis=1)]
    shape = np.clip(np.median(extents[:, 0] / extents[:, 1]), 0.4, 2.5) if len(extents) else 1.0
    area = 12.0 if len(sections) * n_columns <= 2 else 7.0
    return float(np.sqrt(area * shape)), float(np.sqrt(area / shape))


def _places(
    n_sections: int, n_labels: int, ncols: int | None, panel: tuple[float, float], ax: Axes | None
) -> tuple[Figure, list[list[Axes]]]:
    """Return the figure and, for each section, the axes of its labels.

    One section has its labels side by side; several have a row of sections for each column of labels.
    """
    if ax is not None:
        return cast(Figure, ax.figure), [[ax]]
    if n_sections == 1:
        figure, grid = panels(1, n_labels, *panel)
        return figure, [list(grid[0])]
    n_rows, n_cols = grid_shape(n_sections, ncols)
    figure, grid = panels(n_rows * n_labels, n_cols, *panel)
    blocks = grid.reshape(n_rows, n_labels, n_cols)
    places = [[blocks[i // n_cols, label, i % n_cols] for label in range(n_labels)] for i in range(n_rows * n_cols)]
    for axes in places[n_sections:]:
        for unused in axes:
            unused.remove()
    return figure, places[:n_sections]


def _label_rows(drawn: list[Labels], top: list[list[Axes]], height: float, many: bool) -> None:
    """Name what each panel or row of panels shows, and put its legend at the right end of the ``top`` sections."""
    for position, labels in enumerate(drawn):
        first, last = top[0][position], top[-1][position]
        labels.legend(last, height, titled=many)
        if not many:
            first.set_title(labels.title)
        elif len(drawn) > 1:
            first.set_ylabel(labels.title)


def _scale_bar(ax: Axes, xy: np.ndarray, unit: str) -> None:
    """Draw a bar of about a quarter of the section's width below it, its length 1, 2 or 5 × a power of ten."""
    low, high = xy[:, 0].min(), xy[:, 0].max()
    if high == low:
        return
    wanted = (high - low) / 4
    magnitude = 10.0 ** np.floor(np.log10(wanted))
    length = max(step * magnitude for step in (1, 2, 5) if step * magnitude <= wanted)
    transform = ax.get_xaxis_transform()  # x in the tissue's units, y in shares of the panel
    ax.plot([low, low + length], [-0.03, -0.03], color="black", linewidth=2, transform=transform, clip_on=False)
    ax.text(low + length / 2, -0.05, f"{length:g} {unit}", transform=transform, ha="center", va="top", fontsize=9)
