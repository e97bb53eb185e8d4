"""Raw counts, chunk by chunk, aligned with a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from scjepa._core.counts import CHUNK_SIZE, Advice, CountCheck, CountMatrix, iter_rows, shape_of


def check_codes(codes: ArrayLike, n_cells: int, n_groups: int, what: str, *, unknown: bool = False) -> np.ndarray:
    """Return ``codes`` as int64 after checking that each of ``n_cells`` cells has one in ``0..n_groups-1``.

    Parameters
    ----------
    unknown
        Whether -1 passes too, for a cell whose group is not among the known ones.

    Raises
    ------
    ValueError
        If the length is wrong, or a code is out of range (-1 is how pandas marks a missing category).
    """
    codes = np.asarray(codes)
    if codes.shape != (n_cells,):
        raise ValueError(f"Expected one {what} code for each of {n_cells} cells, found shape {codes.shape}.")
    lowest = -1 if unknown else 0
    outside = (codes < lowest) | (codes >= n_groups)
    if outside.any():
        cell = int(outside.argmax())
        hint = "" if unknown else f"; -1 is a missing category. Give every cell a {what}"
        raise ValueError(f"Cell {cell} has the {what} code {codes[cell]}, outside {lowest}..{n_groups - 1}{hint}.")
    return codes.astype(np.int64)


class CountReader:
    """Counts of a data set as chunks of cells × vocabulary, checked as they go by; reads them as often as asked.

    Parameters
    ----------
    counts
        Cells × genes, in any form that :func:`iter_rows` takes.
    gene_ids
        ``(n_genes,)`` vocabulary id of each column; -1: not in the vocabulary, the column is ignored.
    n_vocabulary
        Genes in the vocabulary.
    groups
        ``(n_cells,)`` technology codes; ``None``: all cells are of group 0.
    n_groups
        Number of technologies.
    unknown_groups
        Whether a cell may have the code -1, a technology that is none of them.
    chunk_size
        Cells read at once, at most.
    cell_names, gene_names, advice
        Names of the rows and columns for messages, and what to do about values that are no counts; ``None``: their
        numbers, and what usually helps.

    Raises
    ------
    ValueError
        If there are no cells, or shapes, ids or codes do not fit; while reading, if a count is negative or not finite.
    """

    def __init__(
        self,
        counts: CountMatrix,
        gene_ids: np.ndarray,
        n_vocabulary: int,
        groups: np.ndarray | None = None,
        n_groups: int = 1,
        *,
        unknown_groups: bool = False,
        chunk_size: int = CHUNK_SIZE,
        cell_names: Sequence[str] | None = None,
        gene_names: Sequence[str] | None = None,
        advice: Advice | None = None,
    ):
        self.n_cells, n_genes = shape_of(counts)
        if self.n_cells == 0:
            raise ValueError("There are no cells to tokenize: the data is empty.")
        self.n_vocabulary, self.n_groups = n_vocabulary, n_groups
        self.gene_ids = _check_gene_ids(gene_ids, n_genes, n_vocabulary)
        self._groups = (
            np.zeros(self.n_cells, dtype=np.int64)
            if groups is None
            else check_codes(groups, self.n_cells, n_groups, "technology", unknown=unknown_groups)
        )
        self._counts = counts
        self._chunk_size = chunk_size
        self.check = CountCheck(cell_names, gene_names, advice)

    def __iter__(self) -> Iterator[tuple[sparse.csr_array, np.ndarray]]:
        """Yield non-zero counts, cells × vocabulary, and the cells' technology codes."""
        for start, rows in iter_rows(self._counts, self._chunk_size):
            rows = keep_entries(rows, self.gene_ids[rows.indices] >= 0)
            self.check.see(rows, start)
            shape = (rows.shape[0], self.n_vocabulary)
            chunk = sparse.csr_array((rows.data, self.gene_ids[rows.indices], rows.indptr), shape=shape)
            yield chunk, self._groups[start : start + rows.shape[0]]


def _check_gene_ids(gene_ids: np.ndarray, n_genes: int, n_vocabulary: int) -> np.ndarray:
    gene_ids = np.asarray(gene_ids)
    if gene_ids.shape != (n_genes,):
        raise ValueError(f"Expected one vocabulary id for each of {n_genes} genes, found shape {gene_ids.shape}.")
    known = gene_ids[gene_ids >= 0]
    if len(known) and known.max() >= n_vocabulary:
        raise ValueError(f"Gene id {known.max()} lies outside the vocabulary of {n_vocabulary} genes.")
    if len(np.unique(known)) < len(known):
        raise ValueError("Two columns of the counts have one gene id; make gene names unique before aligning them.")
    return gene_ids.astype(np.int32)


def keep_entries(rows: sparse.csr_array, kept: np.ndarray) -> sparse.csr_array:
    """Return ``rows`` without the entries that are not ``kept``, ``(rows.nnz,)`` bool; columns keep their numbers."""
    if kept.all():
        return rows
    indptr = offsets_of(kept)[rows.indptr]
    return sparse.csr_array((rows.data[kept], rows.indices[kept], indptr), shape=rows.shape)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return where each of the consecutive runs of ``lengths`` begins, and where the last ends, int64."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def rows_of(rows: sparse.csr_array) -> np.ndarray:
    """Return the row of each entry."""
    return np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))


def totals_of(rows: sparse.csr_array) -> np.ndarray:
    """Return the sum of each row, float64."""
    return np.bincount(rows_of(rows), weights=rows.data, minlength=rows.shape[0])
