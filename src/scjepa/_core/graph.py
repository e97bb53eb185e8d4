"""The spatial graph that squidpy wrote into an AnnData object: read, checked, and the call that computes it.

No edge joins two sections. A call that an error names works on the data it is said of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core import squidpy
from scjepa._core.anndata import entry_of, groups_of, require_cells, sparse_of
from scjepa._core.counts import name_of, offsets_of, rows_of

PARTS = ("connectivities", "distances")
"""The matrices of a graph: ``obsp[f"{neighbors_key}_{part}"]``."""

if TYPE_CHECKING:
    from anndata import AnnData


def graph_call(
    adata: AnnData,
    library_key: str | None = None,
    *,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
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
    """
    call = squidpy.graph_call(library_key=library_key, key_added=neighbors_key, spatial_key=spatial_key)
    first = "" if library_key is None or library_key not in adata.obs else _as_categories(adata, library_key)
    return f"{_as_coordinates(adata, spatial_key)}{first}{call}"


_COLUMNS = (("x_centroid", "y_centroid"), ("center_x", "center_y"), ("CenterX_global_px", "CenterY_global_px"))
"""Columns of coordinates as instruments name them; ``x`` and ``y`` are looked for whatever their case."""


def _as_coordinates(adata: AnnData, key: str) -> str:
    """Return the call that writes the coordinates where they are not: from columns, or from another ``obsm`` entry."""
    if key in adata.obsm:
        return ""
    other = [
        name
        for name, values in adata.obsm.items()
        if any(part in str(name).lower() for part in ("spatial", "coord", "location")) and values.shape[1] in (2, 3)
    ]
    if other:
        return f"adata.obsm[{key!r}] = adata.obsm[{other[0]!r}]; "
    by_case = {str(name).lower(): str(name) for name in adata.obs}
    pairs = [*_COLUMNS, (by_case.get("x", "x"), by_case.get("y", "y"))]
    found = next((list(pair) for pair in pairs if set(pair) <= set(adata.obs)), None)
    if found is None:
        return f"adata.obsm[{key!r}] = xy, the coordinates of the cells, which adata lacks (cells × 2); "
    return f"adata.obsm[{key!r}] = adata.obs[{found}].to_numpy(); "


def _as_categories(adata: AnnData, key: str) -> str:
    import pandas as pd

    column, place = adata.obs[key], f"adata.obs[{key!r}]"
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return f"{place} = {place}.astype(str).astype('category'); "
    if len(column.cat.categories) > column.nunique():
        return f"{place} = {place}.cat.remove_unused_categories(); "
    return ""


def section_key_of(adata: AnnData, library_key: str | None) -> str | None:
    """Return the column that tells sections apart: ``library_key``, else ``"section"`` if there is such a column."""
    if library_key is None and _keys.SECTION in adata.obs:
        return _keys.SECTION
    return library_key


def graph_keys(adata: AnnData, neighbors_key: str = _keys.SPATIAL) -> list[str]:
    """Return the keys in ``obsp`` of the matrices of the graph that are there: both, one or none."""
    return [key for key in (f"{neighbors_key}_{part}" for part in PARTS) if key in adata.obsp]


def edges_of(connectivities: object) -> sparse.csr_matrix:
    """Return the edges of a graph as a csr matrix of float32 ones, the diagonal and stored zeros left out.

    Parameters
    ----------
    connectivities
        Square matrix, sparse or dense; an entry other than 0 is an edge, whatever its weight.

    Raises
    ------
    ValueError
        If it is not square.
    """
    graph = sparse_of(connectivities)
    if graph.shape[0] != graph.shape[1]:
        raise ValueError(f"connectivities must have the shape (n_cells, n_cells), found {graph.shape}.")
    if not graph.has_canonical_format:
        graph = graph.copy()
        graph.sum_duplicates()
    row = rows_of(graph)
    kept = (graph.data != 0) & (graph.indices != row)
    indptr = offsets_of(kept)[graph.indptr]
    return sparse.csr_matrix((np.ones(indptr[-1], dtype=np.float32), graph.indices[kept], indptr), shape=graph.shape)


def spatial_graph_of(adata: AnnData, neighbors_key: str, library_key: str | None) -> sparse.csr_matrix:
    """Return the spatial graph of all cells as :func:`edges_of` does; errors as of :func:`sections_of`."""
    return sections_of(adata, neighbors_key, library_key)[0]


def sections_of(
    adata: AnnData, neighbors_key: str, library_key: str | None
) -> tuple[sparse.csr_matrix, np.ndarray | None, str | None]:
    """Return the spatial graph as :func:`edges_of` does, the section of each cell, and the column that holds it.

    The last two are ``None`` where there is one section.

    Raises
    ------
    KeyError
        If there is no such graph, or no column ``library_key``.
    ValueError
        If there are no cells, or an edge joins two sections.
    """
    require_cells(adata)
    key = f"{neighbors_key}_connectivities"
    section_key = section_key_of(adata, library_key)
    call = graph_call(adata, section_key, neighbors_key=neighbors_key)
    graph = edges_of(entry_of(adata, "obsp", key, f"Compute the spatial graph first: {call}"))
    sections = groups_of(adata, section_key)
    if sections is not None:
        edges = graph.tocoo()
        refuse_across(edges.row, edges.col, sections, adata.obs_names, f"adata.obsp[{key!r}]", call)
    return graph, sections, section_key


def refuse_across(
    row: np.ndarray,
    col: np.ndarray,
    sections: np.ndarray,
    cell_names: Sequence[str] | None,
    graph: str,
    call: str | None = None,
) -> None:
    """Raise ``ValueError`` where an edge joins two sections.

    Parameters
    ----------
    row, col
        Cells that each edge joins.
    sections
        ``(n_cells,)`` section of each cell.
    cell_names
        Names of the cells; ``None``: their numbers.
    graph, call
        What the graph is called, and the call that builds it by section; ``None``: squidpy's, its column left to the
        reader.
    """
    codes = np.unique(sections, return_inverse=True)[1].astype(np.int32)
    across = np.flatnonzero(codes[row] != codes[col])
    if len(across):
        one, other = (int(cells[across[0]]) for cells in (row, col))
        raise ValueError(
            f"{len(across):,} edges of {graph} join different sections: {name_of('cell', cell_names, one)} (section "
            f"{str(sections[one])!r}) and {name_of('cell', cell_names, other)} (section {str(sections[other])!r}), for "
            f"one. Rebuild it by section: {call or squidpy.graph_call(library_key=...)}."
        )
