"""Maps of cells: niches and other columns on the tissue, predictive components there, and embeddings in two dimensions.

A map of the tissue has a panel for each section and column, and scale bars where the unit is known.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

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
    text_of,
)
from scjepa._core.arrays import first_components
from scjepa._core.graph import section_key_of
from scjepa._core.leiden import umap_of
from scjepa._core.options import unknown_name
from scjepa._core.renamed import renamed
from scjepa.pl.figure import Drawn, bare, blocks, check_choice, finish, grid_shape, point_size, size_of, titles_of
from scjepa.pl.labels import Colors, Layer, Numbers, cells_of, layers_of
from scjepa.tl import predictive_genes as genes_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

_UP, _DOWN = "#0072B2", "#D55E00"
"""Blue and vermilion, which color-blind readers tell apart."""

_LINE, _WIDTH = 0.16, 2.6
"""Height of a gene's bar and width of a panel, in inches."""

_CUT = 2
"""Percent of the cells at either end that share the first and the last color of a map."""

_PANEL = 3.6
"""Width and height of a panel of an embedding in inches."""

_MARGIN = 1.06
"""Width and height of what a panel shows, of those of the cells."""

_OTHER_UNIT = 4.0
"""Cells that lie so many times farther apart than those of another section are measured in another unit."""


@dataclass(frozen=True)
class MapOptions:
    """How panels are laid out; the fields are the arguments of the functions of the same names."""

    library_key: str | None = None
    spatial_key: str = _keys.SPATIAL
    unit: str | None = None
    pixel_size: float | None = None
    ncols: int | None = None
    size: float | None = None
    ax: Axes | None = None
    save: str | Path | None = None
    show: bool | None = None

    def __post_init__(self) -> None:
        if self.pixel_size is not None and self.unit is None:
            raise ValueError("pixel_size needs the unit it is in: unit='µm', pixel_size=0.065.")
        if self.pixel_size is not None and not self.pixel_size > 0:
            raise ValueError(f"pixel_size must be positive, found {self.pixel_size}.")


@dataclass(frozen=True)
class _Panels:
    """The cells of each panel, and what is around them.

    Attributes
    ----------
    xy
        ``(n_cells, 2)`` places of all cells.
    sections
        Rows of the cells of each section that is drawn.
    width, height
        Of a panel in inches.
    at_most
        Panels in a row where the user does not say.
    sizes
        Area of a marker in points² in each section.
    dress
        Draws what else is in the panel of a section.
    """

    xy: np.ndarray
    sections: dict[str, np.ndarray]
    width: float
    height: float
    at_most: int
    sizes: dict[str, float]
    dress: Callable[[Axes, str], None]


def _draw(drawn: Sequence[Layer], of: _Panels, how: MapOptions) -> Drawn | None:
    """Draw each layer on each section: one section has its layers side by side, several a row for each layer."""
    n_panels = len(of.sections) * len(drawn)
    if how.ax is not None and n_panels > 1:
        raise ValueError(
            f"ax holds one panel; {len(of.sections)} section(s) × {len(drawn)} column(s) need {n_panels}. Leave ax "
            "out, or draw a subset of the cells."
        )
    many = len(of.sections) > 1
    if how.ax is not None:
        places = np.array([[how.ax]])
    elif many:
        _, places = blocks(len(of.sections), len(drawn), of.width, of.height, how.ncols, of.at_most)
    else:
        _, places = blocks(len(drawn), 1, of.width, of.height, how.ncols, of.at_most)
        places = places.T
    for (name, rows), axes in zip(of.sections.items(), places, strict=True):
        for layer, panel in zip(drawn, axes, strict=True):
            layer.draw(panel, of.xy, rows, how.size or of.sizes[name])
            bare(panel)
            of.dress(panel, name)
        if many:
            axes[0].set_title(name)
    _, in_a_row = grid_shape(len(of.sections), how.ncols, of.at_most)
    _label_rows(drawn, places[:in_a_row], of.height, many=many)
    shown: Drawn = how.ax if how.ax is not None else places[0, 0] if n_panels == 1 else list(places.T.flat)
    return finish(shown, how.save, how.show, given=how.ax)


