"""Means of an embedding over the hops of the spatial graph: a wider neighborhood without another model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix, identity

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, as_embedding, embedding_of, is_array, record, refuse_users
from scjepa._core.arrays import slices
from scjepa._core.graph import edges_of, sections_of
from scjepa._core.plain import whole

if TYPE_CHECKING:
    from anndata import AnnData


_ROWS = 16_384
"""Cells whose rings are held at one time."""

_NEAREST = 0.2
"""Distance below which a neighbor weighs no more, in the mean distance of the neighbors of a cell."""

_CLOSEST = 0.02
"""Distance below which cells are not told apart, in the usual distance of neighbors in the section."""


def aggregate(
    data: AnnData | Any,
    use_rep: str = _keys.EMBEDDING,
    *,
    n_hops: int = 1,
    concatenate: bool = True,
    neighbors_key: str = _keys.SPATIAL,
    library_key: str | None = None,
    connectivities: object = None,
    key_added: str | None = None,
) -> Any:
    """Average an embedding over each ring of the spatial graph, for niches wider than the model's.

    Hop 0 is the cell, hop h the cells that are reached in h steps along the graph and not in fewer. All cells of a hop
    weigh the same, whatever the weights of the edges. Where a hop has no cell (an isolated cell, a small section) it
    repeats the hop before, so that such cells are not set apart by zeros. Where sections differ by batch effects,
    aggregate what :func:`standardize` gave.

    Parameters
    ----------
    data
        Annotated data with ``obsm[use_rep]`` and squidpy's spatial graph, or the embedding itself, an array of shape
        (n_cells, n_dims), with ``connectivities``.
    use_rep
        Key in ``adata.obsm`` of the embedding.
    n_hops
        Hops to take, 0 or more; 0: the cell alone.
    concatenate
        ``True``: the hops side by side, hop 0 first, n_dims * (n_hops + 1) columns. ``False``: their mean, in which
        each hop weighs the same (the cell itself 1 / (n_hops + 1)).
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    library_key
        Column of ``adata.obs`` that tells sections apart; the graph must not join two. ``None``: ``"section"`` if
        there is such a column, else all cells are one section.
    connectivities
        Beside an array: graph of shape (n_cells, n_cells), sparse or dense. The neighbors of a cell are the entries
        other than 0 in its row; the diagonal does not count.
    key_added
        Key in ``adata.obsm`` of the result; default ``f"{use_rep}_hops"``.

    Returns
    -------
    numpy.ndarray or None
        Of an array the means, float32. Of annotated data nothing: they are written to ``adata.obsm[key_added]``, and
        how they were made to ``adata.uns["scjepa"][key_added]``.

    Raises
    ------
    KeyError
        If ``use_rep``, the graph or ``library_key`` is not there.
    ValueError
        If the embedding has a NaN, the graph has another number of cells, an edge joins two sections, ``n_hops`` is
        negative, or ``key_added`` is there and scjepa did not write it.
    """
    if is_array(data):
        if connectivities is None:
            raise ValueError("An array has no graph: pass connectivities=adata.obsp['spatial_connectivities'].")
        return means_over_hops(as_embedding(data), edges_of(connectivities), n_hops, concatenate)
    key = key_added or f"{use_rep}_hops"
    refuse_users(data, "obsm", key)
    embedding = embedding_of(data, use_rep)
    graph, _, library_key = sections_of(data, neighbors_key, library_key)
    data.obsm[key] = means_over_hops(embedding, graph, n_hops, concatenate)
    how: Note = {"use_rep": use_rep, "n_hops": n_hops, "concatenate": concatenate}
    record(data, key, slot="obsm", neighbors_key=neighbors_key, library_key=library_key, **how)
    return None


def means_over_hops(embedding: np.ndarray, graph: csr_matrix, n_hops: int, concatenate: bool) -> np.ndarray:
    """Return what :func:`aggregate` gives of an array and :func:`edges_of` its graph."""
    values = embedding.astype(np.float32, copy=False)
    n_hops = whole("n_hops", n_hops, least=0)
    if graph.shape[0] != len(values):
        raise ValueError(f"connectivities has {graph.shape[0]} cells, the embedding {len(values)}.")
    if concatenate:
        return np.concatenate(list(hops_of(values, graph, n_hops)), axis=1)
    mean = np.empty_like(values)
    for rows, hops in iter_hops(values, graph, n_hops):
        mean[rows] = hops.mean(axis=0)
    return mean


def hops_of(values: np.ndarray, edges: csr_matrix, n_hops: int) -> np.ndarray:
    """Return the means over each hop, ``(n_hops + 1, n_cells, n_dims)`` float32, along :func:`edges_of` a graph."""
    found = np.empty((n_hops + 1, *values.shape), dtype=np.float32)
    for rows, hops in iter_hops(values, edges, n_hops):
        found[:, rows] = hops
    return found


def iter_hops(values: np.ndarray, edges: csr_matrix, n_hops: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and their means over each hop, ``(n_hops + 1, n_rows, n_dims)``, some cells at a time."""
    for rows in slices(len(values), _ROWS):
        yield rows, hops_at(values, edges, rows, n_hops)


