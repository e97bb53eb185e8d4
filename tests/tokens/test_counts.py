"""Reading counts from any container, aligned and checked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scjepa._core.counts import CountReader, check_codes, iter_rows

COUNTS = np.array([[4, 0, 2, 0], [0, 0, 0, 0], [1, 3, 0, 0], [0, 6, 6, 0], [2, 0, 0, 0]])


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        sparse.csr_matrix,
        sparse.csr_array,
        sparse.csc_matrix,
        sparse.coo_array,
        sparse.lil_array,
    ],
)
def test_rows_are_canonical_whatever_the_form(form, size):
    read = list(iter_rows(form(COUNTS), size))
    assert [start for start, _ in read] == list(range(0, 5, size))
    assert all(rows.has_canonical_format and np.all(rows.data != 0) for _, rows in read)
    np.testing.assert_array_equal(np.vstack([rows.toarray() for _, rows in read]), COUNTS)


def test_rows_with_many_genes_come_in_smaller_chunks(monkeypatch):
    monkeypatch.setattr("scjepa._core.counts._LARGEST_CHUNK", 8)
    assert [rows.shape for _, rows in iter_rows(COUNTS)] == [(2, 4), (2, 4), (1, 4)]


def test_half_precision_and_wrong_types():
    ((_, rows),) = iter_rows(COUNTS.astype(np.float16))
    np.testing.assert_array_equal(rows.toarray(), COUNTS)
    with pytest.raises(TypeError, match="real numbers, found dtype complex128"):
        next(iter_rows(COUNTS.astype(complex)))
    with pytest.raises(TypeError, match="found dtype object"):
        next(iter_rows(COUNTS.astype(object)))
    with pytest.raises(ValueError, match="must be a matrix"):
        next(iter_rows(COUNTS.tolist()))
    with pytest.raises(ValueError, match="must be a matrix"):
        next(iter_rows(COUNTS[0]))


IDS = np.array([5, -1, 0, 2])


@pytest.mark.parametrize("size", [1, 2, 100])
def test_reader_puts_columns_at_their_ids_as_often_as_asked(size):
    reader = CountReader(COUNTS, IDS, 6, np.array([0, 1, 0, 1, 1]), 2, chunk_size=size)
    expected = np.zeros((5, 6), dtype=int)
    expected[:, [5, 0, 2]] = COUNTS[:, [0, 2, 3]]
    for _ in range(2):
        read = list(reader)
        np.testing.assert_array_equal(np.vstack([chunk.toarray() for chunk, _ in read]), expected)
        assert np.concatenate([codes for _, codes in read]).tolist() == [0, 1, 0, 1, 1]
        assert all(np.all(chunk.data != 0) for chunk, _ in read)
    assert (reader.n_cells, reader.n_vocabulary, reader.n_groups) == (5, 6, 2)


def test_reader_puts_all_cells_in_one_group_unless_told():
    assert [codes.tolist() for _, codes in CountReader(COUNTS, IDS, 6, chunk_size=3)] == [[0, 0, 0], [0, 0]]


def test_codes_outside_the_known_are_named():
    assert check_codes([0, 1], 2, 2, "technology").dtype == np.int64
    with pytest.raises(
        ValueError, match=r"Cell 1 has the technology code -1, outside 0\.\.1; -1 is a missing category"
    ):
        check_codes([0, -1], 2, 2, "technology")
    assert check_codes([0, -1], 2, 2, "technology", unknown=True).tolist() == [0, -1]
    for code in (-2, 2):
        with pytest.raises(ValueError, match=rf"Cell 0 has the technology code {code}, outside -1\.\.1\.$"):
            check_codes([code, -1], 2, 2, "technology", unknown=True)
