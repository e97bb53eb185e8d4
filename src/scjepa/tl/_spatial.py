"""The spatial graph that squidpy wrote into an AnnData object, checked: no edge joins two sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from scjepa._core import keys as _keys
from scjepa._core.anndata import missing_key, sparse_of
from scjepa._core.columns import groups_of
from scjepa._core.graph import graph_call

if TYPE_CHECKING:
    from anndata import AnnData


def section_key_of(adata: AnnData, library_key: str | None) -> str | None:
    """Return the column that tells sections apart: ``library_key``, else ``"section"`` if there is such a column."""
    if library_key is None and _keys.SECTION in adata.obs:
        return _keys.SECTION
    return library_key


def edges_of(connectivities: Any) -> csr_matrix:
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
    row = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    kept = (graph.data != 0) & (graph.indices != row)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=graph.shape[0]))])
    return csr_matrix((np.ones(indptr[-1], dtype=np.float32), graph.indices[kept], indptr), shape=graph.shape)


def spatial_graph_of(adata: AnnData, neighbors_key: str, library_key: str | None) -> csr_matrix:
    """Return the spatial graph of all cells as :func:`edges_of` does.

    Raises
    ------
    KeyError
        If there is no such graph, or no column ``library_key``.
    ValueError
        If an edge joins two sections.
    """
    key = f"{neighbors_key}_connectivities"
    section_key = section_key_of(adata, library_key)
    call = graph_call(adata, section_key, neighbors_key=neighbors_key)
    if key not in adata.obsp:
        raise missing_key("obsp", key, adata.obsp, f"Compute the spatial graph first: {call}")
    graph = edges_of(adata.obsp[key])
    sections = groups_of(adata, section_key)
    if sections is not None:
        edges = graph.tocoo()
        across = np.flatnonzero(sections[edges.row] != sections[edges.col])
        if len(across):
            one, other = edges.row[across[0]], edges.col[across[0]]
            raise ValueError(
                f"{len(across)} edges of adata.obsp[{key!r}] join different sections (adata.obs[{section_key!r}]): "
                f"{adata.obs_names[one]!r} ({sections[one]}) and {adata.obs_names[other]!r} ({sections[other]}), for "
                f"one. Rebuild the graph by section: {call}"
            )
    return graph
