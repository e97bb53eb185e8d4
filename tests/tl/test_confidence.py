from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import scjepa
from scjepa._core import neighbors as _neighbors
from scjepa.tl import aggregate, niche_confidence


def _adata(n_cells: int = 200, apart: float = 4.0, seed: int = 0) -> ad.AnnData:
    """Return two clouds in an embedding, one for each niche, in two sections that differ by a shift."""
    rng = np.random.default_rng(seed)
    niche, section = np.arange(n_cells) % 2, np.arange(n_cells) // 2 % 2
    embedding = rng.normal(size=(n_cells, 6))
    embedding[:, 0] += apart * niche
    embedding += 30.0 * section[:, None]
    return ad.AnnData(
        obs=pd.DataFrame(
            {"niche": pd.Categorical(niche.astype(str)), "section": pd.Categorical(np.array(["a", "b"])[section])},
            index=[f"c{i}" for i in range(n_cells)],
        ),
        obsm={"X_stjepa": embedding.astype(np.float32)},
        shape=(n_cells, 0),
    )


def _masked(adata: ad.AnnData, noise: float = 0.5, n_masks: int = 6, seed: int = 1) -> np.ndarray:
    shape = (n_masks, *adata.obsm["X_stjepa"].shape)
    return adata.obsm["X_stjepa"] + np.random.default_rng(seed).normal(0, noise, shape).astype(np.float32)


def test_it_is_the_share_of_votes_of_the_nearest_others():
    adata, k = _adata(40), 5
    masked = _masked(adata)
    niche_confidence(adata, masked, n_neighbors=k)
    whole, niche = adata.obsm["X_stjepa"], adata.obs["niche"].to_numpy()
    for cell in (0, 17, 39):
        votes = []
        for one in masked:
            far = np.linalg.norm(whole - one[cell], axis=1)
            far[cell] = np.inf
            votes += list(niche[np.argsort(far)[:k]] == niche[cell])
        assert adata.obs["niche_confidence"].iloc[cell] == pytest.approx(np.mean(votes))
    assert adata.obs["niche_confidence"].dtype == np.float32


def test_cells_far_from_other_niches_are_sure_and_mislabelled_ones_are_not():
    adata = _adata(apart=12.0)
    wrong = adata.obs_names[:10]
    adata.obs.loc[wrong, "niche"] = (1 - adata.obs.loc[wrong, "niche"].astype(int)).astype(str)
    niche_confidence(adata, _masked(adata))
    assert adata.obs.loc[wrong, "niche_confidence"].max() < 0.3
    assert adata.obs["niche_confidence"].drop(wrong).min() > 0.7
    right = ~adata.obs_names.isin(wrong)
    assert roc_auc_score(right, adata.obs["niche_confidence"]) == 1


def test_the_more_masks_move_a_cell_the_less_sure_it_is():
    adata = _adata()
    means = []
    for noise in (0.1, 2.0, 6.0):
        niche_confidence(adata, _masked(adata, noise))
        means.append(adata.obs["niche_confidence"].mean())
    assert means[0] > means[1] > means[2]


def test_it_looks_where_the_niches_were_found():
    adata = _adata(apart=12.0)
    scjepa.tl.standardize(adata, library_key="section", n_comps=4)
    scjepa.tl.niches(adata, "X_stjepa_standardized", n_niches=2, key_added="found")
    # Masks that shift a whole section say nothing of its cells once it is z-scored.
    masked = _masked(adata) + 15.0 * (adata.obs["section"] == "a").to_numpy()[:, None]
    niche_confidence(adata, masked, niche_key="found")
    noted = adata.uns["scjepa"]["niche_confidence"]
    assert (noted["use_rep"], noted["n_masks"]) == ("X_stjepa_standardized", 6)
    assert adata.obs["niche_confidence"].mean() > 0.8


def test_a_stream_of_aggregated_embeddings_is_read_once():
    adata = _adata(60)
    graph = np.eye(60, k=2)
    scjepa.tl.niche_confidence(adata, iter(_masked(adata)))
    adata.obsm["hops"] = aggregate(adata.obsm["X_stjepa"], connectivities=graph, n_hops=1)
    niche_confidence(adata, (aggregate(one, connectivities=graph, n_hops=1) for one in _masked(adata)), "hops")
    assert adata.uns["scjepa"]["niche_confidence"]["use_rep"] == "hops"


