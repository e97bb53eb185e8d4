"""Names that users give are values: whatever they are, what scjepa writes can be kept in h5ad and zarr."""

from __future__ import annotations

import warnings

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scjepa
from scjepa._core.keys import as_key, key_in
from scjepa._core.squidpy import spatial_graph

ODD = ["a/b", "", "_index", ".", "ünï/日本", "x" * 300, "__x", " ", "l1\nl2", "a\\b"]


@pytest.mark.parametrize("name", ODD)
def test_names_that_cannot_be_keys_become_some(name):
    key = as_key(name)
    assert key != name
    assert as_key(key) == key
    assert key_in([key], name) == key
    assert key_in([name], name) == name  # a table of the user's own, in memory
    assert key_in(["other"], name) is None


@pytest.mark.parametrize("name", ["V1", "10x Visium v2", "L2/3".replace("/", "-"), "ünïcode", "0", "nan", "T&B: (x)"])
def test_names_that_can_be_keys_are(name):
    assert as_key(name) == name


def test_keys_of_different_names_differ():
    assert len({as_key(name) for name in [*ODD, "a_b", "x" * 301, "a//b"]}) == len(ODD) + 3


def section(seed, n=40, **obs):
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(2.0, (n, 8)).astype(np.float32))
    adata = ad.AnnData(counts, obs=pd.DataFrame(obs, index=[f"{seed}-{i}" for i in range(n)]))
    adata.var_names = [f"g{i}" for i in range(8)]
    adata.obsm["spatial"] = rng.random((n, 2))
    spatial_graph(adata, n_neighs=4)
    return adata


def round_trip(adata, folder, form):
    path = folder / f"a.{form}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "h5ad":
            adata.write_h5ad(path)
            return ad.read_h5ad(path)
        adata.write_zarr(path)
        return ad.read_zarr(path)


@pytest.mark.filterwarnings("ignore:.*a text that counts as one of its own")
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_what_is_written_is_kept_whatever_technologies_and_niches_are_called(tmp_path, form):
    names = [*ODD, "7"]
    types = np.array([*ODD, 7], dtype=object)
    parts = {name: section(i, 22, cell_type=types[np.arange(22) % 11]) for i, name in enumerate([*ODD, 7])}
    parts["a/b"] = parts["a/b"][:, :6].copy()
    both = scjepa.concat(parts)
    both.obs["niche"] = pd.Categorical(np.array(names, dtype=object)[np.arange(both.n_obs) % 11])
    markers = scjepa.tl.niche_markers(both)
    against = scjepa.tl.niche_markers(both, reference="", key_added="against")
    assert set(markers["niche"]) == {*names}
    assert set(against["niche"]) == {*names} - {""}
    interactions = scjepa.tl.niche_interactions(both, n_permutations=5)
    assert set(interactions.counts.index) == {*names}
    assert set(scjepa.tl.niche_composition(both).counts.columns) == {*names}
    back = round_trip(both, tmp_path, form)
    assert set(back.obs["technology"]) == {*names}

    # What was written is found again.
    scjepa.STJEPA.setup_anndata(back, technology_key="technology", library_key="section", panel_key="panel")
    small = {"tokens": {"n_tokens": 4, "n_neighbors": 4}, "encoder": {"width": 16, "n_layers": 1, "n_heads": 1}}
    model = scjepa.STJEPA(back, preset="demo", **small)
    measured = dict(zip(model.panels.technologies, model.panels.measured.sum(axis=1), strict=True))
    assert measured == {**dict.fromkeys(names, 8), "a/b": 6}
    assert scjepa.concat([back]).varm["panel"].sum().sum() == 10 * 8 + 6
    scjepa.pl.interactions(back, show=False)
    scjepa.pl.markers(back, show=False)
    scjepa.pl.composition(back, show=False)
    plt.close("all")
    model.save(tmp_path / "model")
    assert scjepa.STJEPA.load(tmp_path / "model", back).technologies == model.technologies


def test_a_niche_that_is_compared_with_another_alone_has_its_name():
    adata = section(0)
    adata.obs["niche"] = ["L2/3", "L4"] * 20
    assert set(scjepa.tl.niche_markers(adata, reference="L4")["niche"]) == {"L2/3"}


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_simulated_technologies_may_be_called_anything(tmp_path, form):
    adata = scjepa.datasets.simulated_tissue(60, n_genes=12, technologies=["10x/Visium", "x" * 300], n_sections=2)
    back = round_trip(adata, tmp_path, form)
    names = {note["name"] for note in back.uns["scjepa_simulation"]["technologies"].values()}
    assert names == {"10x/Visium", "x" * 300}
    assert back.varm["measured"].columns.tolist() == [as_key("10x/Visium"), as_key("x" * 300)]


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_columns_of_text_here_and_numbers_there_are_kept(tmp_path, form):
    mixed = {"cell_type": [1, 2] * 20, "leiden": pd.Categorical([1, 2] * 20), "flag": [True, False] * 20}
    text = {"cell_type": "T", "leiden": pd.Categorical(["a", "b"] * 20), "flag": "no"}
    both = scjepa.concat([section(0, **mixed), section(1, **text)])
    back = round_trip(both, tmp_path, form)
    assert sorted(back.obs["cell_type"].unique()) == ["1", "2", "T"]
    assert sorted(back.obs["leiden"].unique()) == ["1", "2", "a", "b"]
    assert sorted(back.obs["flag"].unique()) == ["False", "True", "no"]


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_notes_of_options_that_are_numpys_are_kept(tmp_path, form):
    adata = section(0)
    adata.obsm["X_stjepa"] = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    scjepa.tl.aggregate(adata, n_hops=np.int64(2), concatenate=np.bool_(True), key_added=np.str_("wide"))
    scjepa.tl.niches(adata, "wide", n_niches=np.int64(2), n_neighbors=np.int32(8), random_state=np.uint8(1))
    back = round_trip(adata, tmp_path, form)
    assert back.uns["scjepa"]["wide"]["n_hops"] == 2
    assert back.uns["scjepa"]["niche"]["use_rep"] == "wide"


def test_keys_that_no_file_can_hold_are_refused_by_name():
    adata = section(0)
    adata.obsm["X_stjepa"] = np.ones((40, 4), np.float32)
    with pytest.raises(ValueError, match=r"'wide/2' cannot be a key of adata.obsm.*key_added='wide_2~"):
        scjepa.tl.aggregate(adata, key_added="wide/2")
