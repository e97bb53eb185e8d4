"""The nearest-neighbor graph of an embedding, Leiden on it, and the search for a number of clusters."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, triu

from scjepa.tl._adata import as_embedding
from scjepa.tl._neighbors import neighbor_graph
from scjepa.tl._readout import canonical_order

_LEIDEN_ITERATIONS = 2
_MAX_RESOLUTION = 4096.0
_BISECTIONS = 16
_SEEDS_TRIED = 5


@dataclass(frozen=True)
class Partition:
    """A clustering of cells.

    Attributes
    ----------
    labels
        int64 of shape (n_cells,): clusters 0, 1, ... by decreasing size.
    resolution
        Leiden's resolution.
    seed
        Seed of Leiden's random generator.
    """

    labels: np.ndarray
    resolution: float
    seed: int

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1


@contextmanager
def _igraph_seed(seed: int) -> Iterator[None]:
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)


class EmbeddingGraph:
    """Nearest-neighbor graph of an embedding with UMAP weights, as scanpy's, and its Leiden clusterings.

    Inside, cells are held in the order of their coordinates, so the same cells in another order give the same
    clusters. That holds for equal coordinates: where they differ by rounding, Leiden's random choices may fall
    differently.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    n_neighbors
        Neighbors of each cell, itself included (scanpy's convention); at most n_cells are used.
    seed
        Seed of the neighbor search, which is approximate above 50,000 cells.

    Attributes
    ----------
    distances, connectivities
        csr of shape (n_cells, n_cells) in the order of the given cells.
    n_neighbors
        Neighbors used.
    """

    def __init__(self, embedding: Any, n_neighbors: int = 15, seed: int = 0) -> None:
        embedding = as_embedding(embedding)
        if n_neighbors < 2:
            raise ValueError(f"n_neighbors counts the cell itself and must be 2 or more, found {n_neighbors}.")
        self.n_neighbors = min(n_neighbors, len(embedding))
        self._order = canonical_order(embedding)
        distances, connectivities = neighbor_graph(embedding[self._order], self.n_neighbors, seed)
        self._graph = _as_igraph(connectivities)
        rank = np.argsort(self._order)
        self.distances = distances[rank][:, rank]
        self.connectivities = connectivities[rank][:, rank]

    def leiden(self, resolution: float = 1.0, seed: int = 0) -> Partition:
        """Cluster at one resolution by modularity, two iterations (scanpy's ``flavor="igraph"``).

        Clusters are numbered by decreasing size, ties by the coordinates of their first cell.
        """
        if not resolution > 0:
            raise ValueError(f"resolution must be positive, found {resolution}.")
        if self._graph.ecount() == 0:
            return Partition(np.zeros(len(self._order), dtype=np.int64), resolution, seed)
        with _igraph_seed(seed):
            clusters = self._graph.community_leiden(
                objective_function="modularity",
                weights="weight",
                resolution=resolution,
                n_iterations=_LEIDEN_ITERATIONS,
            )
        labels = np.empty(len(self._order), dtype=np.int64)
        labels[self._order] = _by_size(np.asarray(clusters.membership))
        return Partition(labels, resolution, seed)

    def match(self, n_clusters: int, seed: int = 0) -> Partition:
        """Search the resolution that gives ``n_clusters``, by bisection, with a few seeds from ``seed`` on.

        Returns
        -------
        Partition
            With exactly ``n_clusters``, or the nearest number found. A graph of more connected components than
            ``n_clusters`` cannot reach it.
        """
        if n_clusters < 1:
            raise ValueError(f"The number of clusters must be 1 or more, found {n_clusters}.")
        n_clusters = max(n_clusters, len(self._graph.connected_components()))
        best: Partition | None = None
        low, high = 0.0, None
        for trial in range(seed, seed + _SEEDS_TRIED):
            found, low, high = self._bisect(n_clusters, trial, low, high)
            if best is None or abs(found.n_clusters - n_clusters) < abs(best.n_clusters - n_clusters):
                best = found
            if best.n_clusters == n_clusters:
                break
            # Another seed may cross the number a little lower or higher.
            low, high = 0.8 * low, 1.25 * high
        if best is None:
            raise RuntimeError("No seed was tried.")
        return best

    def as_scanpy(self, use_rep: str, seed: int, key: str = "") -> dict[str, Any]:
        """Return what scanpy keeps in ``uns`` about a graph whose matrices have the prefix ``key``."""
        prefix = f"{key}_" if key else ""
        params = {
            "n_neighbors": self.n_neighbors,
            "method": "umap",
            "metric": "euclidean",
            "random_state": seed,
            "use_rep": use_rep,
        }
        return {
            "connectivities_key": f"{prefix}connectivities",
            "distances_key": f"{prefix}distances",
            "params": params,
        }

    def _bisect(self, n_clusters: int, seed: int, low: float, high: float | None) -> tuple[Partition, float, float]:
        """Return the nearest partition found with one seed and the bracket in which the number is crossed."""
        best = self.leiden(1.0 if high is None else high, seed)
        while best.n_clusters < n_clusters and best.resolution < _MAX_RESOLUTION:
            low = best.resolution
            best = self.leiden(2 * low, seed)
        high = best.resolution
        for _ in range(_BISECTIONS):
            if best.n_clusters == n_clusters:
                break
            found = self.leiden((low + high) / 2, seed)
            if found.n_clusters < n_clusters:
                low = found.resolution
            else:
                high = found.resolution
            if abs(found.n_clusters - n_clusters) < abs(best.n_clusters - n_clusters):
                best = found
        return best, low, high


def _as_igraph(connectivities: csr_matrix) -> Any:
    """Return the undirected weighted graph, each edge once."""
    import igraph

    edges = triu(connectivities, k=1).tocoo()
    graph = igraph.Graph(n=connectivities.shape[0], edges=np.column_stack([edges.row, edges.col]), directed=False)
    graph.es["weight"] = edges.data
    return graph


def _by_size(membership: np.ndarray) -> np.ndarray:
    """Renumber clusters by decreasing size; ties by the position of their first cell."""
    _, first, codes, sizes = np.unique(membership, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(sizes), dtype=np.int64)
    number[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return number[codes]