def test_cells_without_a_niche_do_not_vote_and_get_nan():
    adata = _adata(apart=12.0)
    adata.obs["niche"] = adata.obs["niche"].astype(str)
    adata.obs.loc[adata.obs_names[:20], "niche"] = np.nan
    adata.obs.loc[adata.obs_names[20:40], "niche"] = "unlabelled"
    niche_confidence(adata, _masked(adata))
    found = adata.obs["niche_confidence"].to_numpy()
    assert np.isnan(found[:40]).all()
    rest = adata[40:].copy()
    niche_confidence(rest, _masked(adata)[:, 40:])
    np.testing.assert_allclose(found[40:], rest.obs["niche_confidence"], atol=1e-6)


def test_shuffling_cells_leaves_every_cell_the_same():
    adata = _adata()
    masked, order = _masked(adata), np.random.default_rng(3).permutation(adata.n_obs)
    shuffled = adata[order].copy()
    for each in (adata, shuffled):
        scjepa.tl.standardize(each, library_key="section")
    for how in ({}, {"use_rep": "X_stjepa_standardized"}):
        niche_confidence(adata, masked, **how)
        niche_confidence(shuffled, masked[:, order], **how)
        np.testing.assert_allclose(
            shuffled.obs["niche_confidence"], adata.obs["niche_confidence"].iloc[order], atol=1e-6
        )


class _Index:
    """Answers as pynndescent's index does, which compiles for a minute on its first query."""

    def __init__(self, data, n_neighbors, random_state):
        self.exact = NearestNeighbors(n_neighbors=n_neighbors).fit(data)

    def query(self, queries, k):
        far, near = self.exact.kneighbors(queries, k)
        return near, far


def test_many_cells_are_searched_by_pynndescent(monkeypatch):
    adata = _adata()
    niche_confidence(adata, _masked(adata))
    exact = adata.obs["niche_confidence"].to_numpy()
    monkeypatch.setattr(_neighbors, "_EXACT_UP_TO", 50)
    monkeypatch.setattr("pynndescent.NNDescent", _Index)
    niche_confidence(adata, _masked(adata))
    np.testing.assert_allclose(adata.obs["niche_confidence"], exact, atol=1e-6)


def test_equal_cells_and_few_cells_do_not_break_it():
    adata = _adata(40)
    adata.obsm["X_stjepa"][:30] = 0
    niche_confidence(adata, [adata.obsm["X_stjepa"]])
    assert adata.obs["niche_confidence"].between(0, 1).all()
    two = _adata(4)[[0, 2]].copy()
    niche_confidence(two, [two.obsm["X_stjepa"]])
    np.testing.assert_array_equal(two.obs["niche_confidence"], 1)
    with pytest.raises(ValueError, match="Only one cell has a niche"):
        niche_confidence(two[:1].copy(), [two.obsm["X_stjepa"][:1]])


def test_nothing_else_is_written(snapshot):
    adata = _adata()
    before = snapshot(adata)
    niche_confidence(adata, _masked(adata))
    after = snapshot(adata)
    assert set(after) - set(before) == {("obs", "niche_confidence"), ("uns", "scjepa")}
    assert {name: after[name] for name in before} == before


def test_what_cannot_be_used_is_told():
    adata = _adata()
    masked = _masked(adata)
    with pytest.raises(ValueError, match=r"masked is empty.*get_masked_representations"):
        niche_confidence(adata, [])
    with pytest.raises(ValueError, match=r"shape \(200, 5\), adata.obsm\['X_stjepa'\] \(200, 6\)"):
        niche_confidence(adata, masked[:, :, :5])
    with pytest.raises(ValueError, match="masked embedding 0 must have the shape"):
        niche_confidence(adata, masked[0])
    masked[1, 7, 0] = np.nan
    with pytest.raises(ValueError, match=r"1 of 200 cells have NaN .* masked embedding 1"):
        niche_confidence(adata, masked)
    with pytest.raises(ValueError, match="n_neighbors must be"):
        niche_confidence(adata, masked, n_neighbors=0)
    with pytest.raises(ValueError, match="already has 'section'"):
        niche_confidence(adata, masked, key_added="section")
    del adata.obs["niche"]
    with pytest.raises(KeyError, match=r"Find niches first: scjepa.tl.find_niches\(adata\)"):
        niche_confidence(adata, masked)
    assert "niche_confidence" not in adata.obs
