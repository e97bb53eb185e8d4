"""Neighbor tables from a spatial graph, and the summed counts of neighborhoods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from scjepa._core.counts import Advice, CountCheck, CountMatrix, as_csr, name_of, offsets_of, shape_of
from scjepa._core.graph import refuse_across
from scjepa._core.squidpy import graph_call
from scjepa._core.warn import warn
from scjepa.tokens.table import StoredTable

_BLOCK = 2**20
"""Edges sorted at once."""

_SHORT_SHARE = 0.01
"""Share of cells with fewer than the wanted neighbors from which on a warning is due."""

_SAMPLE = 200_000
"""Stored distances compared with the coordinates, about."""

_RATIO_TOLERANCE = 0.01
"""Relative spread of stored over Euclidean distance among a cell's edges that passes as rounding."""


@dataclass(frozen=True, eq=False)
class NeighborTable(StoredTable):
    """The nearest neighbors of every cell.

    Attributes
    ----------
    index
        ``(n_cells, n_neighbors)`` int32: neighbors from near to far, then -1 where a cell has fewer.
    """

    index: np.ndarray
    kind: ClassVar[str] = "neighbors"

    @property
    def n_cells(self) -> int:
        """Cells in the table."""
        return self.index.shape[0]

    @property
    def n_neighbors(self) -> int:
        """Neighbors at most, the paper's k."""
        return self.index.shape[1]

    @property
    def short(self) -> int:
        """Number of cells with fewer than ``n_neighbors`` neighbors."""
        return int(np.count_nonzero(self.index[:, -1] < 0))

    @property
    def nbytes(self) -> int:
        """Bytes that the table takes."""
        return self.index.nbytes


@dataclass(frozen=True)
class _Graph:
    """Directed edges without loops: cell ``i`` has ``neighbors[starts[i]:starts[i] + degrees[i]]``."""

    starts: np.ndarray
    degrees: np.ndarray
    neighbors: np.ndarray


def build_neighbor_table(
    connectivities: sparse.sparray | None,
    distances: sparse.sparray | None,
    coordinates: np.ndarray,
    n_neighbors: int,
    *,
    sections: np.ndarray | None = None,
    two_hop: bool = False,
    cell_names: Sequence[str] | None = None,
) -> NeighborTable:
    """Put the neighbors of a spatial graph in order, nearest first, and keep ``n_neighbors`` of them.

    The order is by (Euclidean distance in float64, the neighbor's coordinates, its number), so that it does not
    depend on the order of the cells, save for neighbors in the very same place. Any graph will do: k-nearest
    neighbors, radius, Delaunay, grid.

    Parameters
    ----------
    connectivities, distances
        ``(n_cells, n_cells)`` sparse matrices as squidpy writes them to ``obsp``. Either
        may be ``None``. An edge is an entry that either of them has; the diagonal is left out.
    coordinates
        ``(n_cells, 2)`` or ``(n_cells, 3)`` positions, in any unit.
    n_neighbors
        Neighbors kept per cell, k. Cells that have fewer are padded with -1.
    sections
        ``(n_cells,)`` section codes or names, across which no edge may go; ``None``: not checked.
    two_hop
        The connectivities hold two-hop neighbors (``transform="cosine"``): only ``distances`` says what an edge is.
    cell_names
        Names of the cells for messages; ``None``: their numbers.

    Raises
    ------
    ValueError
        If there is no graph or it has no edge, its size is not that of the data, a coordinate is not finite, or an
        edge joins two sections.

    Warns
    -----
    UserWarning
        If more than 1% of the cells have fewer than ``n_neighbors`` neighbors, or stored distances do not agree with
        the coordinates up to a factor (the graph looks stale; ring numbers of grids are not compared).
    """
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors must be positive, found {n_neighbors!r}.")
    coordinates = check_coordinates(coordinates, cell_names)
    graph = _read_graph(None if two_hop else connectivities, distances, len(coordinates))
    if sections is not None:
        _check_sections(graph, np.asarray(sections), cell_names)
    if distances is not None:
        _warn_if_stale(distances, coordinates)
    table = NeighborTable(_nearest(graph, coordinates, n_neighbors))
    if table.short > _SHORT_SHARE * table.n_cells:
        warn(_short_message(table, int(graph.degrees.max())))
    return table


