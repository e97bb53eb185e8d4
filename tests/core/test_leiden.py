from __future__ import annotations

import random
import warnings

import anndata as ad
import igraph
import numpy as np
import pynndescent
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from scjepa._core import neighbors as _neighbors
from scjepa._core.leiden import FLAVORS, EmbeddingGraph


def _blobs(n_blobs: int, n_cells: int = 40, n_dims: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return points of well separated blobs, of decreasing size, and their blob."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(n_blobs), n_cells + 3 * np.arange(n_blobs)[::-1])
    centers = 30 * np.eye(max(n_blobs, n_dims))[:n_blobs]
    return (centers[truth] + rng.normal(size=(len(truth), centers.shape[1]))).astype(np.float32), truth


def test_neighbors_are_those_of_brute_force_and_weights_those_of_scanpy():
    points = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float64)
    graph = EmbeddingGraph(points, n_neighbors=9)
    true = cdist(points, points)
    np.fill_diagonal(true, np.inf)
    expected = np.sort(np.argsort(true, axis=1)[:, :8], axis=1)
    found = graph.distances.copy()
    found.sort_indices()
    np.testing.assert_array_equal(found.indices.reshape(120, 8), expected)
    np.testing.assert_allclose(found.data, np.take_along_axis(true, expected, 1).ravel(), rtol=1e-5)

    holder = ad.AnnData(obsm={"X": points}, shape=(120, 0))
    sc.pp.neighbors(holder, n_neighbors=9, use_rep="X")
    assert abs(graph.connectivities - holder.obsp["connectivities"]).max() < 1e-5


class _ExactDescent:
    """Answers as ``pynndescent.NNDescent`` does, by brute force: the real one compiles for half a minute."""

    def __init__(self, data, n_neighbors, random_state):
        distances = cdist(data, data)
        indices = np.argsort(distances, axis=1, kind="stable")[:, :n_neighbors].astype(np.int32)
        self.neighbor_graph = indices, np.take_along_axis(distances, indices, 1).astype(np.float32)


def test_many_cells_are_searched_by_neighbor_descent(monkeypatch):
    points, _ = _blobs(4)
    exact = EmbeddingGraph(points)
    monkeypatch.setattr(pynndescent, "NNDescent", _ExactDescent)
    monkeypatch.setattr(_neighbors, "_EXACT_UP_TO", len(points) - 1)
    searched = EmbeddingGraph(points)
    assert abs(exact.distances - searched.distances).max() < 1e-4
    assert abs(exact.connectivities - searched.connectivities).max() < 1e-4


@pytest.mark.parametrize(
    ("n_cells", "n_same"), [(1, 0), (2, 0), (2, 2), (3, 0), (15, 15), (20, 0), (90, 90), (120, 70)]
)
def test_few_cells_and_cells_at_one_point_give_a_graph_in_one_piece(n_cells, n_same):
    points = np.random.default_rng(0).normal(size=(n_cells, 3)).astype(np.float32)
    points[:n_same] = 0
    graph = EmbeddingGraph(points)
    weights = graph.connectivities
    assert weights.shape == (n_cells, n_cells)
    assert connected_components(weights)[0] == 1
    assert abs(weights - weights.T).max() == 0
    assert (weights.diagonal() == 0).all()
    labels = graph.leiden().labels
    assert len(np.unique(labels[:n_same])) <= 1
    assert labels.shape == (n_cells,)


