"""What users do next with our output in scanpy and squidpy, on as many cells as make them work as on real data."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pynndescent.pynndescent_
import pytest
import scanpy as sc
import squidpy as sq
from anndata import AnnData
from scipy.spatial import cKDTree

import scjepa
from scjepa._core.squidpy import spatial_graph

N_CELLS = 10_000  # scanpy searches neighbors approximately from 8,192 cells on


class _ExactDescent:
    """Answers as ``pynndescent.NNDescent`` does, exactly: the real one compiles for half a minute and more."""

    def __init__(self, data, *, n_neighbors, **options):
        distances, indices = cKDTree(data).query(data, k=n_neighbors)
        self.neighbor_graph = indices.astype(np.int32), distances.astype(np.float32)

    def compress_index(self):
        """Make queries quick, of which there are none."""


@pytest.fixture(scope="module")
def cells():
    """Return cells in four bands of tissue, with the graph, an embedding that tells the bands apart, and niches."""
    rng = np.random.default_rng(0)
    place = rng.random((N_CELLS, 2)) * 1000
    band = (place[:, 0] // 250).astype(int)
    adata = AnnData(rng.poisson(1 + 4 * np.eye(4)[band]).astype(np.float32), obsm={"spatial": place})
    adata.obs["section"] = pd.Categorical(["s"] * N_CELLS)
    adata.obsm["X_stjepa"] = (4 * np.eye(4)[band] + rng.normal(size=(N_CELLS, 4))).astype(np.float32)
    spatial_graph(adata, n_neighs=6, library_key="section")
    scjepa.tl.niches(adata, n_niches=4)
    return adata


@pytest.fixture(autouse=True)
def _told():
    """Let a call of ours, or of a page, that scanpy or squidpy will not take any more be an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        yield


def test_scanpys_own_graph_of_the_embedding_and_what_follows_it(cells, monkeypatch):
    """scanpy 1.11 and 1.12 break on the arrays that pynndescent 0.7.0 gives, which pyproject.toml leaves out."""
    monkeypatch.setattr(pynndescent.pynndescent_, "NNDescent", _ExactDescent)
    sc.pp.neighbors(cells, use_rep="X_stjepa")
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False, resolution=0.1)
    assert scjepa.metrics.ari(cells.obs["niche"], cells.obs["leiden"]) > 0.95
    sc.tl.umap(cells, init_pos="random", maxiter=1)
    assert cells.obsm["X_umap"].shape == (N_CELLS, 2)


def test_scanpy_on_the_graph_of_niches(cells):
    sc.tl.leiden(cells, neighbors_key="scjepa_niche", flavor="igraph", n_iterations=2, directed=False, resolution=0.1)
    assert scjepa.metrics.ari(cells.obs["niche"], cells.obs["leiden"]) > 0.95
    sc.tl.umap(cells, neighbors_key="scjepa_niche", init_pos="random", maxiter=1)
    sc.tl.paga(cells, groups="niche", neighbors_key="scjepa_niche")
    assert cells.uns["paga"]["connectivities"].shape == (4, 4)
    logged = cells.copy()
    sc.pp.log1p(logged)
    sc.tl.rank_genes_groups(logged, "niche", method="wilcoxon")
    first = pd.DataFrame(logged.uns["rank_genes_groups"]["names"]).iloc[0]
    assert first.nunique() == 4  # each band has a gene of its own


def test_squidpy_on_niches(cells):
    quiet = {"cluster_key": "niche", "show_progress_bar": False}
    sq.gr.nhood_enrichment(cells, n_perms=10, seed=0, **quiet)
    assert (np.diag(cells.uns["niche_nhood_enrichment"]["zscore"]) > 10).all()
    sq.gr.centrality_scores(cells, **quiet)
    sq.gr.interaction_matrix(cells, cluster_key="niche", normalized=True)
    assert (np.diag(cells.uns["niche_interactions"]) > 0.9).all()
    sq.gr.co_occurrence(cells, cluster_key="niche", interval=4)
    assert cells.uns["niche_co_occurrence"]["occ"].shape[:2] == (4, 4)
    sq.gr.spatial_autocorr(cells, mode="moran", n_perms=None, show_progress_bar=False)
    assert (cells.uns["moranI"]["I"] > 0.2).all()
