"""Summed counts of neighborhoods: what the ``"neighborhood"`` tokenizer makes tokens of, not a cell's own counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from scjepa._core.counts import Advice, CountCheck, CountMatrix, as_csr, shape_of
from scjepa.tokens.counts import offsets_of
from scjepa.tokens.neighborhoods import NeighborTable

_BLOCK = 8192
"""Cells summed at once: their neighbors may lie anywhere, and are read with them."""

_LARGEST_READ = 2**26
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
        size = _BLOCK
        if not self._in_memory:
            size = max(1, min(size, _LARGEST_READ // max(1, self.shape[1] * (self._neighbors.shape[1] + 1))))
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
