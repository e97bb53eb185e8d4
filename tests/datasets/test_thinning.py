from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scjepa.datasets import thin_counts


def _cells(counts, wrap=sparse.csr_matrix):
    counts = np.asarray(counts)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(counts))])
    return ad.AnnData(wrap(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(counts.shape[1])]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), fraction=st.floats(0.01, 1.0))
def test_counts_never_rise_and_stay_whole(seed, fraction):
    counts = np.random.default_rng(seed).poisson(3, (6, 9)).astype(np.int32)
    thinned = thin_counts(_cells(counts), fraction, seed=seed).X
    assert thinned.dtype == np.int32
    assert (thinned.toarray() <= counts).all()
    assert thinned.nnz == np.count_nonzero(thinned.toarray())


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_each_count_is_binomial(fraction):
    drawn = thin_counts(_cells(np.full((200, 200), 20)), fraction).X.toarray()
    n = drawn.size
    assert drawn.mean() == pytest.approx(20 * fraction, abs=5 * np.sqrt(20 * fraction * (1 - fraction) / n))
    assert drawn.var() == pytest.approx(20 * fraction * (1 - fraction), rel=0.05)
    assert np.abs(np.corrcoef(drawn[:100].ravel(), drawn[100:].ravel())[0, 1]) < 0.03


def test_the_data_stay_as_they_were_and_a_seed_repeats():
    adata = _cells(np.random.default_rng(0).poisson(3, (20, 30)))
    adata.obs["kind"] = "a"
    before = adata.X.copy()
    first, again, other = (thin_counts(adata, 0.5, seed=seed) for seed in (0, 0, 1))
    assert (adata.X != before).nnz == 0
    assert (first.X != again.X).nnz == 0
    assert (first.X != other.X).nnz > 0
    assert list(first.obs["kind"]) == list(adata.obs["kind"])
    first.obs["kind"] = "b"
    assert set(adata.obs["kind"]) == {"a"}
    assert (thin_counts(adata, 1.0).X != before).nnz == 0


def test_dense_counts_and_layers_are_read():
    adata = _cells(np.full((3, 4), 10), np.asarray)
    adata.layers["counts"] = np.full((3, 4), 1000)
    assert thin_counts(adata, 0.5).X.max() <= 10
    assert thin_counts(adata, 0.5, layer="counts").X.min() > 300


def test_what_cannot_be_thinned_is_told():
    adata = _cells(np.array([[1.0, 2.0], [0.0, 1.5]]))
    with pytest.raises(ValueError, match=r"'cell1' has the value 1\.5.*No raw counts are in adata.X"):
        thin_counts(adata, 0.5)
    with pytest.raises(ValueError, match="fraction must lie in"):
        thin_counts(adata, 0.0)
    with pytest.raises(KeyError, match=r"layers\['raw'\] does not exist; adata.layers holds nothing"):
        thin_counts(adata, 0.5, layer="raw")


def test_places_and_graphs_stay_and_embeddings_do_not() -> None:
    adata = _cells(np.full((4, 3), 9))
    adata.obsm["spatial"], adata.obsm["X_pca"] = np.arange(8.0).reshape(4, 2), np.zeros((4, 2))
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix(np.eye(4))
    thinned = thin_counts(adata, 0.5)
    np.testing.assert_array_equal(thinned.obsm["spatial"], adata.obsm["spatial"])
    assert "X_pca" not in thinned.obsm
    assert thinned.obsp["spatial_connectivities"].nnz == 4
