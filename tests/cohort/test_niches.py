from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import scjepa
from scjepa.cohort import readout
from scjepa.cohort.results import _file_names

TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}


def fitted(collection):
    (path,) = (collection.folder / "readout").glob("*/fitted.safetensors")
    return scjepa.tl.NicheReadout.load(path)


def assert_same_fit(one, other):
    assert one.align_ == other.align_
    assert np.array_equal(one.n_rings_, other.n_rings_)
    for name in ("weights_", "reliability_", "sizes_"):
        assert np.allclose(getattr(one, name), getattr(other, name), rtol=1e-3)
    one, other = one.components_[0], other.components_[0]
    assert np.allclose(one.correlations_, other.correlations_, rtol=1e-3, atol=1e-5)
    assert np.isclose(one.chance_, other.chance_, rtol=0.03)  # cells at like distances may be dealt out otherwise
    assert (one.n_cells_, one.n_isolated_) == (other.n_cells_, other.n_isolated_)
    assert list(one.feature_names_in_) == list(other.feature_names_in_)
    assert np.allclose(one.loadings_[:, :4], other.loadings_[:, :4], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("align", ["auto", "scale", "covariance", "center", "none"])
def test_the_readout_is_that_of_all_cells_in_one_object(collection, parts, joined, align):
    both = joined(parts)
    scjepa.tl.niche_readout(both, "X", align=align)
    found = collection.readout(align=align)
    assert found.shape == both.obsm["X_stjepa_niche"].shape
    assert_same_fit(fitted(collection), scjepa.tl.niche_readout_of(both))
    assert np.allclose(found, both.obsm["X_stjepa_niche"], **TOLERANCE)


def test_components_are_those_of_all_cells_in_one_object(collection, parts, joined):
    both = joined(parts)
    scjepa.tl.predictive_components(both)
    collection.readout()
    components = fitted(collection).components_[0]
    found = components.transform(both, both.obs["section"])
    assert np.allclose(found, both.obsm["X_predictive"], **TOLERANCE)


@pytest.mark.parametrize("align", ["scale", "covariance", "none"])
def test_panels_may_differ(tmp_path, joined, align, tissue):
    named = {"s0": tissue(0), "s1": tissue(1, genes=range(4, 24)), "s2": tissue(2, genes=range(18))}
    both = joined(named)
    scjepa.tl.niche_readout(both, "X", align=align)
    collection = scjepa.Collection(named, folder=tmp_path)
    collection.prepare()
    assert np.allclose(collection.readout(align=align), both.obsm["X_stjepa_niche"], **TOLERANCE)


def test_control_probes_take_no_part(tmp_path, parts, joined):
    named = {name: part.copy() for name, part in parts.items()}
    for part in named.values():
        part.var_names = ["Blank-1", *part.var_names[1:]]
    both = joined(named)
    scjepa.tl.niche_readout(both, "X")
    collection = scjepa.Collection(named, folder=tmp_path)
    collection.prepare()
    assert np.allclose(collection.readout(), both.obsm["X_stjepa_niche"], **TOLERANCE)
    assert "Blank-1" not in fitted(collection).components_[0].feature_names_in_


def test_axes_of_many_genes_are_iterated_for(collection, monkeypatch, files, tmp_path):
    from scjepa.tl import _moments, sectionwise

    exact = np.array(collection.readout())
    for module in (_moments, sectionwise, readout):
        monkeypatch.setattr(module, "EXACT_FEATURES", 10)
    again = scjepa.Collection(files, folder=tmp_path / "again")
    again.prepare()
    assert again[0].shard().moments.product is None
    assert np.allclose(again.readout(), exact, **TOLERANCE)


def test_niches_are_those_of_all_cells_in_one_object(collection, parts, joined):
    both = joined(parts)
    scjepa.tl.find_niches(both, n_niches=3)
    sizes = collection.niches(n_niches=3)
    labels = collection.labels()
    assert adjusted_rand_score(both.obs["niche"], labels) > 0.95
    assert adjusted_rand_score(both.obs["band"], labels) > 0.5
    assert sizes.to_numpy().sum() == 780
    assert list(sizes.index) == ["s0", "s1", "s2"]
    assert (np.diff(sizes.sum()) <= 0).all()


def test_other_methods_find_the_bands_and_their_clusters_are_kept_for_other_cells(collection, parts):
    bands = np.concatenate([part.obs["band"] for part in parts.values()])
    for method in ("landmarks", "kmeans", "gmm"):
        collection.niches(n_niches=3, method=method, key_added=method)
        assert adjusted_rand_score(bands, collection.labels(method)) > 0.5
        clusters = scjepa.tl.NicheClusters.load(collection.folder / "niches" / f"{method}.safetensors")
        np.testing.assert_array_equal(clusters.predict(collection.readout()), collection.labels(method))
    with pytest.raises(ValueError, match="'kmeans' must know the number of niches"):
        collection.niches(method="kmeans")
    with pytest.raises(ValueError, match="Unknown method 'louvain'"):
        collection.niches(method="louvain")
    with pytest.raises(TypeError, match=r"n_niches.*3\.5"):
        collection.niches(n_niches=3.5)
    with pytest.raises(ValueError, match=r"n_niches.*1000|n_niches.*1,000"):
        collection.niches(n_niches=1000)


@pytest.mark.parametrize("step", ["_score", "_deal", "_rings", "_side_by_side"])
def test_passes_that_were_stopped_are_resumed_with_the_same_result(collection, step, monkeypatch):
    whole = np.array(collection.readout())
    shutil.rmtree(collection.folder / "readout")
    function, seen = getattr(readout, step), []

    def stops(place, options):
        seen.append(place.code)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return function(place, options)

    monkeypatch.setattr(readout, step, stops)
    with pytest.raises(KeyboardInterrupt):
        collection.readout()
    assert np.array_equal(collection.readout(), whole)
    assert seen[:4] == [0, 1, 1, 2]  # the first is not done again
    (folder,) = (collection.folder / "readout").iterdir()
    assert sorted(path.name for path in folder.glob("*.npy")) == ["readout.npy"]


def test_niches_of_sections_that_changed_are_not_given(collection, files):
    collection.niches(n_niches=3)
    ad.read_h5ad(files / "s1.h5ad")[:200].copy().write_h5ad(files / "s1.h5ad")
    collection.prepare()
    with pytest.raises(KeyError, match="Sections changed"):
        collection.labels()
    with pytest.raises(KeyError, match="no niches 'other'"):
        collection.labels("other")


# -- written back ------------------------------------------------------------------------------------------------------


def contents(path):
    """Return all data sets and attributes of an HDF5 file."""
    found = {}

    def add(name, item):
        found[name] = dict(item.attrs) if isinstance(item, h5py.Group) else (item[()], dict(item.attrs))

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def test_only_niches_are_added_and_x_is_not_read(collection, files, tmp_path, monkeypatch, parts):
    collection.niches(n_niches=3)
    monkeypatch.setattr(ad, "read_h5ad", None)
    written = collection.write_back(tmp_path / "out")
    monkeypatch.undo()
    assert [path.name for path in written] == ["s0.h5ad", "s1.h5ad", "s2.h5ad"]
    for number, path in enumerate(written):
        before, after = contents(files / path.name), contents(path)
        new = [name for name in after if name not in before]
        assert {"/".join(name.split("/")[:2]) for name in new} == {
            "obs/niche",
            "obsm/X_stjepa_niche",
            "uns/niche_colors",
            "uns/scjepa",
        }
        for name in before:
            if name != "obs":
                assert repr(before[name]) == repr(after[name])
        adata = ad.read_h5ad(path)
        labels = collection.labels()[collection[number].start : collection[number].stop]
        assert (adata.obs["niche"].astype(int) == labels).all()
        assert list(adata.obs.columns) == ["band", "size", "niche"]
        assert adata.obsm["X_stjepa_niche"].shape == (260, collection.readout().shape[1])
        scjepa.pl.niches(adata, show=False)
    with pytest.raises(FileExistsError, match=r"out/s0\.h5ad exists.*overwrite=True"):
        collection.write_back(tmp_path / "out")
    collection.write_back(tmp_path / "out", overwrite=True)


def test_into_the_files_themselves_and_shards_are_kept(collection, files):
    collection.niches(n_niches=3)
    with pytest.raises(FileExistsError, match=r"itself.*overwrite=True"):
        collection.write_back()
    collection.write_back(overwrite=True)
    assert "niche" in ad.read_h5ad(files / "s2.h5ad").obs
    assert collection.prepare().kept == ("s0", "s1", "s2")
    collection.niches(n_niches=4)
    collection.write_back(overwrite=True)
    assert ad.read_h5ad(files / "s2.h5ad").obs["niche"].cat.categories.size == 4


def test_columns_of_the_users_own_and_other_cells_are_left_alone(collection, files, tmp_path):
    collection.niches(n_niches=3, key_added="band")
    with pytest.raises(FileExistsError, match=r"s0\.h5ad has a obs\['band'\] that scjepa did not write"):
        collection.write_back(tmp_path / "out", key="band")
    collection.niches(n_niches=3)
    part = ad.read_h5ad(files / "s1.h5ad")
    part[::-1].copy().write_h5ad(files / "s1.h5ad")
    with pytest.raises(ValueError, match=r"s1\.h5ad has other cells"):
        collection.write_back(tmp_path / "out")
    (files / "s1.h5ad").unlink()
    with pytest.raises(ValueError, match=r"s1\.h5ad is gone"):
        collection.write_back(tmp_path / "out", overwrite=True)


def test_zarr_other_formats_and_sections_that_were_left_out(parts, tmp_path):
    both = ad.concat({name: parts[name] for name in ("s0", "s1")}, label="slide")
    both.obs["slide"] = np.where(np.arange(520) % 260 < 5, "few", both.obs["slide"].astype(str))
    both = both[np.random.default_rng(0).permutation(520)].copy()
    both.write_zarr(tmp_path / "both.zarr")
    parts["s2"].write_h5ad(tmp_path / "s2.h5ad")
    sources = [tmp_path / "both.zarr", tmp_path / "s2.h5ad"]
    collection = scjepa.Collection(sources, folder=tmp_path / "p", library_key="slide")
    report = collection.prepare(errors="skip")
    assert sorted(report.made) == ["s0", "s1"]
    told = " ".join(report.refused.values())
    assert "section 'few': The section has 10 cells" in told
    assert "s2.h5ad: adata.obs['slide'] does not exist" in told
    assert collection.n_cells == 510
    collection.niches(n_niches=3)
    (written,) = collection.write_back(tmp_path / "out")
    found = ad.read_zarr(written)
    assert found.obs["niche"].notna().sum() == collection.n_cells
    assert np.isfinite(found.obsm["X_stjepa_niche"]).all(axis=1).sum() == collection.n_cells
    (as_h5ad,) = collection.write_back(tmp_path / "h5ad", format="h5ad")
    assert (ad.read_h5ad(as_h5ad).obs["niche"].astype(str) == found.obs["niche"].astype(str)).all()


def test_objects_get_their_niches_in_memory(parts, tmp_path):
    objects = {name: part.copy() for name, part in parts.items()}
    collection = scjepa.Collection(objects, folder=tmp_path)
    collection.prepare()
    collection.niches(n_niches=3)
    assert collection.write_back() == []
    labels = np.concatenate([one.obs["niche"].astype(int) for one in objects.values()])
    assert np.array_equal(labels, collection.labels())
    collection.write_back()
    again = scjepa.Collection.open(tmp_path)
    with pytest.raises(ValueError, match="object in memory"):
        again.write_back()


def test_the_command_line_does_the_same(files, collection, tmp_path, capsys):
    from scjepa.cli import main

    out = tmp_path / "shards"
    assert main(["prepare", str(files), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out)]
    assert main(["niches", str(out), "--n-niches", "3", "--out", str(tmp_path / "results")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in written] == ["s0.h5ad", "s1.h5ad", "s2.h5ad"]
    collection.niches(n_niches=3)
    found = np.concatenate([ad.read_h5ad(path).obs["niche"].astype(int) for path in written])
    assert np.array_equal(found, collection.labels())
    assert main(["niches", str(out), "--n-niches", "3"]) == 2
    assert main(["niches", str(out), "--n-niches", "3", "--map", "a.png", "--out", str(tmp_path)]) == 2
    (files / "s0.h5ad").write_text("")
    assert main(["prepare", str(files), "--out", str(out)]) == 1
    assert "s0.h5ad" in capsys.readouterr().err
    assert main(["prepare", str(files), "--out", str(out), "--errors", "skip"]) == 0
    assert "1 refused" in capsys.readouterr().err
    assert main(["prepare", str(files)]) == 2


def test_real_sections(data_dir, tmp_path):
    """Three slices of STARmap in one file: the same as in memory."""
    path = data_dir / "spatial" / "starmap_mpfc_3sections.h5ad"
    adata = ad.read_h5ad(path)
    column = next(name for name in ("section", "slice", "library_id", "sample", "batch") if name in adata.obs)
    collection = scjepa.Collection(path, folder=tmp_path, library_key=column)
    collection.prepare()
    from scjepa._core.squidpy import spatial_graph

    adata.obs[column] = adata.obs[column].astype(str).astype("category")
    spatial_graph(adata, n_neighs=10, library_key=column)
    scjepa.tl.niche_readout(adata, "X", library_key=column)
    found = collection.readout()
    for section in collection:
        rows = section.shard().rows
        wanted = adata.obsm["X_stjepa_niche"][rows]
        assert np.corrcoef(found[section.start : section.stop].ravel(), wanted.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("sources", "form"),
    [
        (["/p1/run/s.h5ad", "/p2/run/s.h5ad", "/p3/other/s.h5ad"], None),
        (["/d/s.h5ad", "/d/s.zarr"], "h5ad"),
        (["/d/s.h5ad", "/e/s.zarr"], "zarr"),
    ],
)
def test_no_copy_takes_the_name_of_another(sources, form):
    names = _file_names(sources, form)
    assert list(names) == sources
    assert len(set(names.values())) == len(sources)


def test_what_is_the_users_in_an_object_is_refused_before_files_are_written(parts, tmp_path):
    names = list(parts)
    parts[names[0]].write_h5ad(tmp_path / "a.h5ad")
    other = parts[names[1]].copy()
    other.obs["niche"] = "mine"
    collection = scjepa.Collection({"a": tmp_path / "a.h5ad", "m": other}, folder=tmp_path / "prepared")
    collection.prepare()
    collection.niches(n_niches=2)
    with pytest.raises(ValueError, match="niche"):
        collection.write_back(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
