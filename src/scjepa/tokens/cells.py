"""The cell token table: every cell's top genes, once, ragged and without padding (Section 2.1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import sparse

from scjepa._config import TokenConfig
from scjepa.tokens.normalize import CHUNK_SIZE, CountCheck, check_codes, get_normalization, iter_rows, shape_of

_RANK_BITS = 32
"""Bits of a rank value in a sort key: those of a float32."""


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The tokens of all cells, one cell after the other, each cell's in the order of their ranks.

    Cell ``i`` owns the tokens ``offsets[i]:offsets[i + 1]``; a cell without counts owns none.

    Attributes
    ----------
    offsets
        ``(n_cells + 1,)`` int64: where each cell's tokens begin, and the number of all tokens.
    genes
        ``(n_tokens,)`` vocabulary ids: int16 where the vocabulary allows it, else int32.
    values
        ``(n_tokens,)`` what each token carries: uint16 if all are whole numbers up to 65535, else float32.
    ranks
        ``(n_tokens,)`` int16 rank codes within the cell where equal rank values share one, the first of their
        positions (``ties="shared"``). ``None``: the rank is the token's position in its cell.
    n_vocabulary
        Genes in the vocabulary.
    n_expressed
        ``(n_cells,)`` int32: vocabulary genes with a non-zero count, before the cut to the top ones.

    Raises
    ------
    ValueError
        If the arrays do not fit together.
    """

    offsets: np.ndarray
    genes: np.ndarray
    values: np.ndarray
    ranks: np.ndarray | None
    n_vocabulary: int
    n_expressed: np.ndarray

    def __post_init__(self) -> None:
        n_tokens = len(self.genes)
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != n_tokens:
            raise ValueError(f"TokenTable.offsets must run from 0 to the number of tokens, {n_tokens}.")
        if len(self.values) != n_tokens or (self.ranks is not None and len(self.ranks) != n_tokens):
            raise ValueError("TokenTable: genes, values and ranks must have one entry per token.")
        if len(self.n_expressed) != self.n_cells:
            raise ValueError("TokenTable: n_expressed must have one entry per cell.")

    @property
    def n_cells(self) -> int:
        """Cells in the table."""
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        """Tokens of all cells together."""
        return len(self.genes)

    @property
    def lengths(self) -> np.ndarray:
        """``(n_cells,)`` int64 tokens of each cell."""
        return np.diff(self.offsets)

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    def subset(self, cells: Any) -> TokenTable:
        """Return the table of ``cells`` (indices in any order, a boolean mask or a slice), arrays copied.

        Raises
        ------
        IndexError
            If a cell does not exist.
        """
        cells = np.arange(self.n_cells)[cells]
        lengths = self.lengths[cells]
        offsets = _offsets(lengths)
        tokens = np.arange(offsets[-1]) + np.repeat(self.offsets[cells] - offsets[:-1], lengths)
        return TokenTable(
            offsets=offsets,
            genes=self.genes[tokens],
            values=self.values[tokens],
            ranks=None if self.ranks is None else self.ranks[tokens],
            n_vocabulary=self.n_vocabulary,
            n_expressed=self.n_expressed[cells],
        )


def build_token_table(
    counts: Any,
    gene_ids: np.ndarray,
    n_vocabulary: int,
    config: TokenConfig,
    *,
    groups: np.ndarray | None = None,
    n_groups: int = 1,
    chunk_size: int = CHUNK_SIZE,
    cell_names: Sequence[str] | None = None,
    gene_names: Sequence[str] | None = None,
) -> TokenTable:
    """Tokenize every cell: its top ``config.n_tokens`` non-zero genes by (-rank value, vocabulary id).

    The result does not depend on the order of the columns, on ``chunk_size``, or on the format and type in which the
    counts are held. Counts are read once, and once more for each normalization that has to be fitted.

    Parameters
    ----------
    counts
        Raw counts, cells × genes: a scipy sparse matrix or array, a dense array, or any object with ``shape`` whose
        row slices give one of those or can ``compute()`` one (backed AnnData, zarr, Dask). It is not changed.
    gene_ids
        ``(n_genes,)`` vocabulary id of each column; -1: not in the vocabulary, the column is ignored.
    n_vocabulary
        Genes in the vocabulary.
    config
        How many genes are kept, what orders them, what their tokens carry, and what ties share.
    groups
        ``(n_cells,)`` technology codes, within which normalizations are fitted; ``None``: all cells are one group.
    n_groups
        Number of technologies.
    chunk_size
        Cells read at once, at most.
    cell_names, gene_names
        Names of the rows and columns for messages; ``None``: their numbers.

    Returns
    -------
    TokenTable
        One entry per cell, in the order of the rows; cells without counts have no tokens.

    Raises
    ------
    ValueError
        If a value is negative or not finite, shapes or ids do not fit, a normalization is not known, or no cell has
        a token.

    Warns
    -----
    UserWarning
        If values are not whole numbers. They are kept, as float32.
    """
    n_cells, n_genes = shape_of(counts)
    if n_cells == 0:
        raise ValueError("There are no cells to tokenize: the data is empty.")
    gene_ids = _check_gene_ids(gene_ids, n_genes, n_vocabulary)
    groups = np.zeros(n_cells, np.int64) if groups is None else check_codes(groups, n_cells, n_groups, "technology")
    gene_bits = max(n_vocabulary - 1, 1).bit_length()
    chunk_size = min(chunk_size, 2 ** (64 - _RANK_BITS - gene_bits))  # so that a row, rank and gene share 64 bits
    check = CountCheck(cell_names, gene_names)

    def chunks() -> Iterator[tuple[sparse.csr_array, np.ndarray]]:
        return _vocabulary_chunks(counts, gene_ids, n_vocabulary, groups, chunk_size, check)

    normalizations = {name: get_normalization(name) for name in (config.values, config.ranks)}
    for normalization in normalizations.values():
        if normalization.needs_fit:
            normalization.fit(chunks(), n_vocabulary, n_groups)

    parts = []
    for chunk, codes in chunks():
        normalized = {name: each.transform(chunk, codes) for name, each in normalizations.items()}
        parts.append(_tokenize(chunk, normalized[config.values], normalized[config.ranks], config, gene_bits))
    if not any(part.n_tokens for part in parts):
        raise ValueError(
            f"No cell has a token: {n_cells} cells, {np.count_nonzero(gene_ids >= 0)} of {len(gene_ids)} genes in the "
            "vocabulary, no count above zero among them. Check that the data holds raw counts (e.g. layer='counts') "
            "and that its gene names are those of the vocabulary (Vocabulary.align)."
        )
    check.tell()
    return _concatenate(parts)


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


