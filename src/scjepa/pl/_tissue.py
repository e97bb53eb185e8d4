"""Maps of the tissue: sections as panels, a column of labels or numbers on each, and scale bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, column_of, entry_of, groups_of, require_anndata, text_of
from scjepa._core.graph import section_key_of
from scjepa.pl._numbers import Numbers
from scjepa.pl.figure import bare, finish, grid_shape, panels, point_size
from scjepa.pl.labels import Labels

if TYPE_CHECKING:
    from anndata import AnnData


class Layer(Protocol):
    """What a panel of a map shows: :class:`~scjepa.pl.labels.Labels` or :class:`~scjepa.pl._numbers.Numbers`."""

    @property
    def title(self) -> str:
        """Name of the column."""
        ...

    def draw(self, ax: Axes, xy: np.ndarray, rows: np.ndarray, size: float) -> object:
        """Draw the cells ``rows`` at ``xy``."""
        ...

    def legend(self, ax: Axes, height: float, *, titled: bool) -> None:
        """Put the legend outside, to the right of ``ax``."""
        ...


@dataclass(frozen=True)
class MapOptions:
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


def draw_map(adata: AnnData, drawn: Sequence[Layer], how: MapOptions) -> Figure:
    """Draw each layer on each section, one section having its layers side by side, several a row for each layer."""
    xy = coordinates_of(adata, how.spatial_key)
    sections = sections_of(adata, how.library_key, xy)
    n_panels = len(sections) * len(drawn)
    if how.ax is not None and n_panels > 1:
        raise ValueError(
            f"ax holds one panel; {len(sections)} section(s) × {len(drawn)} column(s) need {n_panels}. Leave ax out, "
            "or draw a subset of the cells."
        )
    width, height = _panel_size(xy, sections, len(drawn))
    figure, places = _places(len(sections), len(drawn), how.ncols, (width, height), how.ax)
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


def coordinates_of(adata: AnnData, key: str) -> np.ndarray:
    """Return the first two coordinates of the cells, float64; NaN for those without."""
    given = array_of(entry_of(adata, "obsm", key, "Name the key of the coordinates: spatial_key=..."))
    if given.ndim != 2 or given.shape[1] < 2:
        raise ValueError(f"adata.obsm[{key!r}] must have two columns or more, found the shape {given.shape}.")
    try:
        return given[:, :2].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"adata.obsm[{key!r}] must hold numbers: {error}.") from error


def sections_of(adata: AnnData, library_key: str | None, xy: np.ndarray) -> dict[str, np.ndarray]:
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


def _places(
    n_sections: int, n_layers: int, ncols: int | None, panel: tuple[float, float], ax: Axes | None
) -> tuple[Figure, list[list[Axes]]]:
    """Return the figure and, for each section, the axes of its layers."""
    if ax is not None:
        return cast(Figure, ax.figure), [[ax]]
    if n_sections == 1:
        figure, grid = panels(1, n_layers, *panel)
        return figure, [list(grid[0])]
    n_rows, n_cols = grid_shape(n_sections, ncols)
    figure, grid = panels(n_rows * n_layers, n_cols, *panel)
    blocks = grid.reshape(n_rows, n_layers, n_cols)
    places = [[blocks[i // n_cols, layer, i % n_cols] for layer in range(n_layers)] for i in range(n_rows * n_cols)]
    for axes in places[n_sections:]:
        for unused in axes:
            unused.remove()
    return figure, places[:n_sections]


def _label_rows(drawn: Sequence[Layer], top: list[list[Axes]], height: float, many: bool) -> None:
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
    return draw_map(adata, drawn, MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show))


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
    drawn: list[Layer] = [Numbers(key, _shares(adata, key), 0.0, 1.0)]
    if reference is not None:
        drawn.append(Labels.of(adata, reference))
    return draw_map(adata, drawn, MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show))


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
