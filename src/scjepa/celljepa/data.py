"""AnnData of dissociated cells in, tables of expressed genes out, each with a quantile bin of its count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, Unpack

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core.anndata import counts_of, entry_of, labels_of, warn_of_words
from scjepa._core.counts import CountMatrix, Reading, Told, iter_rows, offsets_of, told_of
from scjepa._core.files import digest
from scjepa.models import setup
from scjepa.models.setup import codes_of, names_of
from scjepa.tokens.config import TokenRule
from scjepa.tokens.table import TokenTable, build_token_table, counts_digest, through_cache
from scjepa.tokens.vocabulary import Vocabulary


def build_expression_table(
    counts: CountMatrix, gene_ids: np.ndarray, n_vocabulary: int, n_bins: int = 51, **reading: Unpack[Reading]
) -> TokenTable:
    """Tokenize every cell: all its expressed genes by (-count, vocabulary id), with binned values.

    Nothing is cut here: which genes of a cell a batch holds is the business of :class:`CellSource`. So a
    gene's value does not depend on which others are drawn beside it; nor does it depend on other cells, on the order of
    the columns, or on anything that rises with the counts within a cell (depth normalization, logarithm).

    Parameters
    ----------
    counts
        Raw counts, cells × genes, in any form that :func:`scjepa.tokens.build_token_table` takes.
    gene_ids
        ``(n_genes,)`` vocabulary id of each column; -1: not in the vocabulary, the column is ignored, and plays no part
        in the quantiles either.
    n_vocabulary
        Genes in the vocabulary.
    n_bins
        Bins, that of zero included.
    chunk_size, cell_names, gene_names, advice
        As in :func:`scjepa.tokens.build_token_table`.

    Returns
    -------
    TokenTable
        One entry per cell; ``values`` are bins, uint16. Cells without counts have no tokens.

    Raises
    ------
    ValueError
        If a value is negative or not finite, shapes or ids do not fit, or no cell has a token.

    Warns
    -----
    UserWarning
        If values are not whole numbers.
    """
    return binned(build_count_table(counts, gene_ids, n_vocabulary, **reading), n_bins)


def build_count_table(
    counts: CountMatrix, gene_ids: np.ndarray, n_vocabulary: int, **reading: Unpack[Reading]
) -> TokenTable:
    """Tokenize every cell as :func:`build_expression_table` does, with counts as values."""
    return build_token_table(counts, gene_ids, n_vocabulary, TokenRule(n_tokens=n_vocabulary), **reading)


def binned(table: TokenTable, n_bins: int) -> TokenTable:
    """Return a table of counts with their quantile bins as values."""
    return replace(table, values=quantile_bins(table.values, table.offsets, n_bins))


def quantile_bins(values: np.ndarray, offsets: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the quantile bin of each value among its cell's.

    Parameters
    ----------
    values
        ``(n_tokens,)`` non-zero values, falling (or rising) within each cell.
    offsets
        ``(n_cells + 1,)`` where each cell's values begin.
    n_bins
        Bins 1 to ``n_bins - 1``; 0 is for zeros, of which there are none here.

    Returns
    -------
    numpy.ndarray
        ``(n_tokens,)`` uint16: 1 + floor((n_bins - 1) · q), where q in (0, 1) is the share of the cell's values below
        this one plus half the share of those equal to it. scGPT draws the bin of tied values at random from those that
        they span; counts being small, most are tied, and this is the middle of that span.
    """
    lengths = np.diff(offsets)
    n_tokens = len(values)
    if not n_tokens:
        return np.zeros(0, dtype=np.uint16)
    starts = np.zeros(n_tokens, dtype=bool)
    starts[offsets[:-1][lengths > 0]] = True
    starts[1:] |= values[1:] != values[:-1]
    first = np.flatnonzero(starts)  # of each run of equal values within a cell
    run = np.cumsum(starts) - 1
    size = np.diff(np.append(first, n_tokens))
    cell = np.repeat(np.arange(len(lengths)), lengths)[first]
    before = first - offsets[cell]
    falls = values[offsets[cell]] >= values[offsets[cell + 1] - 1]
    below = np.where(falls, lengths[cell] - before - size, before)
    # In whole numbers, so that no rounding decides between two bins.
    bins = 1 + (n_bins - 1) * (2 * below + size) // (2 * lengths[cell])
    return bins.astype(np.uint16)[run]


@dataclass(frozen=True)
class CellKeys(setup.Keys):
    """Where in an AnnData object Cell-JEPA finds what it reads; the arguments of ``setup_anndata``."""

    batch_key: str | None = None
    labels_key: str | None = None

    def fields(self) -> list[setup.NamedField]:
        """Return what is registered of an AnnData object, in the order in which it is checked."""
        batch, labels = setup.LabelField("batch", self.batch_key), LabelsField(self.labels_key)
        return [setup.PanelField(self.layer), batch, labels]

    def validate(self, adata: AnnData) -> None:
        """Raise where the counts of ``adata`` cannot be used; a query needs neither labels nor batches."""
        self.fields()[0].validate_field(adata)


