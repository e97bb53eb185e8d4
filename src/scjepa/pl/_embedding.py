"""Maps of an embedding in two dimensions."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core import keys as _keys
from scjepa._core.anndata import column_of, embedding_of, record, record_of, refuse_users
from scjepa._core.arrays import first_components
from scjepa._core.leiden import umap_of
from scjepa._core.options import unknown_name
from scjepa.pl._numbers import VIRIDIS
from scjepa.pl.figure import bare, finish, grid_shape, panels, point_size
from scjepa.pl.labels import Labels, scatter

if TYPE_CHECKING:
    from anndata import AnnData

_PANEL = 3.6
"""Width and height of a panel in inches."""


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

    figure, grid = panels(*grid_shape(len(keys), ncols, at_most=3), _PANEL + 1.0, _PANEL)
    # In a fixed random order no category lies on top of the others.
    rows = np.random.default_rng(0).permutation(len(xy))
    size = size or min(point_size(xy, _PANEL, _PANEL), 20.0)
    for key, column, ax in zip(keys, columns, grid.flat, strict=False):
        if _is_number(column):
            points = scatter(ax, xy[rows], size, c=column.to_numpy(dtype=float, na_value=np.nan)[rows], cmap=VIRIDIS)
            figure.colorbar(points, ax=ax, shrink=0.7)
        else:
            labels = Labels.of(adata, key)
            labels.draw(ax, xy, rows, size)
            labels.legend(ax, _PANEL, titled=False)
        _name_axes(ax, key, axis)
    for unused in grid.flat[len(keys) :]:
        unused.remove()
    return finish(figure, save, show)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _name_axes(ax: Axes, title: str, axis: str) -> None:
    bare(ax)
    ax.set_title(title)
    ax.set_xlabel(f"{axis} 1")
    ax.set_ylabel(f"{axis} 2")
    ax.set_box_aspect(1)


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
