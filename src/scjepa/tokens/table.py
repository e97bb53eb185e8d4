"""The token table: each cell's genes, chosen and ordered once; and tables as files, known by what made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar, Self, TypeVar, Unpack

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from scjepa._core.counts import CHUNK_SIZE, CountMatrix, CountReader, Told, iter_rows, keep_entries, offsets_of
from scjepa._core.files import digest, mapped_arrays, whole
from scjepa._core.plain import Facts, plain
from scjepa._core.settings import settings
from scjepa.tokens.config import TokenRule
from scjepa.tokens.normalize import FittedNormalizations

FORMAT = 2
"""Tables of format 1 were folders of ``.npy`` files; a cache has none of those names, so they are built anew."""

_AGAIN = "Delete the file and run again: the table is then built anew"


@dataclass(frozen=True, eq=False)
class StoredTable:
    """Base of tables, dataclasses of arrays and numbers, that can be written to a file and mapped from it."""

    kind: ClassVar[str]

    def save(self, path: str | Path, fingerprint: Mapping[str, object] | None = None) -> None:
        """Write the table to a file, whole or not at all.

        Parameters
        ----------
        path
            File to make. If it holds a table of this kind and fingerprint already, that one is kept.
        fingerprint
            What the table was made from, by name, as JSON can hold it; :meth:`load` compares it.

        Raises
        ------
        ValueError
            If the file holds something else.
        """
        path = Path(path)
        if path.exists():
            _description(path, self.kind, fingerprint)
            return
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        arrays = {name: np.ascontiguousarray(x) for name, x in values.items() if isinstance(x, np.ndarray)}
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "fingerprint": dict(fingerprint or {}),
            "facts": plain({name: x for name, x in values.items() if name not in arrays}),
            "digests": {name: digest(array) for name, array in arrays.items()},
        }
        with whole(path) as draft:
            save_file(arrays, draft, {"scjepa": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path, mmap: bool = True, fingerprint: Mapping[str, object] | None = None) -> Self:
        """Read a table that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.
        mmap
            Map the arrays into memory rather than read them, so that a table may be larger than memory. Changes to them
            stay in this process.
        fingerprint
            What the table has to have been made from; names that are left out are not compared.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the table is damaged, truncated, foreign, newer than this version, or made from something else.
        """
        path = Path(path)
        about = _description(path, cls.kind, fingerprint)
        arrays = mapped_arrays(path, mmap)
        for name, wanted in about["digests"].items():
            if name not in arrays or digest(arrays[name]) != wanted:
                raise ValueError(f"{path} is damaged: its {name} are not what was written. {_AGAIN}.")
        return cls(**about["facts"], **arrays)


def _description(path: Path, kind: str, fingerprint: Mapping[str, object] | None) -> Facts:
    """Return what the table in a file says of itself, after checking that it is the one wanted."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a table is a file. Name a file, such as {path}.safetensors.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Write the table there first: table.save(path).")
    try:
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("scjepa")
        about: Facts = {} if found is None else json.loads(found)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}. {_AGAIN}.") from error
    if found is None:
        raise ValueError(f"{path} is not a table that scjepa wrote. Name another file.")
    if about["format"] > FORMAT:
        raise ValueError(
            f"{path} was written by a newer scjepa (table format {about['format']}, this version reads {FORMAT}). "
            "Upgrade scjepa: pip install -U scjepa. Or name another file."
        )
    if about["kind"] != kind:
        raise ValueError(f"{path} holds a table of {about['kind']}, not of {kind}. Name another file.")
    for name, value in json.loads(json.dumps(dict(fingerprint or {}))).items():
        made_from = about["fingerprint"].get(name)
        if made_from != value:
            raise ValueError(
                f"The table in {path} was made from other data or options: its {name} is {made_from!r}, expected "
                f"{value!r}. Name another file, or delete this one and run again."
            )
    return about


Table = TypeVar("Table", bound=StoredTable)