def hops_at(values: np.ndarray, edges: csr_matrix, rows: slice | np.ndarray, n_hops: int) -> np.ndarray:
    """Return the means over each hop of some cells, ``(n_hops + 1, n_rows, n_dims)``, in the type of the values."""
    hops = np.empty((n_hops + 1, *values[rows].shape), dtype=values.dtype)
    hops[0] = values[rows]
    for hop, ring in enumerate(rings_of(edges, rows, n_hops), start=1):
        sizes = np.diff(ring.indptr)
        hops[hop] = ring @ values
        hops[hop] /= np.maximum(sizes, 1, dtype=values.dtype)[:, None]
        hops[hop, sizes == 0] = hops[hop - 1, sizes == 0]
    return hops


def near_means(values: np.ndarray, edges: csr_matrix, places: np.ndarray) -> np.ndarray:
    """Return means over neighbors in which the nearest weigh most, ``(n_cells, n_dims)`` float32.

    A neighbor weighs the inverse square of its distance, in the mean distance of the cell's neighbors and 0.2 at
    least, so that neighbors at one distance (a grid) weigh the same. A cell without neighbors keeps its own values.

    Parameters
    ----------
    values
        ``(n_cells, n_dims)``.
    edges
        :func:`edges_of` a graph.
    places
        ``(n_cells, n_axes)`` coordinates, in any unit.
    """
    cells, distances = _lengths(edges, places)
    usual = np.bincount(cells, distances, minlength=len(values)) / np.maximum(np.diff(edges.indptr), 1)
    weights = np.maximum(distances / np.maximum(usual[cells], np.finfo(np.float64).tiny), _NEAREST) ** -2.0
    weights /= np.bincount(cells, weights, minlength=len(values))[cells]
    weighted = csr_matrix((weights.astype(np.float32), edges.indices, edges.indptr), shape=edges.shape)
    found = np.asarray(weighted @ values, dtype=np.float32)
    is_alone = np.diff(edges.indptr) == 0
    found[is_alone] = values[is_alone]
    return found


def spacings(edges: csr_matrix, places: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Return how far the nearest neighbor and the neighbors on average are, ``(n_cells, 2)`` float32.

    Natural logarithms of distances in the median of the section, so that the unit does not matter; a cell without
    neighbors has 0.
    """
    cells, distances = _lengths(edges, places)
    sizes = np.diff(edges.indptr)
    nearest = np.full(len(sizes), np.inf)
    np.minimum.at(nearest, cells, distances)
    usual = np.bincount(cells, distances, minlength=len(sizes)) / np.maximum(sizes, 1)
    found = np.zeros((len(sizes), 2), dtype=np.float32)
    for section in np.unique(sections[sizes > 0]):
        own = (sections == section) & (sizes > 0)
        both = np.column_stack([nearest[own], usual[own]])
        unit = max(float(np.median(both[:, 1])), np.finfo(np.float64).tiny)
        found[own] = np.log(np.maximum(both / unit, _CLOSEST))
    return found


def _lengths(edges: csr_matrix, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell of each edge, and the length of the edge."""
    cells = np.repeat(np.arange(edges.shape[0]), np.diff(edges.indptr))
    return cells, np.linalg.norm(places[cells] - places[edges.indices], axis=1)


def rings_of(graph: csr_matrix, rows: slice | np.ndarray, n_hops: int) -> Iterator[csr_matrix]:
    """Yield for each hop from 1 on the cells first reached by it: float32 ones, (n_rows, n_cells)."""
    ring = identity(graph.shape[0], dtype=np.float32, format="csr")[rows]
    within = ring
    for _ in range(n_hops):
        reached = ring @ graph
        reached.data[:] = 1
        # 1 for the cells reached now and not before, 0 for the others.
        ring = reached - reached.multiply(within)
        ring.eliminate_zeros()
        within = within + ring
        yield ring