def check_coordinates(coordinates: ArrayLike, cell_names: Sequence[str] | None = None) -> np.ndarray:
    """Return ``(n_cells, 2 or 3)`` float64 coordinates.

    Parameters
    ----------
    coordinates
        Positions, in any unit.
    cell_names
        Names of the cells for messages; ``None``: their numbers.

    Raises
    ------
    ValueError
        If there are not two or three of a cell, or one is NaN, infinite or a text that is no number.
    """
    given = np.asarray(coordinates)
    if given.ndim != 2 or given.shape[1] not in (2, 3):
        raise ValueError(f"Coordinates must have the shape (n_cells, 2) or (n_cells, 3), found {given.shape}.")
    try:
        numbers = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):  # what is no number becomes NaN, so that the cell can be named below
        numbers = np.array([[_number(value) for value in row] for row in given])
    finite = np.isfinite(numbers).all(axis=1)
    if not finite.all():
        cell = int(finite.argmin())
        raise ValueError(
            f"{name_of('Cell', cell_names, cell)} has the coordinates {given[cell].tolist()}, and so for "
            f"{np.count_nonzero(~finite):,} cells in all: coordinates must be finite numbers. Drop cells with NaN or "
            f"infinite coordinates, then build the graph: {graph_call()}."
        )
    return numbers


