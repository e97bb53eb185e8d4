"""Nearest neighbors, graphs of them, and compact blocks of places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

_EXACT_UP_TO = 50_000
"""Cells up to which neighbors are exact (about 20 seconds at 128 dimensions on one core)."""


def nearest(embedding: np.ndarray, n_neighbors: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (integers) and Euclidean distances of each cell's nearest neighbors, itself first.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    n_neighbors
        Neighbors of each cell, itself included.
    seed
        Seed of the search, which is approximate above 50,000 cells.

    Returns
    -------
    tuple of numpy.ndarray
        Both of shape (n_cells, n_neighbors).
    """
    if len(embedding) > _EXACT_UP_TO:
        from pynndescent import NNDescent

        return NNDescent(embedding, n_neighbors=n_neighbors, random_state=seed).neighbor_graph
    from sklearn.neighbors import NearestNeighbors

    own = np.arange(len(embedding))[:, None]
    if n_neighbors == 1:
        return own, np.zeros(own.shape, dtype=np.float32)
    # Without a query no cell is its own neighbor, also where several share one point.
    search = NearestNeighbors(n_neighbors=n_neighbors - 1, algorithm="brute").fit(embedding)
    distances, others = search.kneighbors()
    return np.hstack([own, others]), np.hstack([np.zeros_like(distances, shape=own.shape), distances])