def draw_map(adata: AnnData, drawn: Sequence[Layer], how: MapOptions) -> Drawn | None:
    """Draw layers on the tissue; sections of one technology are drawn to one scale."""
    xy = _coordinates_of(adata, how.spatial_key)
    sections = _sections_of(adata, how.library_key, xy)
    spans = _spans(adata, xy, sections)
    width, height = _panel_size(spans, len(drawn)) if how.ax is None else size_of(how.ax)

    def dress(panel: Axes, name: str) -> None:
        panel.set_aspect("equal")
        low, high = xy[sections[name]].min(axis=0), xy[sections[name]].max(axis=0)
        (left, right), (bottom, top) = np.transpose([(low + high - spans[name]) / 2, (low + high + spans[name]) / 2])
        panel.set(xlim=(left, right), ylim=(bottom, top))
        if how.unit is not None and high[0] > low[0]:
            _scale_bar(panel, spans[name][0] / _MARGIN, how.unit, how.pixel_size or 1.0)

    sizes = {name: point_size(xy[rows], width, height, spans[name]) for name, rows in sections.items()}
    return _draw(drawn, _Panels(xy, sections, width, height, 4, sizes, dress), how)


def _spans(adata: AnnData, xy: np.ndarray, sections: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return width and height that the panel of each section shows, the same in all sections of one technology.

    Coordinates of several technologies may be in different units, and so may files of one: sections whose cells lie
    several times farther apart than in others are drawn to a scale of their own.
    """
    extents = {name: np.ptp(xy[rows], axis=0) for name, rows in sections.items()}
    technologies = adata.obs[_keys.TECHNOLOGY].astype(str).to_numpy() if _keys.TECHNOLOGY in adata.obs else None
    spacing = {name: float(np.sqrt(extents[name].prod() / len(rows))) for name, rows in sections.items()}
    alike: dict[str, tuple[str, int]] = {}
    unit, before = 0, 0.0
    for name in sorted(sections, key=spacing.__getitem__):
        unit += before > 0 and spacing[name] > _OTHER_UNIT * before
        before = spacing[name]
        alike[name] = ("" if technologies is None else technologies[sections[name][0]], unit)
    spans = {}
    for name in sections:
        together = np.array([extents[other] for other in sections if alike[other] == alike[name]]).max(axis=0)
        together = np.maximum(together, 0.02 * together.max())  # cells in a row
        spans[name] = _MARGIN * np.where(together > 0, together, 1.0)
    return spans


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


def _panel_size(spans: dict[str, np.ndarray], n_columns: int) -> tuple[float, float]:
    """Return width and height in inches that suit the shape of the sections and their number."""
    shape = np.clip(np.median([width / height for width, height in spans.values()]), 0.4, 2.5)
    area = 12.0 if len(spans) * n_columns <= 2 else 7.0
    return float(np.sqrt(area * shape)), float(np.sqrt(area / shape))


def _label_rows(drawn: Sequence[Layer], top: np.ndarray, height: float, many: bool) -> None:
    """Name what each panel or row of panels shows, and put its legend at the right end of the ``top`` sections."""
    for position, layer in enumerate(drawn):
        first, last = top[0][position], top[-1][position]
        layer.legend(last, height, titled=many)
        if not many:
            first.set_title(layer.title)
        elif len(drawn) > 1:
            first.set_ylabel(f"{layer.title}\n{first.get_ylabel()}".strip())


def _scale_bar(ax: Axes, span: float, unit: str, step: float) -> None:
    """Draw a bar of about a quarter of the panel's width below it, its length 1, 2 or 5 × a power of ten.

    ``span`` is the width of the cells in steps of the coordinates, and ``step`` the length of one in ``unit``.
    """
    wanted = span * step / 4
    magnitude = 10.0 ** np.floor(np.log10(wanted))
    length = max(digit * magnitude for digit in (1, 2, 5) if digit * magnitude <= wanted)
    start = ax.get_xlim()[0]
    end = start + length / step
    transform = ax.get_xaxis_transform()  # x in the tissue's units, y in shares of the panel
    ax.plot([start, end], [-0.03, -0.03], color="black", linewidth=2, transform=transform, clip_on=False)
    ax.text((start + end) / 2, -0.05, f"{length:g} {unit}", transform=transform, ha="center", va="top", fontsize=9)


@renamed(key="color=...")
def niches(
    adata: AnnData | SpatialData,
    color: str | Sequence[str] = _keys.NICHE,
    *,
    reference: str | None = None,
    groups: str | Sequence[str] | None = None,
    palette: Colors = None,
    title: str | Sequence[str] | None = None,
    layer: str | None = None,
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
    """Draw niches, other columns or genes on the tissue, one panel for each section, next to labels to compare with.

    A reference without colors of its own takes the color of the niche it shares most cells with, so that agreement
    shows as equal colors. Cells without a label (NaN or ``"unlabelled"``) are gray, those without coordinates are not
    drawn. Sections of one technology and unit are drawn to one scale, and share the colors of numbers.

    Parameters
    ----------
    adata
        Annotated data with coordinates in ``obsm[spatial_key]``, or a :class:`spatialdata.SpatialData` object of one
        table.
    color
        Columns of ``adata.obs`` and genes to draw. Numbers get a color bar, labels a legend; so do whole numbers that
        run from 0 or 1 without a gap, which are taken for labels. Colors of a gene end at the 98th percentile of the
        cells that express it.
    reference
        Column of ``adata.obs`` with labels, drawn next to it, such as ``"region"``.
    groups
        Labels to draw in color; cells of others are gray.
    palette
        Colors of the labels in ``color``: in their order, by name, or the name of a matplotlib color map. ``None``:
        those in ``adata.uns[f"{color}_colors"]``, or new ones.
    title
        What each of ``color`` (and ``reference``) is called. ``None``: by its name.
    layer
        Layer that genes are read from. ``None``: ``adata.X``.
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
        Sections in a row, or for one section its panels; default at most 4.
    size
        Marker area in points². ``None``: fits the number of cells.
    ax
        Axes to draw in, for one panel. ``None``: a new figure.
    save
        File to save the figure in, with the dots per inch of ``rcParams["savefig.dpi"]``, at least 150 where that is
        ``"figure"``. A bare name (text without a folder) goes to scanpy's ``settings.figdir``.
    show
        ``None``: the figure is shown, by a notebook at the end of the cell; with ``ax``, the axes are returned.
        ``True``: it is shown now. ``False``: the axes are returned.

    Returns
    -------
    matplotlib.axes.Axes or list of them or None
        The axes of the panels, row by row, where they are not shown. ``adata.uns[f"{name}_colors"]`` is written for
        columns of labels whose colors are new, and nothing else.

    Raises
    ------
    KeyError
        If a name is neither a column nor a gene, or ``spatial_key`` is not there.
    ValueError
        If no cell has coordinates, they have fewer than two columns, or ``ax`` is given for more than one panel; a
        label in ``groups`` is not there, or ``palette`` or ``title`` do not fit.

    Examples
    --------
    >>> scjepa.pl.niches(adata, reference="region", unit="µm")
    >>> scjepa.pl.niches(adata, ["niche", "Otx2"], groups=["3", "5"])
    """
    adata = cells_of(adata, spatial_key)
    how = MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show)
    drawn = layers_of(adata, color, reference=reference, groups=groups, colors=palette, title=title, layer=layer)
    return draw_map(adata, drawn, how)


def confidence(
    adata: AnnData | SpatialData,
    key: str = _keys.NICHE_CONFIDENCE,
    *,
    reference: str | None = None,
    title: str | Sequence[str] | None = None,
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
    """Draw each cell's confidence in its niche on the tissue, one panel for each section.

    Colors run from 0 to 1 in every figure, so that figures can be compared. The least sure cells lie on top, those
    without a confidence are gray.

    Parameters
    ----------
    adata
        Annotated data with ``obs[key]``, shares in [0, 1], and ``obsm[spatial_key]``, or SpatialData.
    key
        Column of ``adata.obs`` that :func:`scjepa.tl.niche_confidence` wrote.
    reference
        Column of ``adata.obs`` with labels to draw next to it, such as ``"niche"``, in its own colors.
    title, library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or list of them or None
        As for :func:`scjepa.pl.niches`.

    Raises
    ------
    KeyError
        If a column or ``spatial_key`` is not there.
    ValueError
        If the confidence is not a number in [0, 1], no cell has coordinates, or ``ax`` is given for more than one
        panel.

    Examples
    --------
    >>> scjepa.pl.confidence(adata, reference="niche")
    """
    adata = cells_of(adata, spatial_key)
    if key == _keys.NICHE_CONFIDENCE and key not in adata.obs:
        raise KeyError(
            f"adata.obs has no {key!r}. Compute it first: "
            "scjepa.tl.niche_confidence(adata, model.get_masked_representations())"
        )
    how = MapOptions(library_key, spatial_key, unit, pixel_size, ncols, size, ax, save, show)
    drawn: list[Layer] = [Numbers(key, _shares(adata, key), 0.0, 1.0, lowest_on_top=True)]
    drawn += [] if reference is None else layers_of(adata, reference)
    titles = titles_of(title, [one.title for one in drawn])
    return draw_map(adata, [replace(one, title=own) for one, own in zip(drawn, titles, strict=True)], how)


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
    adata: AnnData | SpatialData,
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
    show: bool | None = None,
) -> list[Axes] | None:
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
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    list of matplotlib.axes.Axes or None
        The axes with ``show=False``: of each component its bars, and its map where the tissue is drawn.

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
    adata = cells_of(adata, spatial_key)
    table = genes_of(adata, n_genes, n_comps=n_comps, key=key)
    numbers = list(table["component"].unique())
    heights = [0.5 + _LINE * table.groupby("component").size().max()]
    if tissue:
        xy, rows = _section_of(adata, section, library_key, spatial_key)
        width, length = np.ptp(xy[rows], axis=0)
        heights.append(float(_WIDTH * np.clip(length / width if min(width, length) > 0 else 1.0, 0.3, 2.0)))
        components = as_embedding(adata.obsm[key])
    _, places = blocks(len(numbers), len(heights), _WIDTH, float(np.mean(heights)), ncols)
    grid = places[0, 0].get_gridspec()
    grid.set_height_ratios(heights * (grid.nrows // len(heights)))
    for number, axes in zip(numbers, places, strict=True):
        _draw_bars(axes[0], table[table["component"] == number])
        if tissue:
            _draw_component(axes[1], components[:, number], xy, rows, heights[1])
    return finish(list(places.flat), save, show)


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
    adata: AnnData | SpatialData,
    use_rep: str = _keys.EMBEDDING,
    *,
    color: str | Sequence[str] = _keys.NICHE,
    groups: str | Sequence[str] | None = None,
    palette: Colors = None,
    title: str | Sequence[str] | None = None,
    layer: str | None = None,
    library_key: str | None = None,
    method: str = "umap",
    n_neighbors: int = 15,
    random_state: int = 0,
    ncols: int | None = None,
    size: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Drawn | None:
    """Draw an embedding in two dimensions, one panel for each column or gene that colors it.

    Parameters
    ----------
    adata
        Annotated data with ``obsm[use_rep]``, or SpatialData.
    use_rep
        Key in ``adata.obsm`` of the embedding.
    color, groups, palette, title, layer
        As in :func:`scjepa.pl.niches`: labels have the colors that they have on the tissue.
    library_key
        Column of ``adata.obs`` that tells sections apart: each has a panel of its cells. ``None``: all together.
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
    ax, save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or list of them or None
        The axes of the panels where they are not shown. Colors are written as by :func:`scjepa.pl.niches`; with
        ``method="umap"``, ``adata.obsm[f"{use_rep}_umap"]`` and ``adata.uns["scjepa"][f"{use_rep}_umap"]`` too.
        ``adata.obsm["X_umap"]`` is left alone.

    Raises
    ------
    KeyError
        If ``use_rep``, a column or a gene is not there.
    ValueError
        If the embedding has a NaN, ``method`` is not known, or ``adata.obsm[f"{use_rep}_umap"]`` is there and scjepa
        did not write it; a label in ``groups`` is not there, or ``palette`` or ``title`` do not fit.

    Examples
    --------
    >>> scjepa.pl.embedding(adata, "X_stjepa_niche", color=["niche", "region"])
    """
    adata = cells_of(adata)
    how = MapOptions(library_key=library_key, ncols=ncols, size=size, ax=ax, save=save, show=show)
    drawn = layers_of(adata, color, groups=groups, colors=palette, title=title, layer=layer)
    check_choice("method", method, ("umap", "pca"))
    if method == "umap":
        xy, axis = _umap(adata, use_rep, n_neighbors, random_state), "UMAP"
    else:
        xy, axis = first_components(embedding_of(adata, use_rep)), "PC"
    middle, span = (xy.min(axis=0) + xy.max(axis=0)) / 2, _MARGIN * np.maximum(np.ptp(xy, axis=0), 1e-9)

    def dress(panel: Axes, _: str) -> None:
        low, high = middle - span / 2, middle + span / 2
        panel.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2", box_aspect=1, xlim=(low[0], high[0]), ylim=(low[1], high[1]))

    # In a fixed random order no category lies on top of the others.
    rows = np.random.default_rng(0).permutation(len(xy))
    sections = {"": rows}
    if library_key is not None:
        names = column_of(adata, library_key).astype("category").cat
        found = {str(name): rows[names.codes.to_numpy()[rows] == i] for i, name in enumerate(names.categories)}
        sections = {name: cells for name, cells in found.items() if len(cells)}
    size = min(point_size(xy, _PANEL, _PANEL), 20.0)
    of = _Panels(xy, sections, _PANEL + 1.0, _PANEL, 3, dict.fromkeys(sections, size), dress)
    return _draw(drawn, of, how)


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
