"""Reading counts from any container, aligned and checked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scjepa.tokens.counts import CountReader, check_codes, iter_rows

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
    monkeypatch.setattr("scjepa.tokens.counts._LARGEST_CHUNK", 8)
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
