"""Nearest neighbors of embeddings, for the metrics that count what is near."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_EXACT_UP_TO = 50_000
"""Cells up to which neighbors are exact, as for niches."""


def nearest(embedding: np.ndarray, n_neighbors: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and distances of each cell's nearest neighbors, itself first.

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
        Indices (int64) and Euclidean distances (float32), both of shape (n_cells, n_neighbors).
    """
    own = np.arange(len(embedding))[:, None]
    if len(embedding) <= _EXACT_UP_TO:
        from sklearn.neighbors import NearestNeighbors

        # Without a query no cell is its own neighbor, also where several share one point.
        search = NearestNeighbors(n_neighbors=n_neighbors - 1, algorithm="brute").fit(embedding)
        distances, others = search.kneighbors()
        indices = np.hstack([own, others])
        distances = np.hstack([np.zeros((len(embedding), 1)), distances])
    else:
        from pynndescent import NNDescent

        indices, distances = NNDescent(embedding, n_neighbors=n_neighbors, random_state=seed).neighbor_graph
    return indices.astype(np.int64), distances.astype(np.float32)


def as_scib(indices: np.ndarray, distances: np.ndarray) -> Any:
    """Return the neighbors as scib-metrics takes them."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    return NeighborsResults(indices=indices, distances=distances)


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
