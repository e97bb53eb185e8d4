from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scjepa.perturbation import log_normalized


@pytest.fixture
def adata():
    counts = np.random.default_rng(0).poisson(1.0, (30, 8))
    sizes = np.random.default_rng(1).uniform(50, 90, 30)
    return ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame({"size": sizes}, index=[f"c{i}" for i in range(30)]))


@pytest.mark.parametrize("target_sum", [None, 1e4])
def test_it_is_what_scanpy_does_and_changes_nothing(adata, target_sum):
    before = adata.X.copy()
    found = log_normalized(adata, target_sum=target_sum).toarray()
    other = adata.copy()
    other.X = other.X.astype(np.float32)
    sc.pp.normalize_total(other, target_sum=target_sum)
    sc.pp.log1p(other)
    np.testing.assert_allclose(found, other.X.toarray(), rtol=1e-5)
    assert (adata.X != before).nnz == 0


def test_sizes_of_one_s_own_and_layers(adata):
    adata.layers["counts"], adata.X = adata.X, sparse.csr_matrix(adata.shape)
    found = log_normalized(adata, layer="counts", size_key="size", target_sum=100).toarray()
    expected = np.log1p(adata.layers["counts"].toarray() / adata.obs["size"].to_numpy()[:, None] * 100)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sizes_that_are_none_are_named(adata):
    with pytest.raises(KeyError, match="total"):
        log_normalized(adata, size_key="total")
    adata.obs.loc["c3", "size"] = 0.0
    with pytest.raises(ValueError, match=r"'c3' has the size .*0.0.* in 'size'"):
        log_normalized(adata, size_key="size")
    adata.X = sparse.csr_matrix(adata.shape)
    with pytest.raises(ValueError, match="No cell has counts"):
        log_normalized(adata)


@pytest.mark.parametrize("target_sum", [0, -5.0, np.nan])
def test_a_size_to_normalize_to_is_positive(adata, target_sum):
    with pytest.raises(ValueError, match="target_sum must be a positive number"):
        log_normalized(adata, target_sum=target_sum)


def test_what_cannot_be_normalized_is_named(adata):
    adata.obs["word"] = "a"
    with pytest.raises(ValueError, match="Cell 'c0' has the size nan in 'word'"):
        log_normalized(adata, size_key="word")
    with pytest.raises(KeyError, match=r"layers\['raw'\] does not exist"):
        log_normalized(adata, layer="raw")
    adata.X = adata.X.astype(np.float64)
    adata.X.data = np.log1p(adata.X.data)
    with pytest.warns(UserWarning, match="look log-transformed"):
        log_normalized(adata)
    adata.X.data[0] = -1
    with pytest.raises(ValueError, match="Cell 'c0' has the value -1"):
        log_normalized(adata)
