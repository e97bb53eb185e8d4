"""Weights of genes in predictive components, and the components on the tissue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.anndata import as_embedding
from scjepa._core.options import unknown_name
from scjepa.pl._numbers import Numbers
from scjepa.pl._tissue import coordinates_of, sections_of
from scjepa.pl.figure import bare, finish, grid_shape, panels, point_size
from scjepa.tl import predictive_genes as genes_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_UP, _DOWN = "#0072B2", "#D55E00"
"""Blue and vermilion, which color-blind readers tell apart."""

_LINE, _WIDTH = 0.16, 2.6
"""Height of a gene's bar and width of a panel, in inches."""

_CUT = 2
"""Percent of the cells at either end that share the first and the last color of a map."""


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
    n_rows, n_cols = grid_shape(len(numbers), ncols)
    height = 0.5 + _LINE * table.groupby("component").size().max()
    place = _Place.of(adata, section, library_key, spatial_key, key) if tissue else None
    heights = [height] if place is None else [height, place.height]
    figure, grid = panels(n_rows * len(heights), n_cols, _WIDTH, float(np.mean(heights)))
    grid[0, 0].get_gridspec().set_height_ratios(heights * n_rows)
    for at, number in enumerate(numbers):
        axes = grid[at // n_cols * len(heights) :, at % n_cols]
        _draw_bars(axes[0], table[table["component"] == number])
        if place is not None:
            place.draw(axes[1], number)
    for at in range(len(numbers), n_rows * n_cols):
        for unused in grid[at // n_cols * len(heights) :, at % n_cols]:
            unused.remove()
    return finish(figure, save, show)


def _draw_bars(ax: Axes, genes: pd.DataFrame) -> None:
    weights = genes["weight"].to_numpy()
    places = np.arange(len(weights))
    ax.barh(places, weights, height=0.8, color=np.where(weights >= 0, _UP, _DOWN))
    ax.set_yticks(places, genes["gene"], fontsize=8)
    ax.set_ylim(len(weights) - 0.5, -0.5)
    ax.axvline(0, color="black", linewidth=0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.locator_params(axis="x", nbins=3)
    ax.set_xlabel("weight", fontsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    number, correlation = genes["component"].iloc[0], genes["correlation"].iloc[0]
    ax.set_title(f"component {number}, r = {correlation:.2f}", fontsize=10)


class _Place:
    """One section on which components are drawn.

    Parameters
    ----------
    components
        ``(n_cells, n_comps)``.
    xy
        ``(n_cells, 2)`` coordinates.
    rows
        Cells of the section.
    """

    def __init__(self, components: np.ndarray, xy: np.ndarray, rows: np.ndarray) -> None:
        self._components, self._xy, self._rows = components, xy, rows
        extent = np.ptp(xy[rows], axis=0)
        shape = extent[1] / extent[0] if extent.min() > 0 else 1.0
        self.height = float(_WIDTH * np.clip(shape, 0.3, 2.0))

    @classmethod
    def of(cls, adata: AnnData, section: str | None, library_key: str | None, spatial_key: str, key: str) -> _Place:
        xy = coordinates_of(adata, spatial_key)
        sections = sections_of(adata, library_key, xy)
        if section is None:
            section = max(sections, key=lambda name: len(sections[name]))
        if section not in sections:
            raise ValueError(unknown_name("section", section, sections))
        return cls(as_embedding(adata.obsm[key]), xy, sections[section])

    def draw(self, ax: Axes, number: int) -> None:
        """Draw a component, dark to light from its lowest to its highest values."""
        values = self._components[:, number].astype(np.float64)
        low, high = np.percentile(values[self._rows], [_CUT, 100 - _CUT])
        size = point_size(self._xy[self._rows], _WIDTH, self.height)
        Numbers("", values, low, high).draw(ax, self._xy, self._rows, size)
        ax.set_aspect("equal")
        bare(ax)
