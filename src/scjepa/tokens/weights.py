"""What a gene tells of a cell's surroundings: how far it agrees between neighbors, in one pass over the counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from scjepa._core.counts import CountMatrix, as_csr, iter_rows, offsets_of, rows_of, shape_of, totals_of
from scjepa.tokens.neighbors import CELL_BLOCK, LARGEST_READ, NeighborTable

_DEPTH = 1e4
"""Counts that each cell is scaled to before the logarithm."""

_ERRORS = 3.0
"""Standard errors by which an autocorrelation has to exceed 0: of 20,000 genes chance lifts some 30 above."""
_CHANCE_PAIRS = 2.0
"""Pairs of neighbors that both have a gene, as chance makes them even of a gene that few cells have."""
_LEAST = 1e-3
"""Weight of a rare gene that tells nothing, as a share of the largest; that of one in all cells is next to 0."""
_DIGITS = 6
"""Decimals kept, so that the order in which cells are added up is not seen."""


def gene_weights(
    counts: CountMatrix,
    gene_ids: np.ndarray,
    n_vocabulary: int,
    neighbors: NeighborTable,
    sections: np.ndarray | None = None,
) -> np.ndarray:
    """Return how much each gene tells of a cell's surroundings: from 0.001 (nothing) to 1 (the most of all genes).

    Of each gene Moran's autocorrelation I is taken, the covariance of a cell's value with the mean value of its
    neighbors over the variance, of log1p counts scaled to 10,000 a cell and centered within each section. From it goes
    what chance can make: three standard errors, ``3 sqrt(2 / (n k))`` for n cells of k neighbors, and the part of two
    pairs of neighbors, ``4 / (k m)``, for a gene that m cells have. What is left is the weight, as a share of the
    largest. Where nothing is left it is 0.001 times the share of cells that lack the gene: genes that tell nothing come
    last, and of them those that all cells have. No labels are asked for, and cells count once each, whatever their
    order.

    Parameters
    ----------
    counts
        Raw counts, cells × genes, in any form that :func:`scjepa.tokens.build_token_table` takes, whose rows can be
        read by number.
    gene_ids
        ``(n_genes,)`` vocabulary id of each column; -1: the column is ignored, and is no part of a cell's total.
    n_vocabulary
        Genes in the vocabulary.
    neighbors
        Nearest neighbors of each cell. Cells without counts are no neighbors.
    sections
        ``(n_cells,)`` codes from 0 on; ``None``: one section.

    Returns
    -------
    numpy.ndarray
        ``(n_vocabulary,)`` float64. Where no gene tells anything (no structure, no edges, one cell) all weights are 1.

    Raises
    ------
    ValueError
        If the tables disagree about the number of cells.
    """
    n_cells = shape_of(counts)[0]
    if neighbors.n_cells != n_cells:
        raise ValueError(f"There are counts of {n_cells} cells, but neighbors of {neighbors.n_cells}.")
    codes = np.zeros(n_cells, dtype=np.int64) if sections is None else np.asarray(sections, dtype=np.int64)
    sums = _Sums(n_vocabulary, int(codes.max()) + 1)
    for rows, values, means, n_near in _values(counts, gene_ids, n_vocabulary, neighbors):
        sums.add(codes[rows], values, means, n_near)
    return sums.weights()


class _Sums:
    """Sums over cells of each gene's value, the mean of its neighbors, and their products, by section."""

    def __init__(self, n_genes: int, n_sections: int):
        self._own = np.zeros((n_sections, n_genes))
        self._near = np.zeros((n_sections, n_genes))
        self._cells = np.zeros(n_sections)
        self._squares, self._products, self._expressing = (np.zeros(n_genes) for _ in range(3))
        self._edges = 0

    def add(self, codes: np.ndarray, values: sparse.csr_array, means: sparse.csr_array, n_near: np.ndarray) -> None:
        """Add cells: their section codes, values, the means over their neighbors, and how many those are."""
        shape = (len(self._cells), len(codes))
        member = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=shape)
        for total, each in ((self._own, values), (self._near, means)):
            part = sparse.coo_array(member @ each)
            np.add.at(total, part.coords, part.data)
        self._cells += np.bincount(codes, minlength=len(self._cells))
        self._squares += np.bincount(values.indices, weights=values.data**2, minlength=values.shape[1])
        self._expressing += np.bincount(values.indices, minlength=values.shape[1])
        product = sparse.csr_array(values * means)
        self._products += np.bincount(product.indices, weights=product.data, minlength=values.shape[1])
        self._edges += int(n_near.sum())

    def weights(self) -> np.ndarray:
        """Return the weights of the genes."""
        cells = np.maximum(self._cells, 1.0)[:, None]
        variance = self._squares - (self._own**2 / cells).sum(axis=0)
        covariance = self._products - (self._own * self._near / cells).sum(axis=0)
        varies = variance > 1e-9 * np.maximum(self._squares, 1e-300)
        moran = np.divide(covariance, variance, out=np.zeros_like(variance), where=varies)
        degree = self._edges / max(self._cells.sum(), 1.0)
        chance = _ERRORS * np.sqrt(2 / max(self._edges, 1)) + 2 * _CHANCE_PAIRS / np.maximum(
            degree * self._expressing, 1e-300
        )
        left = np.maximum(moran - chance, 0.0)
        if not left.max() > 0:
            return np.ones_like(left)
        rare = 1 - self._expressing / max(self._cells.sum(), 1.0)
        return np.maximum(left / left.max(), _LEAST * rare).round(_DIGITS).clip(min=10.0**-_DIGITS)