def through_cache(
    kind: type[Table], marks: Callable[[], dict[str, str]], build: Callable[[], Table], folder: Path | None = None
) -> Table:
    """Return the table of ``marks`` from a folder, built and written there if it is not.

    Without a cache folder the table is built and stays in memory. Each combination of marks has a file of its own, so
    nothing is ever replaced, and several runs may share a cache.

    Parameters
    ----------
    kind
        The class of the table.
    marks
        Gives what the table is made from, by name.
    build
        Makes it.
    folder
        The folder. Default: ``scjepa.settings.cache_dir``.

    Raises
    ------
    ValueError
        If the table in the cache is damaged, foreign or newer than this version.
    """
    place = settings.cache_dir if folder is None else folder
    if place is None:
        return build()
    fingerprint = marks()
    file = Path(place) / f"{kind.kind}-{digest(fingerprint)}.safetensors"
    if not file.exists():
        build().save(file, fingerprint)
    return kind.load(file, mmap=True, fingerprint=fingerprint)


def counts_digest(counts: CountMatrix) -> str:
    """Return a hash of a matrix of counts: the same in memory and on disk, for every format and number type."""
    parts = []
    for start, rows in iter_rows(counts):
        lengths = np.diff(rows.indptr).astype(np.int32)
        parts.append(digest(start, lengths, rows.indices.astype(np.int32), rows.data.astype(np.float64)))
    return digest(parts, list(counts.shape))


def graph_digest(*matrices: sparse.csr_matrix | None) -> str:
    """Return a hash of sparse matrices, each of which may be ``None``."""
    parts = [None if m is None else digest(m.indptr.astype(np.int64), m.indices, m.data) for m in matrices]
    return digest(parts)


_RANK_BITS = 32
"""Bits of a rank value in a sort key: those of a float32."""


@dataclass(frozen=True, eq=False)
class TokenTable(StoredTable):
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
    kind: ClassVar[str] = "tokens"

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

    def subset(self, cells: slice | np.ndarray | Sequence[int]) -> TokenTable:
        """Return the table of ``cells`` (indices in any order, a boolean mask or a slice), arrays copied.

        Raises
        ------
        IndexError
            If a cell does not exist.
        """
        cells = np.arange(self.n_cells)[cells]
        lengths = self.lengths[cells]
        offsets = offsets_of(lengths)
        tokens = np.arange(offsets[-1]) + np.repeat(self.offsets[cells] - offsets[:-1], lengths)
        ranks, n_expressed = None if self.ranks is None else self.ranks[tokens], self.n_expressed[cells]
        columns: Facts = {"genes": self.genes[tokens], "values": self.values[tokens], "ranks": ranks}
        return replace(self, offsets=offsets, n_expressed=n_expressed, **columns)


