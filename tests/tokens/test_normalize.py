"""What normalizations learn and give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scjepa.tokens import NORMALIZATIONS, get_normalization

COUNTS = np.array([[4, 0, 2, 0], [0, 0, 0, 0], [1, 3, 0, 0], [0, 6, 6, 0], [2, 0, 0, 0]])
GROUPS = np.array([0, 0, 0, 1, 1])


def chunks(counts=COUNTS, size=2):
    for start in range(0, len(counts), size):
        yield sparse.csr_array(counts[start : start + size]), GROUPS[start : start + size]


def learn(normalization, seen):
    normalization.start(4, 2)
    for counts, groups in seen:
        normalization.observe(counts, groups)
    normalization.finish()


def fitted(name, size=2, counts=COUNTS):
    normalization = get_normalization(name)
    learn(normalization, chunks(counts, size))
    return normalization


def dense(name, size=2):
    matrix = sparse.csr_array(COUNTS)
    values = fitted(name, size).transform(matrix, GROUPS)
    assert values.dtype == np.float32
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape).toarray()


def test_counts_are_themselves():
    np.testing.assert_array_equal(dense("counts"), COUNTS)
    assert not get_normalization("counts").needs_fit


def test_shifted_log_scales_to_the_groups_median_total():
    totals = COUNTS.sum(axis=1, keepdims=True)
    target = np.array([5, 5, 5, 7, 7])[:, None]  # medians of 6, 4 (the empty cell has no say) and of 12, 2
    np.testing.assert_allclose(dense("shifted_log"), np.log1p(COUNTS * target / np.maximum(totals, 1)), rtol=1e-6)


def test_nonzero_mean_divides_by_the_mean_of_expressing_cells():
    means = np.array([[2.5, 3, 2, 1]] * 3 + [[2, 6, 6, 1]] * 2)
    np.testing.assert_allclose(dense("nonzero_mean"), COUNTS / means, rtol=1e-6)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_fit_does_not_depend_on_chunks(name):
    np.testing.assert_array_equal(dense(name, 1), dense(name, 5))


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_what_no_cell_had_in_the_fit_is_still_finite(name):
    normalization = fitted(name, counts=np.zeros_like(COUNTS))
    values = normalization.transform(sparse.csr_array(COUNTS), GROUPS)
    assert np.isfinite(values).all()
    assert (values > 0).all()


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_chunks_are_left_alone(name):
    matrix = sparse.csr_array(COUNTS)
    normalization = get_normalization(name)
    learn(normalization, [(matrix, GROUPS)])
    normalization.transform(matrix, GROUPS)
    np.testing.assert_array_equal(matrix.toarray(), COUNTS)


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"'shifted_logs'.*Did you mean 'shifted_log'.*counts, nonzero_mean"):
        get_normalization("shifted_logs")
