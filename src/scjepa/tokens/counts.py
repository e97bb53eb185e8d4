"""Raw counts, chunk by chunk: read from any container into one form, aligned with a vocabulary, and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from scipy import sparse

from scjepa._core.counts import NAN, OTHER, Advice, usual_advice
from scjepa._core.warn import warn


class CountMatrix(Protocol):
    """Counts, cells × genes: what scipy, numpy, AnnData's backed matrices, zarr and Dask have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells and genes."""

    def __getitem__(self, rows: slice | np.ndarray, /) -> object:
        """Return some cells."""


CHUNK_SIZE = 65536
"""Cells read at once, unless told otherwise."""

_LARGEST_CHUNK = 2**26
"""Cells × genes of a chunk at most: what is dense or unpacked at one time stays below half a GiB."""

_LARGEST_LOG = 20.0
"""Data without whole numbers whose largest value is below this looks log-transformed: e^20 counts do not occur."""


def iter_rows(counts: CountMatrix, chunk_size: int = CHUNK_SIZE) -> Iterator[tuple[int, sparse.csr_array]]:
    """Read a matrix of counts from top to bottom, some rows at a time, whatever holds it.

    Parameters
    ----------
    counts
        Cells × genes: a scipy sparse matrix or array of any format, a dense array, or any object with ``shape`` whose
        row slices give one of those (backed AnnData, zarr, h5py) or can ``compute()`` one (Dask). It is not changed.
    chunk_size
        Rows at a time; fewer where there are many genes.

    Yields
    ------
    The number of the first row, and the rows as a CSR matrix with sorted columns, without duplicates and without
    stored zeros.

    Raises
    ------
    ValueError
        If ``counts`` has not two dimensions.
    TypeError
        If it does not hold real numbers.
    """
    n_cells, n_genes = shape_of(counts)
    if sparse.issparse(counts) and counts.format != "csr":
        counts = counts.tocsr()  # once, for rows of any other format are slow to slice
    step = max(1, min(chunk_size, _LARGEST_CHUNK // max(n_genes, 1)))
    for start in range(0, n_cells, step):
        yield start, as_csr(counts[start : min(start + step, n_cells)])


def as_csr(rows: object) -> sparse.csr_array:
    """Return some rows of counts, in memory or to be computed, as CSR in canonical form without stored zeros."""
    rows = rows.compute() if hasattr(rows, "compute") else rows
    return _canonical(rows) if sparse.issparse(rows) else _from_dense(np.asarray(rows))


def read_counts(
    counts: CountMatrix,
    *,
    cells: np.ndarray | None = None,
    dtype: DTypeLike | None = None,
    check: CountCheck | None = None,
) -> sparse.csr_matrix:
    """Read a matrix of counts into memory, as :func:`iter_rows` does.

    Parameters
    ----------
    counts
        Cells × genes, in any form that :func:`iter_rows` takes.
    cells
        ``(n_cells,)`` bool, which of them to keep. Default: all.
    dtype
        Type of the numbers. Default: theirs.
    check
        Sees what is kept, and tells.

    Returns
    -------
    scipy.sparse.csr_matrix
        In canonical form, a copy.
    """
    parts = []
    for start, rows in iter_rows(counts):
        if cells is not None:
            kept = np.asarray(cells)[start : start + rows.shape[0]]
            rows = rows if kept.all() else rows[kept]
        if check is not None:
            check.see(rows, start, None if cells is None else start + np.flatnonzero(kept))
        parts.append(rows if dtype is None else rows.astype(dtype))
    if check is not None:
        check.tell()
    whole = sparse.vstack(parts, format="csr") if parts else sparse.csr_array(shape_of(counts), dtype=dtype)
    # Made of its arrays, a matrix has indices of 32 bits where these do.
    return sparse.csr_matrix((whole.data, whole.indices, whole.indptr), shape=whole.shape, copy=len(parts) == 1)


def shape_of(counts: object) -> tuple[int, int]:
    """Return the number of cells and genes of a matrix of counts, or say that it is none."""
    shape = getattr(counts, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(f"Counts must be a matrix, cells × genes; found {type(counts).__name__} of shape {shape}.")
    return shape


def _canonical(rows: sparse.sparray) -> sparse.csr_array:
    """Return sparse ``rows`` as CSR in canonical form without stored zeros; a copy where that takes a change."""
    _require_numbers(rows.dtype)
    rows = sparse.csr_array(rows)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if np.count_nonzero(rows.data) < rows.nnz:
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def _from_dense(rows: np.ndarray) -> sparse.csr_array:
    _require_numbers(rows.dtype)
    cells, genes = np.nonzero(rows)
    indptr = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(np.bincount(cells, minlength=len(rows)), out=indptr[1:])
    data = rows[cells, genes]
    if data.dtype == np.float16:  # which scipy does not store
        data = data.astype(np.float32)
    return sparse.csr_array((data, genes, indptr), shape=rows.shape)


def _require_numbers(dtype: np.dtype) -> None:
    if dtype.kind not in "buif":
        raise TypeError(f"Counts must be real numbers, found dtype {dtype}. Pass raw counts, e.g. layer='counts'.")


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


class CountCheck:
    """Watches chunks of counts go by: refuses what cannot be a count, and can tell of what is hardly one.

    Parameters
    ----------
    cell_names, gene_names
        Names of the rows and columns for the messages; ``None``: their numbers.
    advice
        Says what to do about values that are no counts; ``None``: what usually helps.
    """

    def __init__(
        self,
        cell_names: Sequence[str] | None = None,
        gene_names: Sequence[str] | None = None,
        advice: Advice | None = None,
    ):
        self._cell_names = cell_names
        self._gene_names = gene_names
        self._advice = advice or usual_advice
        self._largest = 0.0
        self._first_fraction: str | None = None

    def see(self, rows: sparse.csr_array, start: int, cells: np.ndarray | None = None) -> None:
        """Check ``rows``, of which the first is row ``start`` of the data.

        Parameters
        ----------
        cells
            ``(n_rows,)`` which cells they are, where they are not all in turn.

        Raises
        ------
        ValueError
            If a value is negative, NaN or infinite; the first is named.
        """
        if rows.nnz == 0 or rows.dtype.kind in "bu":
            return
        low, high = rows.data.min(), rows.data.max()
        if not (low >= 0 and high <= np.finfo(np.float32).max):  # either comparison fails for NaN
            with np.errstate(invalid="ignore"):
                bad = ~((rows.data >= 0) & (rows.data <= np.finfo(np.float32).max))
            kind = NAN if np.isnan(rows.data[int(bad.argmax())]) else OTHER
            raise ValueError(
                f"{self._describe(rows, start, bad, cells)}; counts are finite and not negative. {self._advice(kind)}"
            )
        self._largest = max(self._largest, float(high))
        if rows.dtype.kind == "f" and self._first_fraction is None:
            fraction = rows.data != np.rint(rows.data)
            if fraction.any():
                self._first_fraction = self._describe(rows, start, fraction, cells)

    def tell(self) -> None:
        """Warn the caller's caller if some values were not whole numbers."""
        if self._first_fraction is None:
            return
        log = f" and look log-transformed (the largest is {self._largest:.3g})" if self._largest < _LARGEST_LOG else ""
        warn(
            f"{self._first_fraction}: the values are not whole numbers{log}. {self._advice(OTHER)} The values are used "
            "as they are."
        )

    def _describe(self, rows: sparse.csr_array, start: int, where: np.ndarray, cells: np.ndarray | None) -> str:
        entry = int(where.argmax())
        row = int(np.searchsorted(rows.indptr, entry, side="right")) - 1
        cell = start + row if cells is None else int(cells[row])
        gene = int(rows.indices[entry])
        return f"{name_of('Cell', self._cell_names, cell)} has the value {rows.data[entry]:.6g} in " + name_of(
            "gene", self._gene_names, gene
        )


def name_of(kind: str, names: Sequence[str] | None, number: int) -> str:
    """Return ``kind`` and the name at ``number``, or the number itself where there are no names."""
    return f"{kind} {number}" if names is None else f"{kind} {str(names[number])!r}"


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
