from __future__ import annotations

import time
from itertools import pairwise

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scjepa.datasets import Geometry, TechnologySpec, simulated_tissue


def assert_same_cells(first, second):
    assert abs(first.X - second.X).nnz == 0
    np.testing.assert_array_equal(first.obsm["spatial"], second.obsm["spatial"])
    pd.testing.assert_frame_equal(first.obs, second.obs)


def test_what_comes_out():
    adata = simulated_tissue(900, n_sections=4, n_niches=5, n_cell_types=7, n_genes=50, technologies=("A", "B"), seed=3)
    assert adata.shape == (900, 50)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.int32
    assert adata.X.has_sorted_indices
    assert adata.X.data.min() >= 1
    assert adata.obsm["spatial"].dtype == np.float64
    assert {name: len(adata.obs[name].cat.categories) for name in ("section", "technology", "region", "cell_type")} == {
        "section": 4,
        "technology": 2,
        "region": 5,
        "cell_type": 7,
    }
    assert adata.obs.groupby(["section", "technology"], observed=True).size().tolist() == [225] * 4
    assert adata.obs_names.is_unique
    assert adata.var_names[[0, -1]].tolist() == ["gene_001", "gene_050"]
    assert adata.uns["scjepa_simulation"]["seed"] == 3


def test_defaults_are_those_of_the_docstring():
    adata = simulated_tissue()
    sizes = [adata.n_obs, adata.n_vars, *(adata.obs[key].nunique() for key in ("section", "region", "cell_type"))]
    assert sizes == [5000, 200, 3, 6, 12]
    assert adata.uns["scjepa_simulation"]["difficulty"]["capture"] == 0.4  # medium


def test_one_seed_fixes_everything():
    assert_same_cells(simulated_tissue(400, seed=5), simulated_tissue(400, seed=5))
    assert abs(simulated_tissue(400, seed=5).X - simulated_tissue(400, seed=6).X).nnz


def test_h5ad_round_trip(tmp_path):
    technologies = [TechnologySpec("A", genes=["gene_001", "gene_002"], capture=0.2), TechnologySpec("B")]
    adata = simulated_tissue(120, technologies=technologies)
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    back = ad.read_h5ad(tmp_path / "tissue.h5ad")
    assert_same_cells(back, adata)
    pd.testing.assert_frame_equal(back.varm["measured"], adata.varm["measured"])
    spec = back.uns["scjepa_simulation"]
    assert spec["technologies"]["A"]["capture"] == 0.2
    assert spec["technologies"]["A"]["genes"].tolist() == ["gene_001", "gene_002"]
    assert spec["niches"].tolist() == adata.obs["region"].cat.categories.tolist()


def test_hundred_thousand_cells_in_bounded_time():
    start = time.perf_counter()
    assert simulated_tissue(100_000, n_genes=100).n_obs == 100_000
    assert time.perf_counter() - start < 60  # two seconds on an idle core


def given_map(n=400, seed=0):
    rng = np.random.default_rng(seed)
    coordinates = rng.uniform(0, 1, (n, 2)).astype(np.float32)
    labels = pd.DataFrame(
        {
            "region": pd.Categorical(np.where(coordinates[:, 0] > 0.5, "L2/3", "WM"), ["WM", "never", "L2/3"]),
            "cell_type": rng.choice(["x", "y", "z"], n),
            "section": rng.choice(["one", "two"], n),
            "extra": 1,
        },
        index=[f"c{i}" for i in range(n)],
    )
    return coordinates, labels


def test_given_cells_keep_order_names_and_labels(tmp_path):
    coordinates, labels = given_map()
    adata = simulated_tissue(coordinates=coordinates, labels=labels, technologies=("A", "B"), n_genes=30)
    assert adata.obs_names.equals(labels.index)
    np.testing.assert_array_equal(adata.obsm["spatial"], coordinates.astype(np.float64))
    for key in ("region", "cell_type", "section"):
        assert (adata.obs[key].astype(str) == labels[key].astype(str)).all()
    assert adata.obs["region"].cat.categories.tolist() == ["WM", "L2/3"]
    assert pd.crosstab(adata.obs["section"], adata.obs["technology"]).to_numpy().tolist() == [
        [(labels["section"] == "one").sum(), 0],
        [0, (labels["section"] == "two").sum()],
    ]
    adata.write_h5ad(tmp_path / "slash.h5ad")
    assert_same_cells(ad.read_h5ad(tmp_path / "slash.h5ad"), adata)


def test_given_labels_as_an_array_get_drawn_types():
    coordinates, labels = given_map()
    adata = simulated_tissue(coordinates=coordinates, labels=labels["region"].astype(str).to_numpy(), n_cell_types=5)
    assert adata.obs["cell_type"].cat.categories.tolist() == [f"type_{i}" for i in range(1, 6)]
    assert adata.obs["section"].nunique() == 1
    shares = pd.crosstab(adata.obs["region"], adata.obs["cell_type"], normalize="index").to_numpy()
    assert np.abs(shares[0] - shares[1]).sum() / 2 > 0.1


def test_given_arrays_are_not_changed_or_shared():
    coordinates, labels = given_map()
    coordinates = coordinates.astype(np.float64)
    copies = coordinates.copy(), labels.copy(deep=True)
    adata = simulated_tissue(coordinates=coordinates, labels=labels, n_genes=20)
    adata.obsm["spatial"][:] = -1
    np.testing.assert_array_equal(coordinates, copies[0])
    pd.testing.assert_frame_equal(labels, copies[1])


