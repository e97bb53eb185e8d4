"""Raw counts, chunk by chunk: read from any container into one form, checked, and normalized.

A normalization turns counts into the numbers that order a cell's genes (ranks) or that its tokens carry (values). It
sees non-zero counts only and keeps their places: a zero stays a gene without a token.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from scjepa._config import unknown_name

CHUNK_SIZE = 65536
"""Cells read at once, unless told otherwise."""

_LARGEST_CHUNK = 2**26
"""Cells × genes of a chunk at most: what is dense or unpacked at one time stays below half a GiB."""

_LARGEST_LOG = 20.0
"""Data without whole numbers whose largest value is below this looks log-transformed: e^20 counts do not occur."""


def iter_rows(counts: Any, chunk_size: int = CHUNK_SIZE) -> Iterator[tuple[int, sparse.csr_array]]:
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
        rows = counts[start : min(start + step, n_cells)]
        rows = rows.compute() if hasattr(rows, "compute") else rows
        yield start, _canonical(rows) if sparse.issparse(rows) else _from_dense(np.asarray(rows))


def shape_of(counts: Any) -> tuple[int, int]:
    """Return the number of cells and genes of a matrix of counts, or say that it is none."""
    shape = getattr(counts, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(f"Counts must be a matrix, cells × genes; found {type(counts).__name__} of shape {shape}.")
    return shape


def _canonical(rows: Any) -> sparse.csr_array:
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


def check_codes(codes: Any, n_cells: int, n_groups: int, what: str) -> np.ndarray:
    """Return ``codes`` as int64 after checking that each of ``n_cells`` cells has one in ``0..n_groups-1``.

    Raises
    ------
    ValueError
        If the length is wrong, or a code is out of range (-1 is how pandas marks a missing category).
    """
    codes = np.asarray(codes)
    if codes.shape != (n_cells,):
        raise ValueError(f"Expected one {what} code for each of {n_cells} cells, found shape {codes.shape}.")
    outside = (codes < 0) | (codes >= n_groups)
    if outside.any():
        cell = int(outside.argmax())
        raise ValueError(
            f"Cell {cell} has the {what} code {codes[cell]}, outside 0..{n_groups - 1}; -1 is a missing category. "
            f"Give every cell a {what}."
        )
    return codes.astype(np.int64)


class CountCheck:
    """Watches chunks of counts go by: refuses what cannot be a count, and can tell of what is hardly one.

    Parameters
    ----------
    cell_names, gene_names
        Names of the rows and columns for the messages; ``None``: their numbers.
    """

    def __init__(self, cell_names: Sequence[str] | None = None, gene_names: Sequence[str] | None = None):
        self._cell_names = cell_names
        self._gene_names = gene_names
        self._largest = 0.0
        self._first_fraction: str | None = None

    def see(self, rows: sparse.csr_array, start: int) -> None:
        """Check ``rows``, of which the first is row ``start`` of the data.

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
            raise ValueError(
                f"{self._describe(rows, start, bad)}; counts are finite and not negative. "
                "Pass raw counts, e.g. layer='counts'."
            )
        self._largest = max(self._largest, float(high))
        if rows.dtype.kind == "f" and self._first_fraction is None:
            fraction = rows.data != np.rint(rows.data)
            if fraction.any():
                self._first_fraction = self._describe(rows, start, fraction)

    def tell(self) -> None:
        """Warn the caller's caller if some values were not whole numbers."""
        if self._first_fraction is None:
            return
        log = f" and look log-transformed (the largest is {self._largest:.3g})" if self._largest < _LARGEST_LOG else ""
        warnings.warn(
            f"{self._first_fraction}: the values are not whole numbers{log}. Name the layer that holds raw counts, "
            "e.g. layer='counts'. The values are used as they are.",
            UserWarning,
            stacklevel=3,
        )

    def _describe(self, rows: sparse.csr_array, start: int, where: np.ndarray) -> str:
        entry = int(where.argmax())
        cell = start + int(np.searchsorted(rows.indptr, entry, side="right")) - 1
        gene = int(rows.indices[entry])
        return f"{name_of('Cell', self._cell_names, cell)} has the value {rows.data[entry]:.6g} in " + name_of(
            "gene", self._gene_names, gene
        )


