from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import squidpy as sq
from scipy.sparse import csr_matrix

from scjepa.tl import niche_interactions


def _strip(n_cells: int = 60, n_niches: int = 3) -> ad.AnnData:
    """Return cells in a row, niches one after the other, so that each touches the one before and the one after."""
    chain = np.eye(n_cells, k=1) + np.eye(n_cells, k=-1)
    obs = pd.DataFrame(
        {"niche": pd.Categorical((np.arange(n_cells) * n_niches // n_cells).astype(str))},
        index=[f"c{i}" for i in range(n_cells)],
    )
    return ad.AnnData(obs=obs, obsp={"spatial_connectivities": csr_matrix(chain)}, shape=(n_cells, 0))


def _interactions(adata: ad.AnnData, **how):
    return niche_interactions(adata, n_permutations=50, **how)


def test_niches_touch_those_beside_them():
    z_scores, counts, shares = _interactions(_strip())
    np.testing.assert_array_equal(counts, [[38, 1, 0], [1, 38, 1], [0, 1, 38]])
    np.testing.assert_allclose(shares, [[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    assert (np.diag(z_scores) > 3).all()
    assert z_scores.loc["0", "2"] < -3
    assert z_scores.index.tolist() == counts.columns.tolist() == ["0", "1", "2"]


def test_the_numbers_are_squidpys_and_its_plot_reads_them(monkeypatch):
    adata = _strip()
    found = _interactions(adata, random_state=3)
    theirs = sq.gr.nhood_enrichment(adata, "niche", n_perms=50, seed=3, copy=True, show_progress_bar=False)
    np.testing.assert_array_equal(found.counts, theirs.counts)
    # Same seed; ours shuffles within the one section.
    np.testing.assert_allclose(found.z_scores, theirs.zscore, rtol=0.4, atol=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sq.pl.nhood_enrichment(adata, "niche")


def test_it_repeats_and_another_seed_differs():
    adata = _strip()
    first = _interactions(adata).z_scores
    pd.testing.assert_frame_equal(_interactions(adata).z_scores, first)
    assert not _interactions(adata, random_state=1).z_scores.equals(first)


def test_niches_are_shuffled_within_sections():
    adata = _strip(40, 2)
    adata.obs["section"] = adata.obs["niche"].astype(str)
    graph = adata.obsp["spatial_connectivities"].tolil()
    graph[19, 20] = graph[20, 19] = 0
    adata.obsp["spatial_connectivities"] = graph.tocsr()
    z_scores, counts, shares = _interactions(adata)
    # Each section is one niche: shuffling changes nothing, and neither touches the other.
    assert z_scores.isna().all().all()
    assert shares.isna().all().all()
    np.testing.assert_array_equal(counts, [[38, 0], [0, 38]])


def test_cells_without_a_niche_are_left_out():
    adata = _strip()
    adata.obs.loc[adata.obs_names[:5], "niche"] = np.nan
    assert _interactions(adata).counts.to_numpy().sum() == 2 * 54


def test_it_writes_the_enrichment_and_refuses_the_users(snapshot):
    adata = _strip()
    before = snapshot(adata)
    found = _interactions(adata)
    after = snapshot(adata)
    assert set(after) - set(before) == {("uns", "niche_nhood_enrichment"), ("uns", "scjepa")}
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(adata.uns["niche_nhood_enrichment"]["count"], found.counts)
    del adata.uns["scjepa"]
    with pytest.raises(ValueError, match="already has 'niche_nhood_enrichment'"):
        _interactions(adata)


def test_what_is_missing_is_told():
    adata = _strip()
    with pytest.raises(ValueError, match="n_permutations must be"):
        niche_interactions(adata, n_permutations=1)
    adata.obs["section"] = (np.arange(60) % 2).astype(str)
    with pytest.raises(ValueError, match="join different sections"):
        _interactions(adata)
    del adata.obs["section"], adata.obsp["spatial_connectivities"]
    with pytest.raises(KeyError, match=r"sq\.gr\.spatial_neighbors"):
        _interactions(adata)
    with pytest.raises(ValueError, match="has one niche, '0'"):
        _interactions(_strip(20, 1))
