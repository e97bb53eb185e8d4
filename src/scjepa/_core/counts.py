"""Raw counts, chunk by chunk: read from any container into one form, checked and normalized.

A check says of values that are no counts where the raw ones are, and the call that takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from scipy import sparse

from scjepa._core.anndata import counts_of, in_memory, layers_of
from scjepa._core.warn import warn

if TYPE_CHECKING:
    from anndata import AnnData


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

TARGET_SUM = 1e4
"""Total to which the counts of a cell are scaled before log1p, where nothing else is said."""

_LOOKED_AT = 512
"""Cells that are looked at to tell whether a matrix holds counts."""

_CHUNK = 4096
"""Cells in which genes with NaN are looked for at once."""

NAN, OTHER = "nan", "other"
"""What is wrong with a value: it is NaN; it is negative, infinite or not an integer."""

Advice = Callable[[str], str]
"""From what is wrong with a value to the next call, a sentence."""


# -- reading -------------------------------------------------------------------------------------------------------


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
    if sparse.issparse(counts) and getattr(counts, "format", "") != "csr":
        counts = sparse.csr_array(counts)  # once, for rows of any other format are slow to slice
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


def log_normalized(
    counts: sparse.csr_matrix | sparse.csr_array, target_sum: float | None, sizes: np.ndarray | None = None
) -> sparse.csr_array:
    """Return log(1 + count / size · target_sum) of counts in CSR, float32; a cell of size 0 stays 0.

    Parameters
    ----------
    counts
        Cells × genes, CSR; not changed.
    target_sum
        Size to which cells are scaled; ``None``: the median of those of cells that have counts.
    sizes
        ``(n_cells,)`` size of each cell; ``None``: its sum of counts.
    """
    if sizes is None:
        sizes = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    if target_sum is None:
        target_sum = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 1.0
    scale = np.divide(target_sum, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    values = np.log1p(counts.data * np.repeat(scale, np.diff(counts.indptr)))
    return sparse.csr_array((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def log_normalized_cells(
    adata: AnnData, layer: str | None, target_sum: float | None = None, cells: np.ndarray | None = None
) -> AnnData:
    """Return a new AnnData with :func:`log_normalized` counts in ``X``, checked, and the names of the genes.

    Parameters
    ----------
    layer
        Layer of raw counts; ``None``: ``X``.
    target_sum
        Size to which cells are scaled; ``None``: the median.
    cells
        ``(n_cells,)`` bool, which to keep; ``None``: all.
    """
    import pandas as pd
    from anndata import AnnData

    counts = read_counts(counts_of(adata, layer), cells=cells, check=check_of(adata, layer))
    values = sparse.csr_matrix(log_normalized(counts, target_sum))
    return AnnData(values, var=pd.DataFrame(index=adata.var_names.astype(str)))


# -- entries of sparse rows -----------------------------------------------------------------------------------------


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


# -- checks --------------------------------------------------------------------------------------------------------


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
        self._cell_names, self._gene_names, self._advice = cell_names, gene_names, advice or usual_advice
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
                f"{self._describe(rows, start, bad, cells)}; counts are finite and not negative.{_wrapped(rows.dtype)} "
                f"{self._advice(kind)}"
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


class Told(TypedDict, total=False):
    """Names and advice for messages about counts."""

    cell_names: Sequence[str] | None
    gene_names: Sequence[str] | None
    advice: Advice | None


class Reading(Told, total=False):
    """How counts are read: cells at once at most, with names and advice for messages."""

    chunk_size: int


def told_of(adata: AnnData, layer: str | None, of: str = "adata", option: str = "layer") -> Told:
    """Return what messages about the counts of ``adata`` need."""
    return {"cell_names": adata.obs_names, "gene_names": adata.var_names, "advice": advice_on(adata, layer, of, option)}


def check_of(adata: AnnData, layer: str | None, of: str = "adata", option: str = "layer") -> CountCheck:
    """Return a check of the counts of ``adata`` that names its cells and genes and knows where raw counts are."""
    return CountCheck(**told_of(adata, layer, of, option))


def _wrapped(dtype: np.dtype) -> str:
    """Return what a negative count of a small type may be, after a space."""
    if dtype.kind != "i" or dtype.itemsize > 2:
        return ""
    return f" {dtype} holds no more than {np.iinfo(dtype).max:,}: a larger count became negative when it was converted."


def usual_advice(kind: str) -> str:
    """Return what to do about values of which nothing else is known."""
    if kind == NAN:
        return (
            "NaN is what anndata.concat(join='outer') leaves of genes that a panel lacks: join objects with "
            "scjepa.concat, or with fill_value=0."
        )
    return "Pass raw counts, e.g. layer='counts'."


def advice_on(adata: AnnData, layer: str | None, of: str = "adata", option: str = "layer") -> Advice:
    """Return what tells the next call where values of an AnnData object are no counts. It looks when it is asked.

    Parameters
    ----------
    layer
        Layer that the values were read from; ``None``: ``X``.
    of
        What the object is called.
    option
        The argument that names its layer.
    """

    def advise(kind: str) -> str:
        counts = counts_of(adata, layer)
        if kind == NAN:
            place = f"{of}.X" if layer is None else f"{of}.layers[{layer!r}]"
            told = about_nan(*genes_with_nan(counts))
            if not isinstance(counts, np.ndarray):
                return told
            return f"{told} Or count them as zeros: {place} = numpy.nan_to_num({place})."
        return _where_counts_are(adata, layer, of, option)

    return advise


def _where_counts_are(adata: AnnData, layer: str | None, of: str, option: str) -> str:
    there = [name for name in layers_of(adata) if name != layer and holds_counts(adata.layers[name])]
    if there:
        return f"Raw counts are in {of}.layers[{there[0]!r}]: pass {option}={there[0]!r}."
    if layer is not None and holds_counts(adata.X):
        return f"Raw counts are in {of}.X: leave the layer out."
    if adata.raw is not None and holds_counts(adata.raw.X):
        return (
            f"Raw counts are in {of}.raw: {of} = {of}.raw.to_adata() puts them in X and keeps obs, obsm, obsp and uns."
        )
    names = ", ".join(map(repr, layers_of(adata))) or "none"
    return (
        f"No raw counts are in {of}.X, its layers ({names}) or {of}.raw: take them from the file that these values "
        "were made from."
    )


def about_nan(n_nan: int, n_genes: int) -> str:
    """Return what to do about counts that are NaN in some genes, or in all."""
    if n_nan == n_genes:
        return f"All {n_genes:,} genes have NaN: leave out the cells that were not measured, or pass other counts."
    return (
        f"{n_nan:,} of {n_genes:,} genes have NaN, as anndata.concat(join='outer') leaves genes that a panel lacks. "
        "Join the objects with scjepa.concat, which notes what each technology measured, or with fill_value=0."
    )


def genes_with_nan(counts: CountMatrix) -> tuple[int, int]:
    """Return how many genes have NaN in some cell, and how many there are."""
    n_cells, n_genes = counts.shape
    found = np.zeros(n_genes, dtype=bool)
    for start in range(0, n_cells, _CHUNK):
        rows = in_memory(counts[start : start + _CHUNK])
        if hasattr(rows, "tocoo"):
            entries = rows.tocoo()
            found[entries.col[np.isnan(entries.data)]] = True
        else:
            found |= np.isnan(np.asarray(rows)).any(axis=0)
    return int(found.sum()), n_genes


def holds_counts(matrix: Any) -> bool:
    """Return whether a matrix, in memory, on disk or lazy, has whole numbers from 0 on and not zeros alone.

    The first cells tell.
    """
    if matrix is None or len(matrix.shape) != 2 or not matrix.shape[0]:
        return False
    rows = in_memory(matrix[: min(_LOOKED_AT, matrix.shape[0])])
    values = np.asarray(rows.data if hasattr(rows, "tocsr") else rows)
    if values.dtype.kind not in "uif" or not values.size:
        return False
    with np.errstate(invalid="ignore"):
        return bool((values >= 0).all() and (values == np.rint(values)).all() and np.isfinite(values).all()) and bool(
            values.any()
        )


# -- aligned with a vocabulary --------------------------------------------------------------------------------------


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
        **told: Unpack[Told],
    ):
        self.n_cells, n_genes = shape_of(counts)
        if self.n_cells == 0:
            raise ValueError("There are no cells to tokenize: the data is empty.")
        self.n_vocabulary, self.n_groups = n_vocabulary, n_groups
        self.gene_ids = _check_gene_ids(gene_ids, n_genes, n_vocabulary)
        self._groups = np.zeros(self.n_cells, dtype=np.int64)
        if groups is not None:
            self._groups = check_codes(groups, self.n_cells, n_groups, "technology", unknown=unknown_groups)
        self._counts = counts
        self._chunk_size = chunk_size
        self.check = CountCheck(**told)

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