def test_specs_are_not_shared_between_calls():
    first = simulated_tissue(60, n_genes=10)
    first.uns["scjepa_simulation"]["difficulty"]["capture"] = 9
    first.varm["measured"].iloc[:] = False
    first.varm["niche_effect"][:] = 9
    second = simulated_tissue(60, n_genes=10)
    assert second.uns["scjepa_simulation"]["difficulty"]["capture"] != 9
    assert second.varm["measured"].all(axis=None)


def test_technologies_as_a_mapping():
    adata = simulated_tissue(90, technologies={"A": {"capture": 0.1}, "B": {}})
    assert adata.obs["technology"].cat.categories.tolist() == ["A", "B"]
    with pytest.raises(TypeError, match=r"name -> options \(genes, capture"):
        simulated_tissue(90, technologies={"A": {"captures": 0.1}})


COORDINATES, LABELS = given_map(20)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_cells": 0}, ValueError, "n_cells must be a whole number of at least 1, found 0"),
        ({"n_niches": 2.5}, ValueError, "n_niches must be a whole number"),
        ({"n_cells": 2, "n_sections": 3}, ValueError, "n_cells=2 cannot fill n_sections=3"),
        ({"n_genes": None}, ValueError, "n_genes must be a whole number of at least 1, found None"),
        ({"n_cells": np.nan}, ValueError, "n_cells must be a whole number"),
        ({"n_cells": True}, ValueError, "n_cells must be a whole number"),
        ({"panel_overlap": 1.2}, ValueError, "panel_overlap"),
        ({"seed": -1}, ValueError, "seed must be a whole number"),
        ({"technologies": ()}, ValueError, "technologies is empty"),
        ({"technologies": ("A", "A")}, ValueError, "different names, found A, A"),
        ({"technologies": (1,)}, TypeError, "holds names or TechnologySpec, found int"),
        ({"technologies": ("A", "B"), "n_sections": 1}, ValueError, r"Call with n_sections=2"),
        ({"labels": ["a"]}, ValueError, "labels need coordinates"),
        ({"coordinates": COORDINATES}, ValueError, "coordinates need labels"),
        ({"coordinates": COORDINATES, "labels": LABELS[:3]}, ValueError, "labels has 3 rows and coordinates 20"),
        ({"coordinates": COORDINATES, "labels": LABELS[["extra"]]}, KeyError, r"no column 'region' \(found: extra\)"),
        ({"coordinates": COORDINATES[:, :1], "labels": LABELS}, ValueError, r"shape \(n_cells, 2\).*\(20, 1\)"),
        (
            {"coordinates": COORDINATES * np.nan, "labels": LABELS},
            ValueError,
            "20 cells are not finite .first at row 0",
        ),
        ({"coordinates": COORDINATES, "labels": LABELS, "n_cells": 7}, ValueError, "n_cells=7 contradicts labels.*20"),
        ({"coordinates": COORDINATES, "labels": LABELS, "n_niches": 3}, ValueError, "n_niches=3 contradicts.*hold 2"),
        ({"coordinates": COORDINATES, "labels": LABELS, "geometry": Geometry()}, ValueError, "leave it out"),
        (
            {"coordinates": COORDINATES, "labels": LABELS.assign(region=[None] + ["a"] * 19)},
            ValueError,
            r"labels\['region'\] is missing for 1 cells \(first at row 0\)",
        ),
    ],
)
def test_errors_say_what_to_do(options, error, match):
    with pytest.raises(error, match=match):
        simulated_tissue(**options)


@pytest.mark.data
def test_real_geometry(data_dir):
    table = pd.read_csv(data_dir / "spatial" / "starmap_plus_well11_labels_no_counts.csv.gz", index_col="NAME")
    labels = table.rename(columns={"Tissue_Symbol": "region", "Maintype_Symbol": "cell_type"})
    adata = simulated_tissue(coordinates=table[["X", "Y"]], labels=labels, n_genes=50, difficulty="easy")
    assert adata.n_obs == len(table)
    assert adata.obs["region"].nunique() == table["Tissue_Symbol"].nunique()
    assert (adata.obs["cell_type"].astype(str) == labels["cell_type"]).all()
    means = [
        np.asarray(adata.X[rows].mean(axis=0)).ravel()
        for rows in adata.obs.groupby("region", observed=True).indices.values()
    ]
    niche_genes = (adata.var["role"] == "niche").to_numpy()
    spread = np.log(np.stack(means) + 0.05).std(axis=0)
    assert spread[niche_genes].mean() > spread[(adata.var["role"] == "housekeeping").to_numpy()].mean()


@pytest.mark.data
def test_real_sections_of_a_file(data_dir):
    real = ad.read_h5ad(data_dir / "spatial" / "starmap_mpfc_3sections.h5ad")
    before = real.copy()
    adata = simulated_tissue(
        coordinates=real.obsm["spatial"], labels=real.obs, technologies=("A", "B"), panel_overlap=0.2
    )
    assert (adata.obs["section"].astype(str) == real.obs["section"].astype(str)).all()
    assert adata.obs_names.equals(real.obs_names)
    pd.testing.assert_frame_equal(real.obs, before.obs)
    np.testing.assert_array_equal(real.obsm["spatial"], before.obsm["spatial"])


def test_sections_share_out_the_cells():
    for n_cells in (7, 100, 101):
        sizes = simulated_tissue(n_cells, n_sections=3, n_genes=10).obs["section"].value_counts().tolist()
        assert sum(sizes) == n_cells
        assert max(abs(a - b) for a, b in pairwise(sizes)) <= 1