def nearest_places(places: np.ndarray, sections: np.ndarray, n_neighbors: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield for each section its cells and their nearest neighbors in the tissue, never across sections.

    Parameters
    ----------
    places
        Finite coordinates, shape (n_cells, n_axes).
    sections
        int64 codes, shape (n_cells,).
    n_neighbors
        Neighbors of each cell, itself not among them; at most all others of its section.

    Yields
    ------
    tuple of numpy.ndarray
        Cells of the section (n,), neighbors (n, k) as cells of the whole, and distances (n, k). A section of one cell
        is left out.
    """
    from sklearn.neighbors import NearestNeighbors

    for section in np.unique(sections):
        cells = np.flatnonzero(sections == section)
        if len(cells) > 1:
            search = NearestNeighbors(n_neighbors=min(n_neighbors, len(cells) - 1), algorithm="kd_tree")
            distances, indices = search.fit(places[cells]).kneighbors()
            yield cells, cells[indices], distances


def neighbor_search(reference: np.ndarray, n_neighbors: int, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that gives the rows of the ``n_neighbors`` nearest of ``reference``, (n, n_neighbors).

    The search is exact up to 50,000 rows of ``reference`` and approximate beyond, with ``seed``.
    """
    if len(reference) <= _EXACT_UP_TO:
        from sklearn.neighbors import NearestNeighbors

        exact = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(reference)
        return partial(exact.kneighbors, return_distance=False)
    from pynndescent import NNDescent

    index = NNDescent(reference, n_neighbors=max(n_neighbors, 15), random_state=seed)
    return lambda queries: index.query(queries, k=n_neighbors)[0]


def _hubs(embedding: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Return for each cell of a sorted embedding the first of its crowd, else the cell itself.

    A crowd is ``n_neighbors`` or more cells at one point, such as cells without counts. All their neighbors lie in
    the crowd, at distance 0, and which of them are taken would be arbitrary: the crowd would fall into pieces.
    """
    starts = np.flatnonzero(np.r_[True, (embedding[1:] != embedding[:-1]).any(axis=1)])
    sizes = np.diff(np.r_[starts, len(embedding)])
    own = np.arange(len(embedding))
    return np.where(np.repeat(sizes >= n_neighbors, sizes), np.repeat(starts, sizes), own)


def neighbor_graph(embedding: np.ndarray, n_neighbors: int, seed: int = 0) -> tuple[csr_matrix, csr_matrix]:
    """Return distances and UMAP connectivities of each cell's nearest neighbors.

    Where ``n_neighbors`` or more cells share one point, the first of them takes part in the search and the others
    hang on it by an edge of weight 1, so that they stay together.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims), its cells sorted by their coordinates.
    n_neighbors
        Neighbors of each cell, itself included; at most as many as there are cells are used.
    seed
        Seed of the approximate search (more than 50,000 cells).

    Returns
    -------
    tuple of scipy.sparse.csr_matrix
        ``distances``: the neighbors of a cell, itself left out (float32). ``connectivities``: symmetric weights in
        (0, 1], float32. A single cell has neither.
    """
    n_cells = len(embedding)
    hubs = _hubs(embedding, n_neighbors)
    searched = np.flatnonzero(hubs == np.arange(n_cells))
    hanging = np.flatnonzero(hubs != np.arange(n_cells))
    parts = _search(embedding[searched], min(n_neighbors, len(searched)), seed)
    distances, connectivities = (part.tocoo() for part in parts)
    shape = (n_cells, n_cells)
    edges = (hanging, hubs[hanging])
    return (
        _joined(distances, searched, (np.zeros(len(hanging)), edges), shape),
        _joined(connectivities, searched, (np.ones(2 * len(hanging)), np.hstack([edges, edges[::-1]])), shape),
    )


def _joined(part: coo_matrix, searched: np.ndarray, more: tuple, shape: tuple[int, int]) -> csr_matrix:
    """Return the entries of the searched cells and ``more`` (values, (rows, columns)) in one matrix."""
    values, (rows, columns) = more
    places = (np.r_[searched[part.row], rows], np.r_[searched[part.col], columns])
    return csr_matrix((np.r_[part.data, values].astype(np.float32), places), shape=shape)


def _search(embedding: np.ndarray, n_neighbors: int, seed: int) -> tuple[csr_matrix, csr_matrix]:
    n_cells = len(embedding)
    if n_neighbors == 1:
        empty = csr_matrix((n_cells, n_cells), dtype=np.float32)
        return empty, empty
    from umap.umap_ import fuzzy_simplicial_set

    indices, reach = nearest(embedding, n_neighbors, seed)
    reach = reach.astype(np.float32)
    starts = np.arange(0, n_cells * (n_neighbors - 1) + 1, n_neighbors - 1)
    distances = csr_matrix((reach[:, 1:].ravel(), indices[:, 1:].ravel(), starts), shape=(n_cells, n_cells))
    connectivities, _, _ = fuzzy_simplicial_set(
        coo_matrix((n_cells, 1)), n_neighbors, None, None, knn_indices=indices, knn_dists=reach
    )
    return distances, csr_matrix(connectivities)


def spatial_blocks(coordinates: np.ndarray, sections: np.ndarray | None, block_size: int) -> np.ndarray:
    """Cut each section into compact blocks of at most ``block_size`` cells by halving it along its longer side.

    Parameters
    ----------
    coordinates
        ``(n_cells, 2 or 3)``, any unit.
    sections
        ``(n_cells,)`` codes, or ``None`` for one section.
    block_size
        Most cells of a block.

    Returns
    -------
    numpy.ndarray
        ``(n_cells,)`` int64 block codes from 0; no block crosses sections. Independent of the order of cells up to
        the numbering of blocks.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    codes = np.zeros(len(coordinates), dtype=np.int64) if sections is None else np.asarray(sections)
    blocks = np.empty(len(coordinates), dtype=np.int64)
    pending = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    n_blocks = 0
    while pending:
        members = pending.pop()
        if len(members) <= block_size:
            blocks[members] = n_blocks
            n_blocks += 1
            continue
        place = coordinates[members]
        longer = int(np.argmax(np.ptp(place, axis=0)))
        others = [axis for axis in range(place.shape[1]) if axis != longer]
        order = np.lexsort([*(place[:, axis] for axis in others), place[:, longer]])
        half = len(members) // 2
        pending += [members[order[:half]], members[order[half:]]]
    return blocks