def build_token_table(
    counts: CountMatrix,
    gene_ids: np.ndarray,
    n_vocabulary: int,
    rule: TokenRule,
    *,
    groups: np.ndarray | None = None,
    n_groups: int = 1,
    fitted: FittedNormalizations | None = None,
    token_ids: np.ndarray | None = None,
    chunk_size: int = CHUNK_SIZE,
    **told: Unpack[Told],
) -> TokenTable:
    """Tokenize every cell: its top ``rule.n_tokens`` non-zero genes by (-rank value, vocabulary id).

    The result does not depend on the order of the columns, on ``chunk_size``, or on the format and type in which the
    counts are held. With ``fitted`` normalizations a cell's tokens do not depend on the other cells either. Counts are
    read once, and once more where normalizations have to be fitted first.

    Parameters
    ----------
    counts
        Raw counts, cells × genes: a scipy sparse matrix or array, a dense array, or any object with ``shape`` whose
        row slices give one of those or can ``compute()`` one (backed AnnData, zarr, Dask). It is not changed.
    gene_ids
        ``(n_genes,)`` vocabulary id of each column; -1: not in the vocabulary, the column is ignored.
    n_vocabulary
        Genes in the vocabulary.
    rule
        How many genes are kept, what orders them, what their tokens carry, and what ties share.
    groups
        ``(n_cells,)`` technology codes, within which normalizations are fitted; ``None``: all cells are of group 0.
        With ``fitted``, -1 is a technology that was not there to learn from: the statistics of all technologies
        together are used for it.
    n_groups
        Number of technologies.
    fitted
        Normalizations fitted on the data of a model (:func:`scjepa.tokens.fit_normalizations`); ``None``: they are
        fitted on these counts.
    token_ids
        Vocabulary ids of the genes that may become tokens; ``None``: all. The others are left out after normalization,
        so a token carries the same value with and without them.
    chunk_size
        Cells read at once, at most.
    cell_names, gene_names
        Names of the rows and columns for messages; ``None``: their numbers.
    advice
        Says what to do about values that are no counts, from what is wrong with them (``"nan"`` or ``"other"``);
        ``None``: what usually helps.

    Returns
    -------
    TokenTable
        One entry per cell, in the order of the rows; cells without counts have no tokens.

    Raises
    ------
    ValueError
        If a value is negative or not finite, shapes, ids, codes or ``fitted`` do not fit, a normalization is not known,
        or no cell has a token.

    Warns
    -----
    UserWarning
        If values are not whole numbers. They are kept, as float32.
    """
    gene_bits = max(n_vocabulary - 1, 1).bit_length()
    size = min(chunk_size, 2 ** (64 - _RANK_BITS - gene_bits))  # a row, rank and gene share 64 bits
    about = (counts, gene_ids, n_vocabulary, groups, n_groups)
    reader = CountReader(*about, unknown_groups=fitted is not None, chunk_size=size, **told)
    if fitted is None:
        fitted = FittedNormalizations.learned(rule, reader)
    fitted.require((rule.values, rule.ranks), n_vocabulary, n_groups)
    may_be_token = np.ones(n_vocabulary, dtype=bool) if token_ids is None else _mask(token_ids, n_vocabulary)

    parts = []
    for chunk, codes in reader:
        normalized = fitted.transform(chunk, codes)
        kept = may_be_token[chunk.indices]
        values, ranks = normalized[rule.values][kept], normalized[rule.ranks][kept]
        parts.append(_tokenize(keep_entries(chunk, kept), values, ranks, rule, gene_bits))
    if not any(part.n_tokens for part in parts):
        known = reader.gene_ids[reader.gene_ids >= 0]
        chosen = "" if token_ids is None else f", {np.count_nonzero(may_be_token[known])} of them chosen as tokens"
        raise ValueError(
            f"No cell has a token: {reader.n_cells} cells, {len(known)} of {len(reader.gene_ids)} genes in the "
            f"vocabulary{chosen}, no count above zero among them. Check that the data holds raw counts (e.g. "
            "layer='counts') and that its gene names are those of the vocabulary (Vocabulary.align)."
        )
    reader.check.tell()
    return _concatenate(parts)


def _mask(ids: np.ndarray, size: int) -> np.ndarray:
    """Return ``(size,)`` bool, true at ``ids``."""
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) and not (ids.min() >= 0 and ids.max() < size):
        raise ValueError(f"token_ids must lie in 0..{size - 1}, found {ids.min()}..{ids.max()}.")
    mask = np.zeros(size, dtype=bool)
    mask[ids] = True
    return mask


def _tokenize(
    chunk: sparse.csr_array, values: np.ndarray, ranks: np.ndarray, rule: TokenRule, gene_bits: int
) -> TokenTable:
    """Return the token table of one chunk; ``values`` and ``ranks`` are aligned with its entries."""
    n_expressed = np.diff(chunk.indptr).astype(np.int64)
    lengths = np.minimum(n_expressed, rule.n_tokens)
    cells = np.repeat(np.arange(len(n_expressed), dtype=np.uint64), n_expressed)

    # One integer per entry: cell, then falling rank value, then gene. No two are equal, so any sort will do.
    key = (cells << np.uint64(_RANK_BITS)) | _falling(ranks)
    key = (key << np.uint64(gene_bits)) | chunk.indices.astype(np.uint64)
    order = np.argsort(key)
    order = order[_positions(n_expressed) < rule.n_tokens]
    return TokenTable(
        offsets=offsets_of(lengths),
        genes=chunk.indices[order].astype(_smallest_int(chunk.shape[1])),
        values=_compact(values[order]),
        ranks=_shared_ranks(ranks[order], lengths, rule.n_tokens) if rule.ties == "shared" else None,
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
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)


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
    """Put tables of cells one behind the other."""
    names = ["genes", "values", "n_expressed", *([] if parts[0].ranks is None else ["ranks"])]
    # uint16 beside float32 gives float32
    columns: Facts = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], offsets=offsets_of(np.concatenate([part.lengths for part in parts])), **columns)
