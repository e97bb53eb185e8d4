"""The nearest-neighbor graph of an embedding, Leiden on it, and the search for a number of clusters."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.sparse import csr_matrix, triu

from scjepa._core.anndata import as_embedding
from scjepa._core.arrays import canonical_order, first_components
from scjepa._core.neighbors import neighbor_graph
from scjepa._core.options import unknown_name
from scjepa._core.plain import Facts
from scjepa._core.progress import progress_bar

if TYPE_CHECKING:
    import igraph

_LEIDEN_ITERATIONS = 2
_MAX_RESOLUTION = 4096.0
_BISECTIONS = 16
_SEEDS_TRIED = 5

MIN_SHARE = 0.01
"""Share of the cells below which a cluster is an island when clusters are counted: see :meth:`EmbeddingGraph.match`."""


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

    @cached_property
    def sizes(self) -> np.ndarray:
        """Cells of each cluster, decreasing."""
        return np.bincount(self.labels)

    def counted(self, least: float) -> int:
        """Return the number of clusters of at least so many cells."""
        return int((self.sizes >= least).sum())


def _by_igraph(graph: igraph.Graph, resolution: float, seed: int) -> Sequence[int]:
    import igraph

    igraph.set_random_number_generator(random.Random(int(seed)))
    how = {"objective_function": "modularity", "weights": "weight", "n_iterations": _LEIDEN_ITERATIONS}
    try:
        return graph.community_leiden(resolution=resolution, **how).membership
    finally:
        igraph.set_random_number_generator(random)


def _by_leidenalg(graph: igraph.Graph, resolution: float, seed: int) -> Sequence[int]:
    import leidenalg

    clusters = leidenalg.find_partition(
        graph,
        leidenalg.RBConfigurationVertexPartition,  # modularity with a resolution
        weights="weight",
        resolution_parameter=resolution,
        n_iterations=_LEIDEN_ITERATIONS,
        seed=int(seed),
    )
    return clusters.membership


Flavor: TypeAlias = "Callable[[igraph.Graph, float, int], Sequence[int]]"

FLAVORS: dict[str, Flavor] = {"igraph": _by_igraph, "leidenalg": _by_leidenalg}
"""Implementations of Leiden, under scanpy's names: cluster of each vertex from a graph, a resolution and a seed."""


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

    def __init__(self, embedding: object, n_neighbors: int = 15, seed: int = 0) -> None:
        embedding = as_embedding(embedding)
        if n_neighbors < 2:
            raise ValueError(f"n_neighbors counts the cell itself and must be 2 or more, found {n_neighbors}.")
        self.n_neighbors = min(n_neighbors, len(embedding))
        self._order = canonical_order(embedding)
        self._embedding = embedding
        distances, connectivities = neighbor_graph(embedding[self._order], self.n_neighbors, seed)
        self._graph = _as_igraph(connectivities)
        rank = np.argsort(self._order)
        self.distances = distances[rank][:, rank]
        self.connectivities = connectivities[rank][:, rank]

    def leiden(self, resolution: float = 1.0, seed: int = 0, flavor: str = "igraph") -> Partition:
        """Cluster at one resolution by modularity, two iterations, as scanpy does with the same ``flavor``.

        Clusters are numbered by decreasing size, ties by the coordinates of their first cell.

        Parameters
        ----------
        resolution
            More gives more clusters.
        seed
            Seed of Leiden's random choices.
        flavor
            Implementation: ``"igraph"`` or ``"leidenalg"``. Both raise the same modularity; where clusters are not
            clear they may end in different ones of about the same value.

        Raises
        ------
        ValueError
            If the resolution is not positive, or there is no such flavor.
        """
        if flavor not in FLAVORS:
            raise ValueError(unknown_name("flavor of Leiden", flavor, FLAVORS))
        if not resolution > 0:
            raise ValueError(f"resolution must be positive, found {resolution}.")
        if self._graph.ecount() == 0:
            return Partition(np.zeros(len(self._order), dtype=np.int64), resolution, seed)
        labels = np.empty(len(self._order), dtype=np.int64)
        labels[self._order] = _by_size(np.asarray(FLAVORS[flavor](self._graph, resolution, seed)))
        return Partition(labels, resolution, seed)

    def match(self, n_clusters: int, seed: int = 0, min_share: float = 0.0, flavor: str = "igraph") -> Partition:
        """Search the resolution that gives ``n_clusters``, by bisection, with a few seeds from ``seed`` on.

        Neighborhoods overlap, so an embedding of them has knots: a dozen cells whose nearest neighbors are each
        other, which Leiden splits off at any resolution, long before it splits the rest. Were they counted, the wanted
        number would be reached with nearly all cells in one cluster.

        Parameters
        ----------
        n_clusters
            The number of clusters wanted.
        seed
            Leiden's first seed.
        min_share
            Clusters of a smaller share of the cells, or of less than a tenth of an equal share where that is less, are
            not counted; their cells join the cluster of their nearest cell. 0: every cluster counts.
        flavor
            Implementation of Leiden, as for :meth:`leiden`.

        Returns
        -------
        Partition
            With exactly ``n_clusters``, or the nearest number found. A graph of more connected components than
            ``n_clusters`` cannot reach it where every cluster counts.
        """
        if n_clusters < 1:
            raise ValueError(f"The number of clusters must be 1 or more, found {n_clusters}.")
        if not 0 <= min_share < 1:
            raise ValueError(f"min_share must lie in [0, 1), found {min_share}.")
        least = min(min_share, 0.1 / n_clusters) * len(self._order)
        components = np.array(self._graph.connected_components().sizes())
        n_clusters = max(n_clusters, int((components >= least).sum()))
        best: Partition | None = None
        low, high = 0.0, None
        with progress_bar(None, f"Resolution of {n_clusters} niches", "resolutions") as bar:

            def cluster(resolution: float, trial: int) -> Partition:
                bar.update()
                return self.leiden(resolution, trial, flavor)

            for trial in range(seed, seed + _SEEDS_TRIED):
                found, low, high = _bisect(partial(cluster, trial=trial), n_clusters, low, high, least)
                if best is None or _misses(found, n_clusters, least) < _misses(best, n_clusters, least):
                    best = found
                if _misses(best, n_clusters, least) == 0:
                    break
                # Another seed may cross the number a little lower or higher.
                low, high = 0.8 * low, 1.25 * high
        if best is None:
            raise RuntimeError("No seed was tried.")
        return self._joined(best, least)

    def _joined(self, found: Partition, least: float) -> Partition:
        """Return the partition with the cells of clusters below ``least`` in the cluster of their nearest cell."""
        kept = found.sizes >= least
        if kept.all() or not kept.any():
            return found
        from sklearn.neighbors import NearestNeighbors

        stays = kept[found.labels]
        nearest = NearestNeighbors(n_neighbors=1).fit(self._embedding[stays])
        labels = found.labels.copy()
        labels[~stays] = labels[stays][nearest.kneighbors(self._embedding[~stays], return_distance=False)[:, 0]]
        labels[self._order] = _by_size(labels[self._order])
        return Partition(labels, found.resolution, found.seed)

    def as_scanpy(self, use_rep: str, seed: int, key: str = "") -> Facts:
        """Return what scanpy keeps in ``uns`` about a graph whose matrices have the prefix ``key``."""
        prefix = f"{key}_" if key else ""
        about = {"n_neighbors": self.n_neighbors, "method": "umap", "metric": "euclidean"}
        keys = {f"{part}_key": f"{prefix}{part}" for part in ("connectivities", "distances")}
        return {**keys, "params": {**about, "random_state": seed, "use_rep": use_rep}}


