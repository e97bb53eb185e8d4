from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from scjepa._core.squidpy import spatial_graph
from scjepa.benchmark import neighborhood_pca, score_table


@pytest.fixture(scope="module")
def adata():
    rng = np.random.default_rng(0)
    place = rng.random((150, 2))
    left = place[:, :1] < 0.5
    counts = rng.poisson(np.where(left, np.linspace(0.2, 4, 20), np.linspace(4, 0.2, 20)))
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.obs["region"] = np.where(left[:, 0], "left", "right")
    adata.obsm["spatial"] = place
    spatial_graph(adata, n_neighs=5)
    return adata


def test_neighborhood_pca_is_pca_of_the_neighborhood_means(adata):
    before = adata.X.copy()
    ours = neighborhood_pca(adata, n_comps=5)
    counts = adata.X.toarray()
    logs = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    graph = adata.obsp["spatial_connectivities"].toarray() > 0
    means = np.stack([logs[[i, *np.flatnonzero(graph[i])]].mean(0) for i in range(adata.n_obs)])
    centered = means - means.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(ours), np.abs(u[:, :5] * s[:5]), rtol=1e-2, atol=2e-3)
    assert (adata.X != before).nnz == 0


def test_score_table_ranks_signal_over_noise(adata):
    noise = np.random.default_rng(1).normal(size=(adata.n_obs, 5)).astype(np.float32)
    table = score_table({"PCA": neighborhood_pca(adata, n_comps=5), "noise": noise}, adata.obs["region"], seeds=[0])
    assert list(table.columns) == ["nmi", "ari", "nmi_matched", "ari_matched"]
    assert list(table.index) == ["PCA", "noise"]
    assert table.loc["PCA", "nmi_matched"] > 0.5 > 0.2 > table.loc["noise", "nmi_matched"]


def test_missing_graph_is_named(adata):
    with pytest.raises(KeyError, match="spatial_neighbors"):
        neighborhood_pca(adata, neighbors_key="delaunay")