@dataclass(frozen=True)
class CellTables:
    """The tables of one AnnData object.

    Attributes
    ----------
    tokens
        All expressed genes of every cell.
    labels
        ``(n_cells,)`` int64 codes, -1 for cells without a label.
    label_names
        Names in the order of their codes, sorted.
    sections
        ``(n_cells,)`` int64 codes of the batches.
    """

    tokens: TokenTable
    labels: np.ndarray
    label_names: tuple[str, ...]
    sections: np.ndarray


class LabelsField(setup.NamedField):
    """A column of ``obs`` with what a cell is; cells may be without."""

    def __init__(self, key: str | None):
        super().__init__("labels", "obs", key)

    def _state(self, adata: AnnData) -> dict:
        then = "Name the column that holds each cell's label, or leave it out."
        labels = labels_of(entry_of(adata, "obs", self.attr_key, then))
        return {"categories": sorted(set(labels[labels != None]))}  # noqa: E711 - of each element

    def register_field(self, adata: AnnData) -> dict:
        """Warn of words that may mean "no label", and return what is to be remembered."""
        state = super().register_field(adata)
        warn_of_words(labels_of(adata.obs[self.attr_key]), "label", self.attr_key)
        return state


def label_codes_of(adata: AnnData, key: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return each cell's label code, -1 where it has none, and the names of the codes."""
    if key is None:
        return np.full(adata.n_obs, -1, dtype=np.int64), ()
    labels = labels_of(adata.obs[key])
    has = labels != None  # noqa: E711 - of each element
    known = tuple(sorted(set(labels[has])))
    codes = np.full(adata.n_obs, -1, dtype=np.int64)
    codes[has] = codes_of(labels[has], known)
    return codes, known


GeneTable: TypeAlias = "str | Mapping[str, str] | pd.Series"
"""Leads from the data's gene names to the model's: a mapping, a Series, or a column of ``adata.var``."""


def converted_names(adata: AnnData, table: GeneTable | None) -> np.ndarray:
    """Return the gene names of ``adata`` as the model calls them.

    Parameters
    ----------
    table
        From the data's names to the model's: a mapping or a Series, or the name of a column of ``adata.var``; names
        that it has not stay as they are. ``None``: all stay.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If no name is in the table.
    """
    names = np.asarray(adata.var_names, dtype=object)
    if table is None:
        return names
    if isinstance(table, str):
        column = entry_of(adata, "var", table, "Name a column of gene names, or pass a mapping.")
        return np.where(column.notna().to_numpy(), column.astype(str).to_numpy(dtype=object), names)
    known = {str(old): str(new) for old, new in table.items() if isinstance(new, str) and new}
    if not any(name in known for name in names):
        raise ValueError(
            f"No gene of the data ({', '.join(map(repr, names[:3]))}, ...) is in gene_names "
            f"({', '.join(map(repr, list(known)[:3]))}, ...), which is to lead from the data's names to the model's."
        )
    return np.array([known.get(name, name) for name in names], dtype=object)


def _summed(counts: CountMatrix, names: np.ndarray) -> tuple[CountMatrix, np.ndarray]:
    """Return counts and names with the columns of one name added up."""
    distinct, place = np.unique(names.astype(str), return_inverse=True)
    if len(distinct) == len(names):
        return counts, names
    sums = sparse.csr_array((np.ones(len(names), np.int64), (np.arange(len(names)), place)))
    return sparse.vstack([rows @ sums for _, rows in iter_rows(counts)]).tocsr(), distinct.astype(object)


def tables_of(
    adata: AnnData,
    keys: CellKeys,
    vocabulary: Vocabulary,
    n_bins: int,
    table: GeneTable | None = None,
    kept: np.ndarray | None = None,
) -> CellTables:
    """Tokenize the cells of ``adata``, its genes aligned by name.

    Where ``table`` leads from several genes of the data to one of the model, their counts are added up. Of the tokens
    those of the genes ``kept``, vocabulary ids, remain; default: all.
    """
    names = converted_names(adata, table)
    counts = counts_of(adata, keys.layer)
    if table is not None:
        counts, names = _summed(counts, names)
    ids = vocabulary.ids(list(names))

    def build() -> TokenTable:
        told: Told = {**told_of(adata, keys.layer), "gene_names": list(names)}
        return build_expression_table(counts, ids, len(vocabulary), n_bins, **told)

    def marks() -> dict[str, str]:
        return {
            "vocabulary": digest(vocabulary.names),
            "options": f"quantile bins={n_bins}",
            "genes": digest(ids),
            "counts": counts_digest(counts),
        }

    tokens = through_cache(TokenTable, marks, build)
    labels, label_names = label_codes_of(adata, keys.labels_key)
    sections = codes_of(names_of(adata, keys.batch_key))
    return CellTables(tokens if kept is None else only(tokens, kept), labels, label_names, sections)


def only(table: TokenTable, genes: np.ndarray) -> TokenTable:
    """Return a table with the tokens of some genes alone, their values what they were."""
    wanted = np.zeros(table.n_vocabulary, dtype=bool)
    wanted[genes] = True
    kept = wanted[table.genes]
    offsets = offsets_of(kept)[table.offsets]
    ranks = None if table.ranks is None else table.ranks[kept]
    return replace(table, offsets=offsets, genes=table.genes[kept], values=table.values[kept], ranks=ranks)
