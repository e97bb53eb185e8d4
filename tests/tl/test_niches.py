from __future__ import annotations

import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from sklearn.neighbors import NearestNeighbors

import scjepa

WRITTEN = {
    ("obs", "niche"),
    ("uns", "niche_colors"),
    ("uns", "scjepa"),
    ("uns", "scjepa_niche"),
    ("obsp", "scjepa_niche_distances"),
    ("obsp", "scjepa_niche_connectivities"),
}


def _adata(n_niches: int = 4, n_cells: int = 40, seed: int = 0) -> ad.AnnData:
    """Return cells of planted niches in two sections that differ by a shift."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(n_niches), n_cells))
    section = rng.integers(2, size=len(truth))
    embedding = 20 * np.eye(n_niches)[truth] + rng.normal(size=(len(truth), n_niches)) + 500 * section[:, None]
    adata = ad.AnnData(
        rng.poisson(1.0, size=(len(truth), 6)).astype(np.float32),
        obs={"truth": truth.astype(str), "section": section.astype(str)},
        obsm={"X_stjepa": embedding.astype(np.float32), "X_umap": rng.normal(size=(len(truth), 2))},
        layers={"counts": rng.poisson(1.0, size=(len(truth), 6))},
    )
    for key in ("truth", "section"):
        adata.obs[key] = adata.obs[key].astype("category")
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    sc.pp.neighbors(adata, use_rep="X_umap")
    return adata


def _only_section(adata: ad.AnnData, section: str = "0") -> ad.AnnData:
    return adata[adata.obs["section"] == section].copy()


def test_planted_niches_are_found_and_described():
    adata = _only_section(_adata())
    assert scjepa.tl.niches(adata, n_niches=4) is None
    niche = adata.obs["niche"]
    assert list(niche.cat.categories) == ["0", "1", "2", "3"]
    assert scjepa.metrics.ari(adata.obs["truth"], niche) == 1
    sizes = niche.value_counts()[["0", "1", "2", "3"]].to_numpy()
    assert (np.diff(sizes) <= 0).all()
    notes = adata.uns["scjepa"]["niche"]
    assert notes["use_rep"] == "X_stjepa"
    assert notes["n_niches"] == 4
    assert notes["n_neighbors"] == 15
    assert notes["random_state"] == 0
    assert notes["resolution"] > 0
    assert len(set(adata.uns["niche_colors"])) == 4


def test_nothing_of_the_users_is_touched(snapshot):
    adata = _adata()
    before = snapshot(adata)
    scjepa.tl.niches(adata)
    after = snapshot(adata)
    assert set(after) - set(before) == WRITTEN
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("options", [{"resolution": 0.7}, {"n_niches": 9}])
def test_niches_repeat_and_do_not_depend_on_the_order_of_cells(options):
    adata = _adata()
    again = adata.copy()
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    for each in (adata, again, shuffled):
        scjepa.tl.niches(each, **options)
    assert (adata.obs["niche"] == again.obs["niche"]).all()
    assert (adata.obs["niche"] == shuffled.obs["niche"][adata.obs_names]).all()
    assert adata.uns["niche_colors"] == shuffled.uns["niche_colors"]


def test_more_resolution_gives_more_niches():
    adata = _only_section(_adata(n_cells=100))
    found = []
    for resolution in (0.5, 3.0, 10.0):
        scjepa.tl.niches(adata, resolution=resolution)
        found.append(adata.uns["scjepa"]["niche"]["n_niches"])
    assert found[0] < found[1] < found[2]


def test_standardizing_by_section_brings_sections_together():
    adata = _adata(n_cells=80)
    scjepa.tl.niches(adata, n_niches=8, key_added="plain")  # each niche once in each section
    scjepa.tl.standardize(adata, library_key="section")
    scjepa.tl.niches(adata, "X_stjepa_standardized", n_niches=4, key_added="joint")
    assert scjepa.metrics.ari(adata.obs["truth"], adata.obs["joint"]) == 1
    assert scjepa.metrics.ari(adata.obs["truth"], adata.obs["plain"]) < 0.9
    assert adata.uns["scjepa"]["joint"]["use_rep"] == "X_stjepa_standardized"


def test_scanpy_takes_the_graph():
    adata = _only_section(_adata())
    scjepa.tl.niches(adata)
    sc.tl.leiden(
        adata, neighbors_key="scjepa_niche", flavor="igraph", n_iterations=2, directed=False, key_added="scanpy"
    )
    assert scjepa.metrics.ari(adata.obs["scanpy"], adata.obs["niche"]) > 0.9


def test_a_number_out_of_reach_is_told():
    adata = _only_section(_adata())  # four blobs far apart: never fewer than four niches
    with pytest.warns(UserWarning, match="No resolution gave 2 niches; the nearest, 4 niches"):
        scjepa.tl.niches(adata, n_niches=2)
    assert adata.obs["niche"].nunique() == 4


def test_a_number_in_reach_gives_no_warning():
    adata = _only_section(_adata())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scjepa.tl.niches(adata, n_niches=6)
    assert adata.obs["niche"].nunique() == 6


def test_the_users_column_is_refused_and_ours_is_replaced():
    adata = _adata()
    adata.obs["niche"] = "drawn by hand"
    with pytest.raises(ValueError, match=r"adata.obs already has 'niche'.*key_added"):
        scjepa.tl.niches(adata)
    assert (adata.obs["niche"] == "drawn by hand").all()
    scjepa.tl.niches(adata, key_added="found", resolution=0.2)
    scjepa.tl.niches(adata, key_added="found", resolution=3.0)
    assert adata.uns["scjepa"]["found"]["resolution"] == 3.0


def test_niches_renamed_by_the_user_are_not_replaced():
    adata = _only_section(_adata())
    scjepa.tl.niches(adata, n_niches=4)
    adata.obs["niche"] = adata.obs["niche"].cat.rename_categories({"0": "white matter"})
    with pytest.raises(ValueError, match="renamed"):
        scjepa.tl.niches(adata)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"use_rep": "X_other"}, KeyError, r"adata.obsm\['X_other'\] = model.get_latent_representation"),
        ({"n_niches": 0}, ValueError, "between 1 and the number of cells"),
        ({"n_niches": 1000}, ValueError, r"number of cells \(160\)"),
        ({"resolution": -1.0}, ValueError, "resolution must be positive"),
        ({"n_neighbors": 1}, ValueError, "n_neighbors"),
    ],
)
def test_bad_options_are_told_and_nothing_is_written(options, error, message, snapshot):
    adata = _adata()
    before = snapshot(adata)
    with pytest.raises(error, match=message):
        scjepa.tl.niches(adata, **options)
    assert snapshot(adata) == before


def test_cells_with_nan_are_named():
    adata = _adata()
    adata.obsm["X_stjepa"][[5, 9], 0] = np.nan
    with pytest.raises(ValueError, match=r"2 of 160 cells have NaN.*'cell5' \(row 5\)"):
        scjepa.tl.niches(adata)


@pytest.mark.parametrize("n_cells", [1, 2, 3, 10])
def test_fewer_cells_than_neighbors(n_cells):
    adata = _adata()[:n_cells].copy()
    scjepa.tl.niches(adata, n_neighbors=15)
    assert adata.obs["niche"].notna().all()
    assert adata.uns["scjepa"]["niche"]["n_neighbors"] == n_cells


def test_cells_without_counts_stay_together():
    adata = _only_section(_adata())
    adata.obsm["X_stjepa"][:30] = 0
    scjepa.tl.niches(adata)
    assert adata.obs["niche"].iloc[:30].nunique() == 1


def test_a_view_is_taken_and_its_parent_left_alone():
    adata = _adata()
    view = adata[:100]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ad.ImplicitModificationWarning)
        scjepa.tl.niches(view)
    assert view.obs["niche"].notna().all()
    assert "niche" not in adata.obs
    assert "scjepa" not in adata.uns


def test_results_are_kept_by_h5ad(tmp_path):
    adata = _adata()
    scjepa.tl.niches(adata)
    adata.write(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (back.obs["niche"] == adata.obs["niche"]).all()
    scjepa.tl.niches(back, resolution=0.5)  # the record survives, so the column is known as ours
    assert back.uns["scjepa"]["niche"]["resolution"] == 0.5


def test_importing_tools_and_metrics_is_light():
    code = (
        "import sys, scjepa.metrics, scjepa.tl; heavy = {'scanpy', 'squidpy', 'torch', 'igraph', 'matplotlib', "
        "'sklearn', 'pandas', 'anndata', 'umap', 'scvi'}; print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.data
def test_neighborhood_expression_gives_the_layers_of_visual_cortex(data_dir):
    adata = ad.read_h5ad(data_dir / "spatial" / "starmap_visual_cortex.h5ad")
    values = adata.copy()
    sc.pp.normalize_total(values, target_sum=1e4)
    sc.pp.log1p(values)
    near = NearestNeighbors(n_neighbors=10).fit(adata.obsm["spatial"]).kneighbors_graph()
    mean = (values.X + near @ values.X).toarray() / 11
    adata.obsm["X_mean"] = scjepa.tl.standardize(mean - mean.mean(axis=0), n_comps=50)
    scjepa.tl.niches(adata, "X_mean", n_niches=7)
    assert adata.obs["niche"].nunique() == 7
    assert scjepa.metrics.nmi(adata.obs["region"], adata.obs["niche"]) > 0.4


@pytest.mark.parametrize("wrong", ["8", 2.5, True])
def test_a_number_of_niches_that_is_no_whole_number_is_refused(wrong):
    adata = _only_section(_adata())
    with pytest.raises(TypeError, match="n_niches must be a whole number"):
        scjepa.tl.niches(adata, n_niches=wrong)
    assert "niche" not in adata.obs
    scjepa.tl.niches(adata, n_niches=np.int64(4))


def test_both_flavors_find_clear_niches():
    rng = np.random.default_rng(0)
    places = np.repeat(np.eye(3) * 20, 40, axis=0)
    adata = ad.AnnData(obsm={"X_stjepa": places + rng.normal(size=places.shape)})
    found = {}
    for flavor in ("igraph", "leidenalg"):
        scjepa.tl.niches(adata, n_niches=3, flavor=flavor)
        found[flavor] = adata.obs["niche"].to_numpy()
        assert adata.uns["scjepa"]["niche"]["flavor"] == flavor
    np.testing.assert_array_equal(found["igraph"], found["leidenalg"])
    with pytest.raises(ValueError, match="flavor"):
        scjepa.tl.niches(adata, flavor="louvain")
