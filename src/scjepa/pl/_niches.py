"""Niches on the tissue, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa.pl._tissue import MapOptions, draw_map
from scjepa.pl.labels import Labels

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
