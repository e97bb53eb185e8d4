"""What normalizations learn and give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scjepa.tokens import NORMALIZATIONS, FittedNormalizations, TokenConfig, fit_normalizations

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
    normalization = NORMALIZATIONS[name]()
    learn(normalization, chunks(counts, size))
    return normalization


def dense(name, size=2):
    matrix = sparse.csr_array(COUNTS)
    values = fitted(name, size).transform(matrix, GROUPS)
    assert values.dtype == np.float32
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape).toarray()


def test_counts_are_themselves():
    np.testing.assert_array_equal(dense("counts"), COUNTS)
    assert not NORMALIZATIONS["counts"]().needs_fit


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
    assert (values > 0).all() or name == "pearson_residuals"


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_chunks_are_left_alone(name):
    matrix = sparse.csr_array(COUNTS)
    normalization = NORMALIZATIONS[name]()
    learn(normalization, [(matrix, GROUPS)])
    normalization.transform(matrix, GROUPS)
    np.testing.assert_array_equal(matrix.toarray(), COUNTS)


def test_unknown_name_lists_the_known():
    known = ", ".join(sorted(NORMALIZATIONS))
    with pytest.raises(ValueError, match=rf"'shifted_logs'.*Did you mean 'shifted_log'.*{known}"):
        NORMALIZATIONS["shifted_logs"]()


def unseen(name, counts=COUNTS):
    """Return what a technology gets that was not there to learn from, of the counts of all cells."""
    matrix = sparse.csr_array(COUNTS)
    values = fitted(name, counts=counts).transform(matrix, np.full(5, -1))
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape).toarray()


def test_an_unseen_technology_takes_the_statistics_of_all():
    np.testing.assert_array_equal(unseen("counts"), COUNTS)
    np.testing.assert_allclose(unseen("nonzero_mean"), COUNTS / np.array([7 / 3, 4.5, 4, 1]), rtol=1e-6)
    totals = COUNTS.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(unseen("shifted_log"), np.log1p(COUNTS * 5 / np.maximum(totals, 1)), rtol=1e-6)


def test_a_technology_without_counts_does_so_too_and_a_gene_without_in_its_own():
    groups = np.where(COUNTS.any(axis=1), 0, 1)  # the second has the empty cell alone
    means, targets = NORMALIZATIONS["nonzero_mean"](), NORMALIZATIONS["shifted_log"]()
    for normalization in (means, targets):
        learn(normalization, [(sparse.csr_array(COUNTS), groups)])
    np.testing.assert_allclose(means.statistics, [[7 / 3, 4.5, 4, 1]] * 3)
    np.testing.assert_array_equal(targets.statistics, [5, 5, 5])
    learn(means, [(sparse.csr_array(COUNTS), np.array([0, 0, 0, 1, 0]))])
    np.testing.assert_allclose(means.statistics, [[7 / 3, 3, 2, 1], [7 / 3, 6, 6, 1], [7 / 3, 4.5, 4, 1]])


IDS = np.array([2, 0, 3, -1])
BOTH = TokenConfig(ranks="nonzero_mean", values="shifted_log")


def fit(config=BOTH, counts=COUNTS, **options):
    return fit_normalizations(counts, IDS, 5, config, groups=GROUPS, n_groups=2, **options)


class Watched:
    """Counts that know how often they were read."""

    def __init__(self):
        self.shape, self.reads = COUNTS.shape, 0

    def __getitem__(self, rows):
        self.reads += len(range(*rows.indices(len(COUNTS))))
        return COUNTS[rows]


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        (TokenConfig(), 0),
        (TokenConfig(ranks="nonzero_mean"), 1),
        (TokenConfig(ranks="shifted_log", values="shifted_log"), 1),
        (BOTH, 1),
    ],
)
def test_counts_are_read_once_for_all_that_learn(config, passes):
    watched = Watched()
    learned = fit(config, watched, chunk_size=2)
    assert watched.reads == 5 * passes
    assert set(learned.to_arrays()) == {config.ranks, config.values} - {"counts"}


def test_statistics_are_by_vocabulary_id_and_technology():
    arrays = fit().to_arrays()
    np.testing.assert_allclose(arrays["nonzero_mean"], [[3, 1, 2.5, 2, 1], [6, 1, 2, 6, 1], [4.5, 1, 7 / 3, 4, 1]])
    np.testing.assert_array_equal(arrays["shifted_log"], [5, 7, 5])
    assert all(array.dtype == np.float64 for array in arrays.values())
    columns = [3, 1, 0, 2]
    shuffled = fit_normalizations(COUNTS[:, columns], IDS[columns], 5, BOTH, groups=GROUPS, n_groups=2, chunk_size=1)
    for name, array in shuffled.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("config", [BOTH, TokenConfig(), TokenConfig(values="nonzero_mean")])
def test_what_was_learned_travels_bit_for_bit(config):
    learned = fit(config)
    again = FittedNormalizations.from_arrays(config, learned.to_arrays(), 5, 2)
    chunk = sparse.csr_array(np.random.default_rng(0).poisson(1.0, (6, 5)))
    groups = np.array([0, 1, -1, -1, 1, 0])
    one, other = learned.transform(chunk, groups), again.transform(chunk, groups)
    assert one.keys() == other.keys() == {config.values, config.ranks}
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_statistics_that_do_not_fit_are_refused():
    arrays = fit().to_arrays()
    with pytest.raises(ValueError, match="no statistics of the normalization 'nonzero_mean'"):
        FittedNormalizations.from_arrays(BOTH, {"shifted_log": arrays["shifted_log"]}, 5, 2)
    for n_genes, n_groups in ((4, 2), (5, 3)):
        with pytest.raises(ValueError, match=rf"does not fit {n_groups} technologies.* and {n_genes} genes"):
            FittedNormalizations.from_arrays(BOTH, arrays, n_genes, n_groups)


def test_fitting_on_nothing_or_on_what_cannot_be_counts_is_an_error():
    with pytest.raises(ValueError, match="no cells"):
        fit_normalizations(COUNTS[:0], IDS, 5, BOTH)
    negative = COUNTS.astype(float)
    negative[2, 1] = -3
    with pytest.raises(ValueError, match=r"Cell 'c2' has the value -3 in gene 'g1'"):
        fit(counts=negative, cell_names=[f"c{i}" for i in range(5)], gene_names=[f"g{i}" for i in range(4)])
    with pytest.raises(ValueError, match="Unknown normalization"):
        fit(TokenConfig(values="count"))