def name_of(kind: str, names: Sequence[str] | None, number: int) -> str:
    """Return ``kind`` and the name at ``number``, or the number itself where there are no names."""
    return f"{kind} {number}" if names is None else f"{kind} {str(names[number])!r}"


class Normalization(Protocol):
    """What every normalization can do; a new one is a class with these and a line in :data:`NORMALIZATIONS`.

    A chunk of counts is a CSR matrix, cells × vocabulary, of non-zero counts; ``groups`` are its cells' technology
    codes, ``(n_cells,)`` int64. Both calls leave the chunk as it is.
    """

    needs_fit: bool
    """Whether :meth:`fit` must see all counts before :meth:`transform` is called."""

    def fit(self, chunks: Iterable[tuple[sparse.csr_array, np.ndarray]], n_genes: int, n_groups: int) -> None:
        """Learn from all ``chunks``, each of counts and group codes."""

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the normalized values of the entries of ``counts``, float32, aligned with ``counts.data``."""


def _rows_of(counts: sparse.csr_array) -> np.ndarray:
    """Return the row of each entry."""
    return np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))


def _totals(counts: sparse.csr_array) -> np.ndarray:
    return np.bincount(_rows_of(counts), weights=counts.data, minlength=counts.shape[0])


class Counts:
    """The counts themselves."""

    needs_fit = False

    def fit(self, chunks: Iterable[tuple[sparse.csr_array, np.ndarray]], n_genes: int, n_groups: int) -> None:
        """Nothing to learn."""

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the counts as float32."""
        return counts.data.astype(np.float32)


class ShiftedLog:
    """log(1 + count · target / total): each cell scaled to the median total count of its group.

    Totals are over the genes of the vocabulary; cells without counts have no say in the median.
    """

    needs_fit = True

    def fit(self, chunks: Iterable[tuple[sparse.csr_array, np.ndarray]], n_genes: int, n_groups: int) -> None:
        """Learn each group's median total count; 1 for a group without counts."""
        seen = [(_totals(counts), groups) for counts, groups in chunks]
        totals = np.concatenate([total for total, _ in seen])
        codes = np.concatenate([group for _, group in seen])
        expressed = [totals[(codes == group) & (totals > 0)] for group in range(n_groups)]
        self.targets = np.array([np.median(total) if len(total) else 1.0 for total in expressed])

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the shifted logarithms as float32."""
        rows = _rows_of(counts)
        scale = self.targets[groups] / np.maximum(_totals(counts), np.finfo(np.float32).tiny)
        return np.log1p(counts.data * scale[rows]).astype(np.float32)


class NonzeroMean:
    """Count over the gene's mean among the cells of the group that express it.

    A gene that is high for this gene outranks one that is high in every cell; the idea is Geneformer's ranking, with
    a mean in place of its median.
    """

    needs_fit = True

    def fit(self, chunks: Iterable[tuple[sparse.csr_array, np.ndarray]], n_genes: int, n_groups: int) -> None:
        """Learn each gene's non-zero mean in each group; 1 where no cell expresses it."""
        total = np.zeros(n_groups * n_genes)
        cells = np.zeros(n_groups * n_genes)
        for counts, groups in chunks:
            place = groups[_rows_of(counts)] * n_genes + counts.indices
            total += np.bincount(place, weights=counts.data, minlength=len(total))
            cells += np.bincount(place, minlength=len(cells))
        means = np.divide(total, cells, out=np.ones_like(total), where=cells > 0)
        self.means = means.reshape(n_groups, n_genes)

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the ratios as float32."""
        return (counts.data / self.means[groups[_rows_of(counts)], counts.indices]).astype(np.float32)


NORMALIZATIONS: dict[str, type[Normalization]] = {
    "counts": Counts,
    "shifted_log": ShiftedLog,
    "nonzero_mean": NonzeroMean,
}
"""Normalizations by name, for :class:`scjepa._config.TokenConfig`'s ``values`` and ``ranks``."""


def get_normalization(name: str) -> Normalization:
    """Return a new normalization by its name in :data:`NORMALIZATIONS`.

    Raises
    ------
    ValueError
        If the name is not known; the known ones are listed.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(unknown_name("normalization", name, NORMALIZATIONS))
    return NORMALIZATIONS[name]()
