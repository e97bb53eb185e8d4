"""Niches of a sample, carried to all cells: from arrays in memory and on disk, and for cells that come later."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import scjepa
from scjepa._core import arrays
from scjepa._core.arrays import sketch
from scjepa._core.leiden import EmbeddingGraph
from scjepa.tl import NicheClusters, _niches

METHODS = ("landmarks", "kmeans", "gmm")
FEW = {"n_landmarks": 400}
SAMPLED = {"method": "landmarks", **FEW}


def _blobs(n_cells: int = 2000, seed: int = 0, rare: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return four blobs of decreasing size, the last of ``rare`` cells, shuffled, and their numbers."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(4), [n_cells // 2, n_cells // 3, n_cells // 6, rare]))
    return (20 * np.eye(4)[truth] + rng.normal(size=(len(truth), 4))).astype(np.float32), truth


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(arrays, "_ROWS", 300)


@pytest.mark.parametrize("method", METHODS)
def test_planted_niches_are_found_in_a_sample_and_numbered_by_size(method):
    values, truth = _blobs()
    clusters = NicheClusters(4, method=method, min_share=0, **FEW)
    found = clusters.fit_predict(values)
    assert scjepa.metrics.ari(truth.astype(str), found.astype(str)) == 1
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, truth)  # whose sizes decrease
    np.testing.assert_array_equal(clusters.predict(values), found)
    later, expected = _blobs(seed=1)
    np.testing.assert_array_equal(clusters.predict(later), expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_cells_in_another_order_in_other_blocks_or_on_disk_have_the_same_niches(method, tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(1500, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(values))
    found = NicheClusters(5, method=method, **FEW).fit_predict(values)
    np.testing.assert_array_equal(NicheClusters(5, method=method, **FEW).fit_predict(values[order]), found[order])
    np.save(tmp_path / "values.npy", values)
    monkeypatch.setattr(arrays, "_ROWS", 1024)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    np.testing.assert_array_equal(NicheClusters(5, method=method, **FEW).fit_predict(mapped), found)


def test_data_sets_of_files_are_read_block_by_block(tmp_path):
    import h5py

    values, _ = _blobs()
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        stored = file.create_dataset("readout", data=values)
        found = NicheClusters(4, **SAMPLED).fit_predict(stored)
    np.testing.assert_array_equal(found, NicheClusters(4, **SAMPLED).fit_predict(values))


def test_with_all_cells_as_landmarks_the_niches_are_those_of_leiden_but_at_borders():
    values, _ = _blobs(600)
    one = NicheClusters(method="landmarks", n_landmarks=10_000).fit_predict(values)
    full = EmbeddingGraph(values).leiden().labels
    assert scjepa.metrics.nmi(one.astype(str), full.astype(str)) > 0.9


def test_all_cells_are_clustered_as_by_leiden_up_to_the_largest_number():
    values = np.random.default_rng(0).normal(size=(600, 3))
    clusters = NicheClusters(5)
    np.testing.assert_array_equal(clusters.fit_predict(values), EmbeddingGraph(values).match(5, 0, 0.01).labels)
    assert clusters.method_ == "leiden"
    assert clusters.graph.connectivities.shape == (600, 600)
    again = NicheClusters.from_dict(clusters.to_dict())
    np.testing.assert_array_equal(again.predict(values), clusters.predict(values))


@pytest.mark.parametrize("method", METHODS)
def test_clusters_are_kept_in_a_file(method, tmp_path):
    values, _ = _blobs()
    clusters = NicheClusters(4, method=method, **FEW).fit(values)
    clusters.save(tmp_path / "niches.safetensors")
    again = NicheClusters.load(tmp_path / "niches.safetensors")
    assert again.get_params() == clusters.get_params()
    np.testing.assert_array_equal(again.predict(values), clusters.predict(values))


def test_rare_places_keep_cells_in_the_sample():
    values, _ = _blobs(30_000, rare=30)  # of an even draw of 1 in 75 cells none might be left
    drawn = sketch(values, 400)
    assert 390 < len(drawn) <= 400
    rare = (drawn.argmax(axis=1) == 3).sum()
    assert rare >= 15
    assert (drawn.argmax(axis=1) == 0).mean() > 0.3


def test_cells_of_equal_values_are_drawn_as_others_are():
    values = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    values[:2000] = 0  # such as cells without counts
    for seed in range(3):
        same = (sketch(values, 400, seed) == 0).all(axis=1).mean()
        assert 0.3 < same < 0.6


def test_niches_of_annotated_data_are_found_by_each_method(snapshot):
    values, truth = _blobs()
    adata = ad.AnnData(obsm={"X_stjepa": values})
    adata.obs_names = [f"cell{number}" for number in range(len(values))]
    before = snapshot(adata)
    for method in METHODS:
        scjepa.tl.niches(adata, n_niches=3, method=method, key_added=method)
        assert scjepa.metrics.ari(truth.astype(str), adata.obs[method]) > 0.95
        note = adata.uns["scjepa"][method]
        assert note["method"] == method
        assert note["n_niches"] == 3
        assert ("resolution" in note) == (method == "landmarks")
        scjepa.tl.niches(adata, n_niches=3, method=method, key_added=method)  # ours is replaced
    after = snapshot(adata)
    written = {("obs", method) for method in METHODS} | {("uns", f"{method}_colors") for method in METHODS}
    assert set(after) - set(before) == written | {("uns", "scjepa")}


def test_beyond_the_largest_number_leiden_is_of_landmarks_which_is_said_once(monkeypatch, caplog):
    values, _ = _blobs(600)
    adata = ad.AnnData(obsm={"X_stjepa": values})
    with caplog.at_level(logging.WARNING, "scjepa"):
        scjepa.tl.niches(adata, n_niches=4, key_added="all")
        assert not caplog.records
        monkeypatch.setattr(_niches, "LARGEST_LEIDEN", 500)
        scjepa.tl.niches(adata, n_niches=4, key_added="some")
    assert [record.getMessage() for record in caplog.records] == [
        "620 cells are more than the 500 of which Leiden clusters all: niches are found in a sample and carried to all "
        "cells (method='landmarks'). For Leiden on all of them pass method='leiden'."
    ]
    assert adata.uns["scjepa"]["all"]["method"] == "leiden"
    assert adata.uns["scjepa"]["some"]["method"] == "landmarks"
    scjepa.tl.niches(adata, n_niches=4, method="leiden", key_added="all")
    assert adata.uns["scjepa"]["all"]["method"] == "leiden"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "louvain"}, ValueError, "Unknown method 'louvain'"),
        ({"method": "gmm"}, ValueError, "'gmm' must know the number of niches"),
        ({"n_niches": 2.5}, TypeError, "n_niches must be a whole number"),
        ({"n_landmarks": 0}, ValueError, "n_landmarks must be positive"),
        ({"n_niches": 500, **SAMPLED}, ValueError, "n_niches must be at most the"),
    ],
)
def test_options_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        NicheClusters(**options).fit(_blobs()[0])


def test_methods_that_cannot_be_are_refused_before_anything_is_done(make_layers):
    tissue = make_layers()
    for options, message in (({"method": "louvain"}, "Unknown method"), ({"method": "kmeans"}, "must know the number")):
        with pytest.raises(ValueError, match=message):
            scjepa.tl.find_niches(tissue, **options)
    assert "X_stjepa_niche" not in tissue.obsm


def test_values_that_cannot_be_are_named():
    values, _ = _blobs()
    clusters = NicheClusters(4, **SAMPLED)
    with pytest.raises(NotFittedError):
        clusters.predict(values)
    with pytest.raises(TypeError, match="AnnData"):
        clusters.fit(ad.AnnData(values))
    clusters.fit(values)
    with pytest.raises(ValueError, match="found in 4 dimensions, and these cells have 3"):
        clusters.predict(values[:, :3])
    values[700, 1] = np.nan
    with pytest.raises(ValueError, match="row 700"):
        clusters.fit(values)
