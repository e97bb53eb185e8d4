"""The call that computes a spatial graph, as an error names it: such that it works on the data it is said of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core import keys as _keys
from scjepa._core import squidpy

if TYPE_CHECKING:
    from anndata import AnnData


def graph_call(
    adata: AnnData,
    library_key: str | None = None,
    *,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
    n_neighbors: int = 10,
) -> str:
    """Return the call of squidpy that computes the graph of nearest neighbors of ``adata`` within sections.

    squidpy takes sections from a categorical column without categories of no cell, and from no other: where the
    column is not such, the call that makes it one stands before.

    Parameters
    ----------
    library_key
        ``obs`` column of sections; ``None``: one section.
    neighbors_key, spatial_key
        Where the graph is to be, and where the coordinates are.
    n_neighbors
        Neighbors of each cell.
    """
    call = squidpy.graph_call(n_neighbors, library_key, key_added=neighbors_key, spatial_key=spatial_key)
    first = "" if library_key is None or library_key not in adata.obs else _as_categories(adata, library_key)
    return f"{first}{call}"


def _as_categories(adata: AnnData, key: str) -> str:
    import pandas as pd

    column, place = adata.obs[key], f"adata.obs[{key!r}]"
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return f"{place} = {place}.astype(str).astype('category'); "
    if len(column.cat.categories) > column.nunique():
        return f"{place} = {place}.cat.remove_unused_categories(); "
    return ""
