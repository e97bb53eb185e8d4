"""Expression as tokens: every expressed gene of a cell, its value a quantile bin of the cell's own non-zero counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scjepa._core.counts import CHUNK_SIZE, Advice, CountMatrix
from scjepa.tokens.config import TokenRule
from scjepa.tokens.table import TokenTable, build_token_table


def build_expression_table(
    counts: CountMatrix,
    gene_ids: np.ndarray,
    n_vocabulary: int,
    n_bins: int = 51,
    *,
    chunk_size: int = CHUNK_SIZE,
    cell_names: Sequence[str] | None = None,
    gene_names: Sequence[str] | None = None,
    advice: Advice | None = None,
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
    return binned(
        build_count_table(
            counts,
            gene_ids,
            n_vocabulary,
            chunk_size=chunk_size,
            cell_names=cell_names,
            gene_names=gene_names,
            advice=advice,
        ),
        n_bins,
    )


def build_count_table(counts: CountMatrix, gene_ids: np.ndarray, n_vocabulary: int, **options: Any) -> TokenTable:
    """Tokenize every cell as :func:`build_expression_table` does, with counts as values."""
    return build_token_table(counts, gene_ids, n_vocabulary, TokenRule(n_tokens=n_vocabulary), **options)


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
