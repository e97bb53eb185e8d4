from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from scjepa.metrics import label_transfer
from scjepa.tl import standardize


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_it_is_the_vote_of_the_nearest_cells(seed, n_neighbors):
    rng = np.random.default_rng(seed)
    reference, query = rng.normal(size=(20, 2)), rng.normal(size=(15, 2))
    names = np.array(["a", "b", "c", "d"])
    known, truth = names[rng.integers(3, size=20)], names[1:][rng.integers(3, size=15)]
    shared = sorted(set(known) & set(truth))
    assume(shared)
    found = []
    for cell in query:
        near = np.argsort(((reference - cell) ** 2).sum(1))[:n_neighbors]
        found.append(max(sorted(set(known)), key=lambda name: (known[near] == name).sum()))
    found, scored = np.array(found), np.isin(truth, known)
    f1 = []
    for name in shared:
        right = ((found == name) & (truth == name) & scored).sum()
        f1.append(2 * right / (((found == name) & scored).sum() + (truth == name).sum()))
    result = label_transfer(reference, known, query, truth, n_neighbors=n_neighbors)
    assert result.accuracy == pytest.approx((found == truth)[scored].mean())
    assert result.macro_f1 == pytest.approx(np.mean(f1))
    assert result.majority_rate == pytest.approx(np.unique(truth[scored], return_counts=True)[1].max() / scored.sum())
    assert result.labels == tuple(shared)
    assert (result.n_cells, result.n_left_out, result.n_reference) == (scored.sum(), (~scored).sum(), 20)


def test_cells_without_a_label_neither_vote_nor_count():
    reference = np.array([[0.0], [0.1], [0.2], [9.0]])
    known = ["unlabelled", None, "L1", "L6"]
    result = label_transfer(reference, known, [[0.0], [8.0], [0.0], [0.0]], ["L1", "L6", np.nan, "WM"], n_neighbors=1)
    assert result.accuracy == result.macro_f1 == 1
    assert result.majority_rate == 0.5
    assert (result.n_cells, result.n_left_out, result.n_reference) == (2, 1, 2)
    assert result.labels == ("L1", "L6")


def test_labels_that_the_query_lacks_may_win_and_are_wrong():
    result = label_transfer([[0.0], [5.0]], ["L1", "HPC"], [[5.0], [0.0]], ["L1", "L1"], n_neighbors=1)
    assert result.accuracy == 0.5
    assert result.macro_f1 == pytest.approx(2 / 3)


def test_bad_input_is_told():
    points, labels = np.arange(6.0).reshape(3, 2), ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"share no label. Reference: 'a', 'b', 'c'. Query: 'x', 'y'"):
        label_transfer(points, labels, points, ["x", "y", "x"])
    with pytest.raises(ValueError, match="reference has 2 dimensions, the query 1"):
        label_transfer(points, labels, points[:, :1], labels)
    with pytest.raises(ValueError, match="1 of 3 cells have NaN or infinite values in the embedding of the query"):
        label_transfer(points, labels, np.where(points == 0, np.nan, points), labels)
    with pytest.raises(ValueError, match="same values in the embedding of the reference"):
        label_transfer(np.ones((3, 2)), labels, points, labels)
    with pytest.raises(ValueError, match="the query has 3 cells, its labels 2"):
        label_transfer(points, labels, points, labels[1:])
    with pytest.raises(ValueError, match="None of the 3 cells has a label"):
        label_transfer(points, [None] * 3, points, labels)
    with pytest.raises(ValueError, match="n_neighbors must be"):
        label_transfer(points, labels, points, labels, n_neighbors=0)


@pytest.mark.data
def test_layers_found_from_one_technology_on_another_by_pca_are_as_known(data_dir):
    names = {"V1": "starmap_visual_cortex", "osmFISH": "osmfish_somatosensory_cortex"}
    sets = {name: ad.read_h5ad(data_dir / "spatial" / f"{file}.h5ad") for name, file in names.items()}
    shared = [gene for gene in sets["V1"].var_names if gene in set(sets["osmFISH"].var_names)]
    means = []
    for adata in sets.values():
        counts = adata[:, shared].copy()
        sc.pp.normalize_total(counts, target_sum=1e4)
        sc.pp.log1p(counts)
        near = NearestNeighbors(n_neighbors=10).fit(adata.obsm["spatial"]).kneighbors_graph()
        means.append(((counts.X + near @ counts.X) / 11).toarray())
    technology = np.repeat(list(names), [len(part) for part in means])
    found = standardize(np.vstack(means), groups=technology)
    v1, osmfish = found[technology == "V1"], found[technology == "osmFISH"]
    layers = {name: adata.obs["region_harmonised"] for name, adata in sets.items()}
    result = label_transfer(osmfish, layers["osmFISH"], v1, layers["V1"])
    assert len(shared) == 19
    assert result.n_cells == 1207
    assert result.labels == ("HPC", "L1", "L2/3", "L4", "L5", "L6", "WM")
    assert result.accuracy == pytest.approx(0.55, abs=0.04)
    assert result.accuracy > 2 * result.majority_rate
