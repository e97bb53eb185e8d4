from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from scjepa._core.leiden import EmbeddingGraph
from scjepa.metrics import ari, clustering_scores, nmi

partitions = st.integers(2, 60).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 5), min_size=n, max_size=n) for _ in range(2)))
)


@settings(max_examples=60, deadline=None)
@given(partitions)
def test_scores_are_those_of_sklearn(pair):
    labels, clusters = pair
    assert nmi(labels, clusters) == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert ari(labels, clusters) == pytest.approx(adjusted_rand_score(labels, clusters))


@settings(max_examples=30, deadline=None)
@given(partitions, st.randoms())
def test_names_and_order_do_not_matter(pair, random):
    labels, clusters = map(np.array, pair)
    order = list(range(len(labels)))
    random.shuffle(order)
    renamed = np.array(["f", "e", "d", "c", "b", "a"])[clusters]
    assert nmi(labels[order], renamed[order]) == pytest.approx(nmi(labels, clusters))
    assert ari(labels[order], renamed[order]) == pytest.approx(ari(labels, clusters))
    assert nmi(clusters, labels) == pytest.approx(nmi(labels, clusters))


@pytest.mark.parametrize("score", [nmi, ari])
@pytest.mark.parametrize("kind", [list, np.array, pd.Series, pd.Categorical, pd.Index])
def test_all_kinds_of_labels_are_taken(score, kind):
    assert score(kind(["a", "a", "b", "b"]), kind([1, 1, 0, 0])) == 1


@pytest.mark.parametrize("score", [nmi, ari])
def test_cells_without_a_label_do_not_count(score):
    labels = pd.Series(["a", "a", "b", "unlabelled", None, np.nan, "b"], dtype="category")
    clusters = [0, 0, 1, 0, np.nan, 1, 1]
    assert score(labels, clusters) == 1
    assert score(["a", "a", "b", "void"], [0, 0, 1, 0], ignore="void") == 1
    assert score(["a", "a", "unlabelled", "b"], [0, 0, 1, 2], ignore=()) == 1


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="labels has 3 cells, clusters 2"):
        nmi(["a", "b", "c"], [0, 1])
    with pytest.raises(ValueError, match="None of the 2 cells has a label"):
        ari(["unlabelled", None], [0, 1])
    with pytest.raises(ValueError, match=r"1 labelled cells have no cluster .* row 1"):
        nmi(["a", "b", None], [0, None, None])
    cells = pd.Index(["x", "y", "z"])
    with pytest.raises(ValueError, match=r"another order; use clusters.loc\[labels.index\]"):
        nmi(pd.Series([1, 2, 2], index=cells), pd.Series([1, 2, 2], index=cells[::-1]))
    assert nmi(pd.Series([1, 2, 2], index=cells), pd.Series([1, 2, 2])) == 1


def _blobs(n_cells: int = 240) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=n_cells)
    return (20 * np.eye(4)[truth] + rng.normal(size=(n_cells, 4))).astype(np.float32), truth


def test_rows_are_one_for_each_resolution_and_seed():
    embedding, truth = _blobs()
    scores = clustering_scores(embedding, truth, resolutions=(0.5, 1.0), seeds=(0, 7))
    assert list(scores.columns) == ["matched", "resolution", "seed", "n_clusters", "nmi", "ari"]
    assert scores["matched"].tolist() == [False, False, True] * 2
    assert scores["seed"].tolist() == [0, 0, 0, 7, 7, 7]
    assert scores.loc[~scores["matched"], "resolution"].tolist() == [0.5, 1.0] * 2
    assert (scores.loc[scores["matched"], ["n_clusters", "nmi", "ari"]].to_numpy() == [4, 1, 1]).all()
    assert not clustering_scores(embedding, truth, matched=False)["matched"].any()


def test_a_row_is_what_leiden_on_the_graph_gives():
    embedding, truth = _blobs()
    embedding += np.random.default_rng(1).normal(scale=6, size=embedding.shape)
    row = clustering_scores(embedding, truth, resolutions=(1.2,), seeds=(3,), matched=False).iloc[0]
    found = EmbeddingGraph(embedding, 15).leiden(1.2, seed=3)
    assert row["n_clusters"] == found.n_clusters
    assert row["nmi"] == pytest.approx(normalized_mutual_info_score(truth, found.labels))
    assert row["ari"] == pytest.approx(adjusted_rand_score(truth, found.labels))


def test_cells_without_a_label_are_clustered_and_not_scored():
    embedding, truth = _blobs()
    labels = pd.Series(truth.astype(str)).where(truth != 2, "unlabelled").astype("category")
    scores = clustering_scores(embedding, labels, resolutions=(0.2,))
    assert scores["nmi"].iloc[0] == 1
    assert scores["n_clusters"].tolist() == [4, 4]  # three labels, and a fourth blob that cannot be merged


def test_scores_do_not_depend_on_the_order_of_cells():
    embedding, truth = _blobs()
    embedding += np.random.default_rng(1).normal(scale=6, size=embedding.shape)
    order = np.random.default_rng(2).permutation(len(truth))
    one, other = clustering_scores(embedding, truth), clustering_scores(embedding[order], truth[order])
    pd.testing.assert_frame_equal(one, other)
    assert one["nmi"].between(0, 1).all()


def test_embedding_and_labels_must_fit():
    embedding, truth = _blobs()
    with pytest.raises(ValueError, match="240 cells, labels 239"):
        clustering_scores(embedding, truth[1:])
    embedding[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 240 cells .* row 3"):
        clustering_scores(embedding, truth)


@pytest.mark.data
def test_neighborhood_pca_of_visual_cortex_scores_as_known(data_dir):
    adata = ad.read_h5ad(data_dir / "spatial" / "starmap_visual_cortex.h5ad")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    near = NearestNeighbors(n_neighbors=10).fit(adata.obsm["spatial"]).kneighbors_graph()
    mean = (adata.X + near @ adata.X).toarray() / 11
    scores = clustering_scores(sc.pp.pca(mean, n_comps=50), adata.obs["region"], seeds=(0, 1, 2))
    means = scores.groupby("matched")[["nmi", "ari"]].mean()
    assert means.loc[False, "nmi"] == pytest.approx(0.60, abs=0.03)
    assert means.loc[True, "nmi"] == pytest.approx(0.64, abs=0.05)
    assert (scores.loc[scores["matched"], "n_clusters"] == 7).all()
