"""Pearson residuals and Seurat v3's standardized counts against scanpy's, at the entries that are not 0."""

from __future__ import annotations

import tracemalloc

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scjepa.tokens import NORMALIZATIONS, TokenConfig, fit_normalizations
from scjepa.tokens.normalize import trend


def counts_of(n_cells=150, n_genes=400, seed=0):
    """Return overdispersed counts of genes whose means span two decades."""
    rng = np.random.default_rng(seed)
    rate = 10 ** rng.uniform(-1, 1, n_genes) * rng.gamma(3, 1 / 3, (n_cells, 1))
    counts = rng.poisson(rate * rng.gamma(4, 0.25, rate.shape))
    counts[0, counts.sum(axis=0) == 0] = 1
    counts[counts.sum(axis=1) == 0, 0] = 1
    return counts


def dense(name, counts, groups=None, fitted_on=None, n_groups=2):
    groups = np.zeros(len(counts), dtype=np.int64) if groups is None else groups
    matrix = sparse.csr_array(counts)
    normalization = NORMALIZATIONS[name]()
    normalization.start(counts.shape[1], n_groups)
    on, of = (matrix, groups) if fitted_on is None else fitted_on
    normalization.observe(on, of)
    normalization.finish()
    values = normalization.transform(matrix, groups)
    assert values.dtype == np.float32
    return sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape).toarray()


def scanpys_residuals(counts):
    adata = ad.AnnData(counts.astype(np.float64))
    sc.experimental.pp.normalize_pearson_residuals(adata)
    return adata.X


def test_pearson_residuals_are_scanpys():
    counts = counts_of()
    np.testing.assert_allclose(
        dense("pearson_residuals", counts), np.where(counts > 0, scanpys_residuals(counts), 0), rtol=1e-5, atol=1e-6
    )


def test_pearson_residuals_are_cut_as_scanpys_are():
    counts = np.ones((4, 40), dtype=np.int64)
    counts[0, 0] = 20
    ours = dense("pearson_residuals", counts)
    assert ours[0, 0] == 2
    np.testing.assert_allclose(ours, scanpys_residuals(counts), rtol=1e-5, atol=1e-6)


def test_each_technology_has_residuals_of_its_own_and_a_new_one_those_of_all():
    counts, groups = counts_of(), np.arange(150) % 3 % 2
    ours = dense("pearson_residuals", counts, groups)
    for group in (0, 1):
        own = counts[groups == group]
        had = own.any(axis=0)  # a gene without counts here has no entry here either
        expected = np.where(own[:, had] > 0, scanpys_residuals(own[:, had]), 0)
        np.testing.assert_allclose(ours[groups == group][:, had], expected, rtol=1e-5, atol=1e-6)
    new = dense("pearson_residuals", counts, np.full(150, -1), fitted_on=(sparse.csr_array(counts), groups))
    np.testing.assert_array_equal(new, dense("pearson_residuals", counts))


def scanpys_variances(counts):
    pytest.importorskip("skmisc.loess")
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float64)))
    return sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=10, inplace=False)


def test_seurat_v3_values_have_scanpys_normalized_variances():
    counts = counts_of(n_genes=900)
    theirs = scanpys_variances(counts)
    standardized = NORMALIZATIONS["seurat_v3"]()
    standardized.start(900, 1)
    standardized.observe(sparse.csr_array(counts), np.zeros(150, dtype=np.int64))
    standardized.finish()
    means, spread, limits = standardized.statistics[0].T
    np.testing.assert_allclose(means, theirs["means"])
    np.testing.assert_array_equal(limits, np.sqrt(150))
    ours = dense("seurat_v3", counts, n_groups=1)
    at_zero = -means / spread  # zeros are entries of no token, but of the variance
    every = np.where(counts > 0, ours, at_zero)
    variances = (every**2).sum(axis=0) / 149
    # scanpy's loess interpolates between vertices of its own.
    np.testing.assert_allclose(variances, theirs["variances_norm"], rtol=0.03)
    assert np.corrcoef(variances, theirs["variances_norm"])[0, 1] > 0.999
    np.testing.assert_allclose(np.log10(spread**2), np.log10(theirs["variances"] / variances), atol=0.5)