def _values(
    counts: CountMatrix, gene_ids: np.ndarray, n_vocabulary: int, neighbors: NeighborTable
) -> Iterator[tuple[np.ndarray, sparse.csr_array, sparse.csr_array, np.ndarray]]:
    """Yield cells that have counts and a neighbor that has: which, their values, and the mean and number of these."""
    gene_ids = np.asarray(gene_ids, dtype=np.int64)
    n_cells, n_genes = shape_of(counts)
    whole = _all_logarithms(counts, gene_ids, n_vocabulary) if sparse.issparse(counts) else None
    size = CELL_BLOCK
    if whole is None:
        size = min(CELL_BLOCK, max(1, LARGEST_READ // max(1, n_genes * (neighbors.n_neighbors + 1))))
    for first in range(0, n_cells, size):
        own = np.arange(first, min(first + size, n_cells))
        near = neighbors.index[own]
        if whole is None:
            read = np.unique(np.concatenate([own, near[near >= 0]]))
            rows = _logarithms(as_csr(counts[read]), gene_ids, n_vocabulary)
            at, place = np.searchsorted(read, own), np.searchsorted(read, near.clip(min=0))
        else:
            rows, at, place = whole, own, near.clip(min=0)
        counted = np.diff(rows.indptr) > 0
        present = (near >= 0) & counted[place]
        kept = counted[at] & present.any(axis=1)
        present, place, at = present[kept], place[kept], at[kept]
        n_near = present.sum(axis=1)
        shape = (len(at), rows.shape[0])
        mean = sparse.csr_array((np.repeat(1 / n_near, n_near), place[present], offsets_of(n_near)), shape=shape)
        yield own[kept], rows[at], sparse.csr_array(mean @ rows), n_near


def _all_logarithms(counts: CountMatrix, gene_ids: np.ndarray, n_vocabulary: int) -> sparse.csr_array:
    """Return the logarithms of all cells whose counts are in memory: computed once, not with each block."""
    parts = [_logarithms(rows, gene_ids, n_vocabulary) for _, rows in iter_rows(counts)]
    return parts[0] if len(parts) == 1 else sparse.csr_array(sparse.vstack(parts, format="csr"))


def _logarithms(rows: sparse.csr_array, gene_ids: np.ndarray, n_vocabulary: int) -> sparse.csr_array:
    """Return log1p of counts scaled to one depth, cells × vocabulary."""
    ids = gene_ids[rows.indices]
    known = ids >= 0
    indptr = offsets_of(known)[rows.indptr]
    shape = (rows.shape[0], n_vocabulary)
    known_rows = sparse.csr_array((rows.data[known].astype(np.float64), ids[known], indptr), shape=shape)
    scale = _DEPTH / np.maximum(totals_of(known_rows), 1e-300)
    known_rows.data = np.log1p(known_rows.data * scale[rows_of(known_rows)]).astype(np.float32)
    known_rows.sort_indices()
    return known_rows