def _bisect(
    cluster: Callable[[float], Partition], n_clusters: int, low: float, high: float | None, least: float
) -> tuple[Partition, float, float]:
    """Return the nearest partition found with one seed and the bracket in which the number is crossed."""
    best = cluster(1.0 if high is None else high)
    while best.counted(least) < n_clusters and best.resolution < _MAX_RESOLUTION:
        low = best.resolution
        best = cluster(2 * low)
        if best.sizes[0] < least:  # all are islands: more resolution only makes them smaller
            break
    high = best.resolution
    for _ in range(_BISECTIONS):
        if best.counted(least) == n_clusters:
            break
        found = cluster((low + high) / 2)
        if found.counted(least) < n_clusters and found.sizes[0] >= least:
            low = found.resolution
        else:
            high = found.resolution
        if _misses(found, n_clusters, least) < _misses(best, n_clusters, least):
            best = found
    return best, low, high


def _misses(found: Partition, n_clusters: int, least: float) -> int:
    return abs(found.counted(least) - n_clusters)


def _as_igraph(connectivities: csr_matrix) -> igraph.Graph:
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


def umap_of(values: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    """Return the UMAP of an embedding, ``(n_cells, 2)``, from the graph that niches are found in."""
    if len(values) <= 3:  # too few for UMAP's spectral start
        return first_components(values).astype(np.float32)
    import scanpy as sc
    from anndata import AnnData

    graph = EmbeddingGraph(values, n_neighbors, seed)
    holder = AnnData(
        obsm={"X": values},
        obsp={"distances": graph.distances, "connectivities": graph.connectivities},
        uns={"neighbors": graph.as_scanpy("X", seed)},
        shape=(len(values), 0),
    )
    sc.tl.umap(holder, random_state=seed)
    return np.asarray(holder.obsm["X_umap"], dtype=np.float32)