def _number(value: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def _read_graph(connectivities: sparse.sparray | None, distances: sparse.sparray | None, n_cells: int) -> _Graph:
    """Return the union of the matrices' patterns without the diagonal."""
    patterns = [
        _pattern(matrix, n_cells) for matrix in (_without_zeros(connectivities), distances) if matrix is not None
    ]
    if not patterns:
        raise ValueError(f"There is no spatial graph. Build it: {graph_call()}.")
    union = patterns[0] + patterns[1] if len(patterns) == 2 else patterns[0]
    loops = np.repeat(np.arange(n_cells, dtype=union.indices.dtype), np.diff(union.indptr)) == union.indices
    ends = offsets_of(~loops)[union.indptr]
    if ends[-1] == 0:
        raise ValueError(
            f"The spatial graph of {n_cells:,} cells has no edge. Build it again, with a larger radius if it is a "
            f"radius graph, or of nearest neighbors: {graph_call()}."
        )
    return _Graph(ends[:-1], np.diff(ends), union.indices[~loops])


def _without_zeros(connectivities: sparse.sparray | None) -> sparse.csr_array | None:
    """Return the matrix without stored zeros: there they say no edge, in distances two cells in one place."""
    if connectivities is None:
        return None
    connectivities = sparse.csr_array(connectivities)
    if np.count_nonzero(connectivities.data) < connectivities.nnz:
        connectivities = connectivities.copy()
        connectivities.eliminate_zeros()
    return connectivities


def _pattern(matrix: sparse.sparray, n_cells: int) -> sparse.csr_array:
    """Return the stored entries of ``matrix`` as a boolean CSR matrix in canonical form."""
    if matrix.shape != (n_cells, n_cells):
        raise ValueError(
            f"The spatial graph has the shape {matrix.shape}, but there are {n_cells:,} cells: it is stale. "
            f"Build it again: {graph_call()}."
        )
    matrix = sparse.csr_array(matrix)
    pattern = sparse.csr_array((np.ones(matrix.nnz, dtype=bool), matrix.indices, matrix.indptr), shape=matrix.shape)
    if not pattern.has_canonical_format:
        pattern = pattern.copy()
        pattern.sum_duplicates()
    return pattern


def _check_sections(graph: _Graph, sections: np.ndarray, cell_names: Sequence[str] | None) -> None:
    if sections.shape != graph.degrees.shape:
        raise ValueError(f"Expected one section for each of {len(graph.degrees):,} cells, found {sections.shape}.")
    row = np.repeat(np.arange(len(graph.degrees)), graph.degrees)
    refuse_across(row, graph.neighbors, sections, cell_names, "the spatial graph")


def ordered_neighbors(
    connectivities: sparse.sparray | None, distances: sparse.sparray | None, coordinates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return all neighbors of all cells in the order of :func:`build_neighbor_table`.

    Parameters
    ----------
    connectivities, distances, coordinates
        As there; one section.

    Returns
    -------
    tuple of numpy.ndarray
        ``(n_cells + 1,)`` int64 where each cell's neighbors begin, and ``(n_edges,)`` int32 neighbors.

    Raises
    ------
    ValueError
        As :func:`build_neighbor_table`.

    Warns
    -----
    UserWarning
        If stored distances do not agree with the coordinates.
    """
    coordinates = check_coordinates(coordinates)
    graph = _read_graph(connectivities, distances, len(coordinates))
    if distances is not None:
        _warn_if_stale(distances, coordinates)
    indptr = offsets_of(graph.degrees)
    indices = np.empty(indptr[-1], dtype=np.int32)
    for cells, neighbors in _in_order(graph, coordinates):
        indices[indptr[cells][:, None] + np.arange(neighbors.shape[1])] = neighbors
    return indptr, indices


def _nearest(graph: _Graph, coordinates: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Return the ``(n_cells, n_neighbors)`` int32 table."""
    index = np.full((len(coordinates), n_neighbors), -1, dtype=np.int32)
    for cells, neighbors in _in_order(graph, coordinates):
        kept = neighbors[:, :n_neighbors]
        index[cells, : kept.shape[1]] = kept
    return index


def _in_order(graph: _Graph, coordinates: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield cells of one degree, which make a rectangle, and their neighbors from near to far, some cells at a time."""
    by_place = np.lexsort(coordinates.T[::-1]).astype(np.int32)  # stable: cells in one place stay in their order
    place = np.empty_like(by_place)
    place[by_place] = np.arange(len(place), dtype=np.int32)
    places = coordinates[by_place]
    for cells, degree in _rectangles(graph.degrees):
        edges = graph.starts[cells][:, None] + np.arange(degree)
        # Neighbors first in the order of their places, then stably by distance: so ties keep the order of places.
        neighbors = np.sort(place[graph.neighbors[edges]], axis=1)
        squared = np.zeros(neighbors.shape)
        for axis in range(coordinates.shape[1]):
            squared += (places[:, axis][neighbors] - coordinates[cells, axis][:, None]) ** 2
        order = np.argsort(np.sqrt(squared), axis=1, kind="stable")
        yield cells, by_place[np.take_along_axis(neighbors, order, axis=1)]


def _rectangles(degrees: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield cells of equal degree and that degree, some cells at a time; cells without edges are left out."""
    by_degree = np.argsort(degrees, kind="stable")
    values, starts = np.unique(degrees[by_degree], return_index=True)
    for degree, start, stop in zip(values, starts, [*starts[1:], len(degrees)], strict=True):
        if degree == 0:
            continue
        step = max(1, _BLOCK // degree)
        for first in range(start, stop, step):
            yield by_degree[first : min(first + step, stop)], int(degree)


def _warn_if_stale(distances: sparse.sparray, coordinates: np.ndarray) -> None:
    if _looks_stale(distances, coordinates):
        warn(
            "The distances stored with the spatial graph do not agree with the coordinates: the graph looks stale "
            f"(cells or coordinates changed after it was built). Build it again: {graph_call()}."
        )


def _looks_stale(distances: sparse.sparray, coordinates: np.ndarray) -> bool:
    """Whether stored distances are not Euclidean ones times a factor, which each cell may have of its own.

    A factor is what a change of units leaves, in all sections or in one. Cells with a single edge tell nothing.
    """
    step = max(1, distances.nnz // _SAMPLE)
    sample = sparse.coo_array(sparse.csr_array(distances)[::step])
    cells = sample.row * step
    euclidean = np.linalg.norm(coordinates[cells] - coordinates[sample.col], axis=1)
    compared = (sample.data > 0) & (euclidean > 0)
    stored, euclidean, cells = sample.data[compared], euclidean[compared], cells[compared]
    if len(stored) == 0 or (stored == np.rint(stored)).all():  # whole numbers: rings of a grid
        return False
    ratios = stored / euclidean
    starts = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    spread = np.maximum.reduceat(ratios, starts) / np.minimum.reduceat(ratios, starts)
    return bool(np.mean(spread > 1 + _RATIO_TOLERANCE) > _SHORT_SHARE)


def _short_message(table: NeighborTable, largest: int) -> str:
    k = table.n_neighbors
    reason = (
        f"no cell has more than {largest}: the graph was built with fewer neighbors"
        if largest < k
        else "usual for radius, Delaunay and grid graphs; or cells were removed after the graph was built"
    )
    return (
        f"{table.short / table.n_cells:.1%} of the cells ({table.short:,} of {table.n_cells:,}) have fewer than {k} "
        f"neighbors in the spatial graph ({reason}). Their neighborhoods are smaller. For {k} neighbors each: "
        f"{graph_call(k)}."
    )


def neighbor_places(
    neighbors: NeighborTable, coordinates: np.ndarray, sections: np.ndarray | None = None
) -> np.ndarray:
    """Return where each neighbor lies from its index cell, in median neighbor distances of its section, free of units.

    A shift of a section, or another unit of its coordinates, changes nothing. The unit belongs to the whole section,
    so a part of it cut out can have a slightly different one.

    Parameters
    ----------
    neighbors
        The neighbors of each cell.
    coordinates
        ``(n_cells, 2)`` or ``(n_cells, 3)`` positions, in any unit.
    sections
        ``(n_cells,)`` section codes or names; ``None``: one section.

    Returns
    -------
    numpy.ndarray
        ``(n_cells, n_neighbors, 3)`` float32; the third coordinate is 0 where there are two, and a neighbor that is
        not there has the place 0. In a section whose neighbors all share one place the unit is 1.

    Raises
    ------
    ValueError
        If there are not as many coordinates as cells, or not two or three a cell.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    index, present = neighbors.index, neighbors.index >= 0
    if coordinates.ndim != 2 or len(coordinates) != len(index) or coordinates.shape[1] not in (2, 3):
        raise ValueError(
            f"Expected two or three coordinates for each of {len(index):,} cells, found shape {coordinates.shape}."
        )
    places = np.zeros((*index.shape, 3), dtype=np.float32)
    codes = np.zeros(len(index), dtype=np.int64) if sections is None else np.unique(sections, return_inverse=True)[1]
    for section in range(codes.max(initial=-1) + 1):
        cells = np.flatnonzero(codes == section)
        near, there = index[cells], present[cells]
        offsets = np.where(there[..., None], coordinates[near] - coordinates[cells][:, None], 0.0)
        distances = np.linalg.norm(offsets, axis=2)[there]
        unit = np.median(distances) if len(distances) else 0.0
        places[cells, :, : coordinates.shape[1]] = offsets / (unit if unit > 0 else 1.0)
    return places


CELL_BLOCK = 8192
"""Cells summed at once: their neighbors may lie anywhere, and are read with them."""

LARGEST_READ = 2**26
"""Cells × genes read at once at most, from what may be dense."""


class SummedCounts:
    """The counts of each cell and its neighbors, added up; a matrix, cells × genes, whose rows are made when asked for.

    Wherever counts are read by slices of rows (:func:`scjepa.tokens.build_token_table`,
    :func:`scjepa.tokens.fit_normalizations`) it can stand for them. Nothing dense is made, and no more than a block of
    sums is held at a time.

    Parameters
    ----------
    counts
        Raw counts, cells × genes: in any form that :func:`scjepa.tokens.build_token_table` takes, whose rows can be
        read by number, too.
    neighbors
        The neighbors to add to each cell; a cell that has fewer has a smaller sum.
    cell_names, gene_names, advice
        As in :func:`scjepa.tokens.build_token_table`.

    Raises
    ------
    ValueError
        If the tables disagree about the number of cells; while reading, if a count is negative or not finite.
    """

    def __init__(
        self,
        counts: CountMatrix,
        neighbors: NeighborTable,
        cell_names: Sequence[str] | None = None,
        gene_names: Sequence[str] | None = None,
        advice: Advice | None = None,
    ):
        self.shape = shape_of(counts)
        if neighbors.n_cells != self.shape[0]:
            raise ValueError(f"There are counts of {self.shape[0]} cells, but neighbors of {neighbors.n_cells}.")
        self._in_memory = sparse.issparse(counts)
        self._counts = sparse.csr_array(counts) if self._in_memory else counts
        self._neighbors = neighbors.index
        # A negative count could be hidden in a sum, so each cell's own counts are checked as its row is made.
        self._check = CountCheck(cell_names, gene_names, advice)

    def __getitem__(self, rows: slice) -> sparse.csr_array:
        """Return the sums of a slice of cells as CSR."""
        start, stop, _ = rows.indices(self.shape[0])
        parts = [self._summed(first, last) for first, last in self._blocks(start, stop)]
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        size = CELL_BLOCK
        if not self._in_memory:
            size = max(1, min(size, LARGEST_READ // max(1, self.shape[1] * (self._neighbors.shape[1] + 1))))
        for first in range(start, max(stop, start + 1), size):
            yield first, min(first + size, stop)

    def _summed(self, first: int, last: int) -> sparse.csr_array:
        members = np.column_stack([np.arange(first, last), self._neighbors[first:last]])
        present = members >= 0
        who = members[present]
        counts: sparse.csr_array
        if self._in_memory:
            counts, n = self._counts, self.shape[0]
            self._check.see(as_csr(counts[first:last]), first)
        else:
            read, who = np.unique(who, return_inverse=True)
            counts, n = as_csr(self._counts[read]), len(read)
            own = slice(*np.searchsorted(read, [first, last]))
            self._check.see(counts[own], first)
        # Wide enough for every sum: a whole number of 16 bits has no room for eleven of its kind.
        dtype = np.int64 if counts.dtype.kind in "bui" else np.float64
        shape = (last - first, n)
        adds = sparse.csr_array((np.ones(len(who), dtype=dtype), who, offsets_of(present.sum(axis=1))), shape=shape)
        return sparse.csr_array(adds @ counts)