def _vocabulary_chunks(
    counts: Any, gene_ids: np.ndarray, n_vocabulary: int, groups: np.ndarray, chunk_size: int, check: CountCheck
) -> Iterator[tuple[sparse.csr_array, np.ndarray]]:
    """Yield checked counts, cells × vocabulary, and the cells' group codes, chunk by chunk."""
    for start, rows in iter_rows(counts, chunk_size):
        rows = _keep_columns(rows, gene_ids >= 0)
        check.see(rows, start)
        chunk = sparse.csr_array((rows.data, gene_ids[rows.indices], rows.indptr), shape=(rows.shape[0], n_vocabulary))
        yield chunk, groups[start : start + rows.shape[0]]


def _keep_columns(rows: sparse.csr_array, keep: np.ndarray) -> sparse.csr_array:
    """Return ``rows`` without the entries outside the columns ``keep``; columns keep their numbers."""
    if keep.all():
        return rows
    kept = keep[rows.indices]
    indptr = _offsets(kept)[rows.indptr]
    return sparse.csr_array((rows.data[kept], rows.indices[kept], indptr), shape=rows.shape)


def _tokenize(
    chunk: sparse.csr_array, values: np.ndarray, ranks: np.ndarray, config: TokenConfig, gene_bits: int
) -> TokenTable:
    """Return the token table of one chunk; ``values`` and ``ranks`` are aligned with its entries."""
    n_expressed = np.diff(chunk.indptr).astype(np.int64)
    lengths = np.minimum(n_expressed, config.n_tokens)
    cells = np.repeat(np.arange(len(n_expressed), dtype=np.uint64), n_expressed)

    # One integer per entry: cell, then falling rank value, then gene. No two are equal, so any sort will do.
    key = (cells << np.uint64(_RANK_BITS)) | _falling(ranks)
    key = (key << np.uint64(gene_bits)) | chunk.indices.astype(np.uint64)
    order = np.argsort(key)
    order = order[_positions(n_expressed) < config.n_tokens]
    return TokenTable(
        offsets=_offsets(lengths),
        genes=chunk.indices[order].astype(_smallest_int(chunk.shape[1])),
        values=_compact(values[order]),
        ranks=_shared_ranks(ranks[order], lengths, config.n_tokens) if config.ties == "shared" else None,
        n_vocabulary=chunk.shape[1],
        n_expressed=n_expressed.astype(np.int32),
    )


def _falling(values: np.ndarray) -> np.ndarray:
    """Return uint64 codes below 2³² whose order is that of ``values`` reversed.

    The bits of positive floats, read as integers, have the floats' own order; those of negative ones the reverse.
    """
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # + 0: one zero, not two
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)


def _shared_ranks(ranks: np.ndarray, lengths: np.ndarray, n_tokens: int) -> np.ndarray:
    """Return for each token the position of the first in its cell with its rank value; tokens are in rank order."""
    positions = _positions(lengths)
    leads = positions == 0
    leads[1:] |= ranks[1:] != ranks[:-1]
    first = np.maximum.accumulate(np.where(leads, np.arange(len(ranks)), 0))
    return positions[first].astype(_smallest_int(n_tokens))


def _positions(lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... within each of the consecutive runs of ``lengths``."""
    offsets = _offsets(lengths)
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _smallest_int(limit: int) -> type[np.signedinteger]:
    """Return int16 if it holds ``limit``, else int32."""
    return np.int16 if limit <= np.iinfo(np.int16).max else np.int32


def _compact(values: np.ndarray) -> np.ndarray:
    """Return ``values`` as uint16 if that loses nothing, else as float32."""
    whole = values.size == 0 or (
        values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max and bool((values == np.rint(values)).all())
    )
    return values.astype(np.uint16 if whole else np.float32)


def _concatenate(parts: list[TokenTable]) -> TokenTable:
    return TokenTable(
        offsets=_offsets(np.concatenate([part.lengths for part in parts])),
        genes=np.concatenate([part.genes for part in parts]),
        values=np.concatenate([part.values for part in parts]),  # uint16 beside float32 gives float32
        ranks=None
        if parts[0].ranks is None
        else np.concatenate([part.ranks for part in parts if part.ranks is not None]),
        n_vocabulary=parts[0].n_vocabulary,
        n_expressed=np.concatenate([part.n_expressed for part in parts]),
    )
