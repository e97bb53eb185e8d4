from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scjepa.tl import aggregate_neighbors, readout
from scjepa.tl._niche_readout import niche_readout


def _adata(n_cells: int = 40, n_dims: int = 6) -> ad.AnnData:
    """Return two sections of cells in a row."""
    section = np.repeat(["a", "b"], n_cells // 2)
    one = np.eye(n_cells, k=1)
    graph = (one + one.T) * (section[:, None] == section)
    return ad.AnnData(
        obs={"section": section},
        obsm={"X_stjepa_cell": np.random.default_rng(0).normal(size=(n_cells, n_dims)).astype(np.float32)},
        obsp={"spatial_connectivities": csr_matrix(graph)},
        shape=(n_cells, 0),
    )


def test_it_is_the_standardized_embedding_averaged_over_rings():
    adata = _adata()
    niche_readout(adata, by="section", n_comps=4, n_hops=2)
    cells = readout(adata.obsm["X_stjepa_cell"], adata.obs["section"], n_comps=4)
    expected = aggregate_neighbors(cells, adata.obsp["spatial_connectivities"], n_hops=2)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_niche"], expected)
    assert adata.obsm["X_stjepa_niche"].shape == (40, 12)
    assert adata.uns["scjepa"]["X_stjepa_niche"]["n_hops"] == 2


def test_cells_are_aligned_before_rings_are_made():
    adata = _adata()
    niche_readout(adata, by="section", n_comps=4, align="covariance")
    cells = readout(adata.obsm["X_stjepa_cell"], adata.obs["section"], 4, "covariance")
    np.testing.assert_array_equal(
        adata.obsm["X_stjepa_niche"], aggregate_neighbors(cells, adata.obsp["spatial_connectivities"], n_hops=3)
    )
    assert adata.uns["scjepa"]["X_stjepa_niche"]["align"] == "covariance"


def test_shuffled_cells_get_the_same_rows():
    adata = _adata()
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    niche_readout(adata, by="section")
    niche_readout(shuffled, by="section")
    again = shuffled[adata.obs_names].obsm["X_stjepa_niche"]
    np.testing.assert_allclose(again, adata.obsm["X_stjepa_niche"], atol=1e-5)


def test_a_shift_of_one_section_leaves_no_trace():
    adata, moved = _adata(), _adata()
    moved.obsm["X_stjepa_cell"][20:] = 3 * moved.obsm["X_stjepa_cell"][20:] + 7
    for each in (adata, moved):
        niche_readout(each, by="section")
    np.testing.assert_allclose(adata.obsm["X_stjepa_niche"], moved.obsm["X_stjepa_niche"], atol=1e-4)


def test_what_is_missing_or_the_users_own_is_named():
    adata = _adata()
    with pytest.raises(KeyError, match="tissue"):
        niche_readout(adata, by="tissue")
    with pytest.raises(KeyError, match="X_other"):
        niche_readout(adata, "X_other")
    adata.obsm["X_stjepa_niche"] = np.zeros((40, 2))
    with pytest.raises(ValueError, match="X_stjepa_niche"):
        niche_readout(adata)
