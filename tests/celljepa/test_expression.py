from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scjepa.celljepa import build_expression_table
from scjepa.celljepa.data import quantile_bins


def _counts(n=12, n_genes=40, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 2, (n, n_genes)))
    counts[3] = 0
    return counts.astype(np.int32)


def _written_out(values, n_bins):
    """Bins of one cell's values, by the definition."""
    values = np.asarray(values)
    twice = [2 * int((values < v).sum()) + int((values == v).sum()) for v in values]
    return [1 + (n_bins - 1) * t // (2 * len(values)) for t in twice]


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.lists(st.integers(1, 9), max_size=30), min_size=1, max_size=6),
    n_bins=st.sampled_from([2, 5, 51]),
    falling=st.booleans(),
)
def test_bins_are_those_of_the_definition(cells, n_bins, falling):
    cells = [sorted(cell, reverse=falling) for cell in cells]
    offsets = np.cumsum([0, *map(len, cells)])
    bins = quantile_bins(np.array([v for cell in cells for v in cell], dtype=np.uint16), offsets, n_bins)
    assert bins.tolist() == [b for cell in cells for b in _written_out(cell, n_bins)]
    assert bins.dtype == np.uint16
    assert not len(bins) or (bins.min() >= 1 and bins.max() <= n_bins - 1)


def test_distinct_values_fill_all_bins_evenly():
    values = np.arange(500, 0, -1, dtype=np.float32)
    bins = quantile_bins(values, np.array([0, 500]), 51)
    assert (np.bincount(bins, minlength=51)[1:] == 10).all()
    assert bins[0] == 50
    assert bins[-1] == 1


def test_all_expressed_genes_become_tokens_from_high_to_low():
    counts = _counts()
    table = build_expression_table(sparse.csr_matrix(counts), np.arange(40), 40)
    for cell, (start, end) in enumerate(zip(table.offsets[:-1], table.offsets[1:], strict=True)):
        genes = table.genes[start:end]
        assert sorted(genes) == np.flatnonzero(counts[cell]).tolist()
        assert genes.tolist() == sorted(genes, key=lambda g: (-counts[cell, g], g))
        assert table.values[start:end].tolist() == _written_out(counts[cell, genes], 51)
    assert table.lengths[3] == 0


@pytest.mark.parametrize("change", ["columns", "chunks", "dense", "log", "depth"])
def test_what_does_not_matter(change):
    counts = _counts()
    ids, chunk_size, matrix = np.arange(40), 65536, sparse.csr_matrix(counts)
    expected = build_expression_table(matrix, ids, 40)
    if change == "columns":
        ids = np.random.default_rng(1).permutation(40)
        matrix = matrix[:, ids]
    elif change == "chunks":
        chunk_size = 5
    elif change == "dense":
        matrix = counts
    elif change == "log":
        matrix = matrix.astype(np.float32).log1p()
    else:
        matrix = sparse.csr_matrix(counts * np.arange(1, 13)[:, None])
    with pytest.warns(UserWarning, match="log-transformed") if change == "log" else nullcontext():
        table = build_expression_table(matrix, ids, 40, chunk_size=chunk_size)
    for name in ("offsets", "genes", "values"):
        assert np.array_equal(getattr(table, name), getattr(expected, name))


def test_genes_outside_the_vocabulary_are_no_part_of_the_quantiles():
    counts = _counts()
    ids = np.where(np.arange(40) < 20, np.arange(40), -1)
    table = build_expression_table(counts, ids, 20)
    alone = build_expression_table(counts[:, :20], np.arange(20), 20)
    assert np.array_equal(table.values, alone.values)


@pytest.mark.parametrize(("value", "words"), [(-1.0, "not negative"), (np.nan, "finite")])
def test_what_cannot_be_a_count_is_refused_by_name(value, words):
    counts = _counts().astype(np.float32)
    counts[2, 5] = value
    with pytest.raises(ValueError, match=words) as error:
        build_expression_table(counts, np.arange(40), 40, cell_names=[f"c{i}" for i in range(12)])
    assert "'c2'" in str(error.value)