def test_seurat_v3_cuts_at_the_root_of_the_number_of_cells():
    counts = counts_of(n_cells=25, n_genes=60)
    counts[0, 0] = 10**6
    assert dense("seurat_v3", counts).max() == 5.0


def test_genes_that_do_not_vary_take_the_statistics_of_all_or_keep_their_counts():
    counts = np.array([[2, 3, 1, 0], [2, 1, 4, 0], [2, 0, 2, 5], [2, 2, 1, 1]])
    groups = np.array([0, 0, 1, 1])
    normalization = NORMALIZATIONS["seurat_v3"]()
    normalization.start(4, 2)
    normalization.observe(sparse.csr_array(counts), groups)
    normalization.finish()
    assert np.isfinite(normalization.statistics).all()
    np.testing.assert_array_equal(normalization.statistics[0, 3], [1.5, *normalization.statistics[2, 3, 1:2], 2**0.5])
    np.testing.assert_array_equal(normalization.statistics[:, 0, :2], [[0, 1]] * 3)


@pytest.mark.parametrize("name", ["pearson_residuals", "seurat_v3"])
def test_nothing_dense_is_made(name):
    """A matrix of 10^8 places, of which 3,000 hold counts."""
    rng = np.random.default_rng(0)
    entries = rng.integers(0, 2000, 3000), rng.integers(0, 50_000, 3000)
    matrix = sparse.csr_array((rng.poisson(2.0, 3000) + 1, entries), shape=(2000, 50_000))
    normalization, groups = NORMALIZATIONS[name](), np.zeros(2000, dtype=np.int64)
    tracemalloc.start()
    normalization.start(50_000, 1)
    normalization.observe(matrix, groups)
    normalization.finish()
    assert len(normalization.transform(matrix, groups)) == matrix.nnz
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25


@pytest.mark.parametrize("name", ["pearson_residuals", "seurat_v3"])
def test_extending_keeps_what_was_learned_of_each_gene(name):
    config = TokenConfig(values=name)
    counts = counts_of(40, 6)
    first = fit_normalizations(counts[:, :4], np.arange(4), 4, config)
    further = fit_normalizations(counts[::-1], np.arange(6), 6, config, groups=np.arange(40) % 2, n_groups=2)
    both = first.extended(further, np.array([[False] * 6, [True] * 6])).by_name[name].statistics
    own, new = (each.by_name[name].statistics for each in (first, further))
    np.testing.assert_array_equal(both[0, :4], own[0])
    np.testing.assert_array_equal(both[1], new[1])
    np.testing.assert_array_equal(both[-1, :4], own[-1])
    np.testing.assert_array_equal(both[0, 4:], new[0, 4:])


@pytest.mark.parametrize("n", [12, 80, 900])
def test_the_trend_follows_a_parabola(n):
    x = np.sort(np.random.default_rng(0).uniform(-1, 1, n))
    np.testing.assert_allclose(trend(x, 2 - x + 3 * x**2), 2 - x + 3 * x**2, atol=1e-3)


@pytest.mark.parametrize("n", [60, 500, 2000])
def test_the_trend_is_that_of_scikit_misc(n):
    loess = pytest.importorskip("skmisc.loess").loess
    rng = np.random.default_rng(1)
    x = rng.normal(size=n)
    y = np.sin(x) + x + rng.normal(0, 0.3, n)
    theirs = loess(x, y, span=0.3, degree=2)
    theirs.fit()
    inner = np.abs(x) < 2
    np.testing.assert_allclose(trend(x, y)[inner], theirs.outputs.fitted_values[inner], atol=0.05)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 30), data=st.data(), few=st.sampled_from([st.floats(-3, 3), st.sampled_from([0.0, 0.3, 1.0])]))
def test_the_trend_takes_any_points(n, data, few):
    x = data.draw(hnp.arrays(np.float64, n, elements=few))
    y = data.draw(hnp.arrays(np.float64, n, elements=st.floats(-3, 3)))
    smooth = trend(x, y)
    assert np.isfinite(smooth).all()
    if len(np.unique(x)) == 1:
        np.testing.assert_allclose(smooth, y.mean(), atol=1e-6)
