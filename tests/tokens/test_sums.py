"""Summed counts of neighborhoods against a plain reference, and their batches."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scjepa._core.counts import iter_rows
from scjepa.stjepa import TokenSource
from scjepa.tokens import NeighborTable, SummedCounts, TokenConfig, build_token_table

CONFIG = TokenConfig(n_tokens=3, tokenizer="neighborhood")


def backed(folder):
    def form(counts):
        ad.AnnData(sparse.csr_matrix(counts)).write_h5ad(folder / "x.h5ad")
        return ad.read_h5ad(folder / "x.h5ad", backed="r").X

    return form


def plain(counts, index):
    """One neighborhood after the other."""
    return np.array([counts[[i, *near[near >= 0]]].sum(axis=0) for i, near in enumerate(index)])


@st.composite
def tissues(draw):
    n, k, genes = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    counts = draw(hnp.arrays(np.int64, (n, genes), elements=st.integers(0, 3)))
    counts[0, 0] += 1
    index = draw(hnp.arrays(np.int32, (n, k), elements=st.integers(0, n - 1)))
    index[np.arange(k) >= draw(hnp.arrays(np.int64, n, elements=st.integers(0, k)))[:, None]] = -1
    return counts, index


@settings(max_examples=60, deadline=None)
@given(case=tissues(), form=st.sampled_from([np.asarray, sparse.csr_matrix, sparse.csc_matrix, da.from_array]))
def test_rows_are_the_sums_whatever_the_form_and_the_chunks(case, form):
    counts, index = case
    expected = plain(counts, index)
    for size in (2, 100):
        read = [rows.toarray() for _, rows in iter_rows(SummedCounts(form(counts), NeighborTable(index)), size)]
        np.testing.assert_array_equal(np.vstack(read), expected)


def test_rows_are_read_from_a_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr("scjepa.tokens.neighbors.CELL_BLOCK", 7)
    rng = np.random.default_rng(0)
    counts, index = rng.poisson(1.0, (30, 6)), rng.integers(-1, 30, (30, 4)).astype(np.int32)
    sums = SummedCounts(backed(tmp_path)(counts), NeighborTable(index))
    np.testing.assert_array_equal(np.vstack([rows.toarray() for _, rows in iter_rows(sums, 10)]), plain(counts, index))


def test_small_types_have_room_for_sums():
    counts = np.full((3, 1), 200, dtype=np.uint8)
    index = np.array([[1, 2], [2, -1], [-1, -1]], dtype=np.int32)
    table = build_token_table(SummedCounts(sparse.csr_matrix(counts), NeighborTable(index)), np.arange(1), 1, CONFIG)
    assert table.values.tolist() == [600, 400, 200]


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_a_bad_count_is_named_though_its_sum_looks_well(form):
    counts = np.array([[5.0, 1.0], [0.0, -1.0]])
    sums = SummedCounts(form(counts), NeighborTable(np.array([[1], [0]], dtype=np.int32)), ["a", "b"], ["g", "h"])
    with pytest.raises(ValueError, match="Cell 'b' has the value -1 in gene 'h'"):
        build_token_table(sums, np.arange(2), 2, CONFIG)


def test_tables_of_other_cells_are_refused():
    with pytest.raises(ValueError, match="counts of 2 cells, but neighbors of 3"):
        SummedCounts(np.ones((2, 2)), NeighborTable(np.zeros((3, 1), dtype=np.int32)))


def test_a_neighborhood_is_one_segment_and_walks_still_follow_neighbors():
    counts = np.array([[9, 0, 1], [0, 4, 1], [0, 0, 0]])
    neighbors = NeighborTable(np.array([[1], [2], [-1]], dtype=np.int32))
    table = build_token_table(SummedCounts(counts, neighbors), np.arange(3), 3, CONFIG)
    source = TokenSource(table, neighbors, np.zeros(3, dtype=int), summed=True)
    batch = source.batch(torch.tensor([0, 1, 2]), torch.tensor([True, False, True]))
    assert batch.genes.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert batch.values.tolist() == [9, 4, 2, 0, 4, 1, 0]
    assert batch.segments.tolist() == [0, 0, 0, 1, 0, 0, 1]
    assert batch.sequences.tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert batch.n_segments == 1
    assert source.sequence_lengths().tolist() == [3, 2, 0]
    assert source.neighborhood_lengths(torch.tensor([1])).tolist() == [2]
    assert source.walk(torch.tensor([0]), 1, torch.Generator().manual_seed(0)).tolist() == [1]