@pytest.mark.parametrize("flavor", FLAVORS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_shuffling_cells_leaves_graph_and_clusters_the_same(flavor, seed):
    points, _ = _blobs(3, n_cells=20, seed=seed)
    points[:18] = 0
    order = np.random.default_rng(seed).permutation(len(points))
    one, other = EmbeddingGraph(points, 8), EmbeddingGraph(points[order], 8)
    found, shuffled = (graph.leiden(1.5, flavor=flavor).labels for graph in (one, other))
    np.testing.assert_array_equal(shuffled, found[order])
    # Which of the cells at one point is their hub depends on the order; all other edges are the same.
    lone, moved = np.flatnonzero(points.any(axis=1)), np.flatnonzero(points[order].any(axis=1))
    lone = lone[np.argsort(np.argsort(order)[lone])]
    assert abs(one.connectivities[lone][:, lone] - other.connectivities[moved][:, moved]).max() == 0


@pytest.mark.parametrize("flavor", FLAVORS)
def test_clusters_are_numbered_by_decreasing_size(flavor):
    points, truth = _blobs(5)
    found = EmbeddingGraph(points).match(5, flavor=flavor)
    assert found.n_clusters == 5
    np.testing.assert_array_equal(found.labels, truth)  # blobs were made in that order


@pytest.mark.parametrize("n_clusters", [1, 2, 4, 7, 12])
def test_the_search_finds_the_number_in_a_connected_cloud(n_clusters):
    points = np.random.default_rng(1).uniform(size=(400, 2)).astype(np.float32)
    assert EmbeddingGraph(points).match(n_clusters).n_clusters == n_clusters


@pytest.mark.parametrize("n_blobs", [2, 6, 11])
def test_the_search_finds_planted_blobs(n_blobs):
    points, truth = _blobs(n_blobs, n_cells=30)
    found = EmbeddingGraph(points).match(n_blobs)
    np.testing.assert_array_equal(found.labels, truth)


def test_the_nearest_number_is_returned_where_the_graph_has_more_pieces():
    points, _ = _blobs(4)
    assert EmbeddingGraph(points).match(2).n_clusters == 4


def _with_knots(n_knots: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return four broad blobs side by side, and knots: ten cells each, nearest to each other alone."""
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(4), 400)
    broad = np.c_[6.0 * truth, np.zeros(len(truth))] + rng.normal(size=(len(truth), 2))
    places = np.c_[np.linspace(0, 18, n_knots), np.full(n_knots, 40.0)]
    knots = np.repeat(places, 10, axis=0) + 1e-3 * rng.normal(size=(10 * n_knots, 2))
    return np.r_[broad, knots].astype(np.float32), np.r_[truth, np.repeat(np.arange(n_knots) * 4 // n_knots, 10)]


def test_a_wanted_number_of_clusters_is_not_used_up_by_knots():
    points, truth = _with_knots()
    graph = EmbeddingGraph(points, n_neighbors=8)
    counted = graph.match(4)
    assert counted.sizes[0] > 800  # every knot counts: blobs stay in one
    found = graph.match(4, min_share=0.01)
    assert found.n_clusters == 4
    assert found.sizes.min() >= 0.01 * len(points)
    assert (np.bincount(found.labels[:1600] * 4 + truth[:1600], minlength=16) > 350).sum() == 4
    knots = found.labels[1600:].reshape(-1, 10)
    assert (knots == knots[:, :1]).all()
    order = np.random.default_rng(2).permutation(len(points))
    again = EmbeddingGraph(points[order], n_neighbors=8).match(4, min_share=0.01)
    np.testing.assert_array_equal(again.labels, found.labels[order])


@settings(deadline=None, max_examples=15)
@given(n_clusters=st.integers(1, 60), min_share=st.sampled_from([0.0, 0.01, 0.1, 0.9]))
def test_a_share_that_every_cluster_must_have_leaves_no_smaller_one(n_clusters, min_share):
    points = np.random.default_rng(n_clusters).normal(size=(150, 3))
    found = EmbeddingGraph(points, n_neighbors=6).match(n_clusters, min_share=min_share)
    assert len(found.labels) == 150
    assert (np.diff(found.sizes) <= 0).all()
    if found.sizes[0] >= min(min_share, 0.1 / n_clusters) * 150:
        assert found.sizes.min() >= min(min_share, 0.1 / n_clusters) * 150


def test_a_share_out_of_range_is_refused():
    with pytest.raises(ValueError, match="min_share"):
        EmbeddingGraph(_blobs(2)[0]).match(2, min_share=1.0)


@pytest.mark.parametrize("resolution", [0.3, 1.0, 2.0])
def test_flavors_raise_the_same_modularity_and_agree_on_clear_clusters(resolution):
    clear = EmbeddingGraph(_blobs(6)[0])
    np.testing.assert_array_equal(clear.leiden(0.3).labels, clear.leiden(0.3, flavor="leidenalg").labels)
    cloud = EmbeddingGraph(np.random.default_rng(0).normal(size=(300, 3)))
    graph = igraph.Graph.Weighted_Adjacency(cloud.connectivities, mode="max", attr="weight")
    reached = {
        flavor: max(
            graph.modularity(cloud.leiden(resolution, seed, flavor).labels, weights="weight", resolution=resolution)
            for seed in range(4)
        )
        for flavor in FLAVORS
    }
    assert reached["leidenalg"] == pytest.approx(reached["igraph"], rel=0.01)


def test_leidenalg_is_scanpys():
    points = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    graph = EmbeddingGraph(points)
    holder = ad.AnnData(shape=(300, 0))
    best = []
    for seed in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # scanpy's default flavor will be igraph
            sc.tl.leiden(holder, flavor="leidenalg", n_iterations=2, adjacency=graph.connectivities, random_state=seed)
        ours = graph.leiden(seed=seed, flavor="leidenalg")
        best.append((holder.obs["leiden"].nunique(), ours.n_clusters))
    theirs, ours = zip(*best, strict=True)
    assert min(theirs) == min(ours)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_seeds_repeat_and_other_random_numbers_are_left_alone(flavor):
    points = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    graph = EmbeddingGraph(points)
    random.seed(3)
    expected = igraph.Graph.Erdos_Renyi(n=30, m=60).get_edgelist()
    first = graph.leiden(2.0, seed=1, flavor=flavor)
    np.testing.assert_array_equal(graph.leiden(2.0, seed=np.int64(1), flavor=flavor).labels, first.labels)
    assert any((graph.leiden(2.0, seed, flavor).labels != first.labels).any() for seed in (2, 3, 4))
    random.seed(3)
    assert igraph.Graph.Erdos_Renyi(n=30, m=60).get_edgelist() == expected


def test_bad_options_are_told():
    points = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match="n_neighbors counts the cell itself"):
        EmbeddingGraph(points, 1)
    graph = EmbeddingGraph(points)
    with pytest.raises(ValueError, match="resolution must be positive"):
        graph.leiden(0)
    with pytest.raises(ValueError, match="1 or more"):
        graph.match(0)
    with pytest.raises(ValueError, match=r"Unknown flavor of Leiden 'leiden'\. Did you mean 'leidenalg'"):
        graph.leiden(flavor="leiden")
