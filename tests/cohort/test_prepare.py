from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from importlib import import_module

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cohort import collection as module
from scjepa.cohort.workers import WorkerDiedError, Workers, n_workers
from scjepa.tokens import build_neighbor_table, build_token_table


def test_a_shard_holds_counts_graph_places_and_names(collection, parts):
    assert [one.name for one in collection] == list(parts)
    for section, part in zip(collection, parts.values(), strict=True):
        shard = section.shard()
        assert (shard.counts != part.X).nnz == 0
        assert shard.counts.data.dtype == np.uint8
        assert np.array_equal(shard.coordinates, part.obsm["spatial"])
        assert list(shard.cells) == list(part.obs_names)
        assert section.genes == list(part.var_names)
        whole = part.copy()
        spatial_graph(whole, n_neighs=10)
        assert (shard.edges() != (whole.obsp["spatial_connectivities"] > 0)).nnz == 0


def test_opening_reads_the_list_alone(collection, monkeypatch):
    monkeypatch.setattr(module.Shard, "load", None)
    found = scjepa.Collection.open(collection.folder)
    assert (len(found), found.n_cells, found[1].start) == (3, 780, 260)
    assert found.table().loc["s1", "n_genes"] == 24
    assert "780 cells in 3 sections" in repr(found)


@pytest.mark.filterwarnings("ignore:.*neighbors")
@pytest.mark.parametrize("kind", ["knn", "radius", "delaunay"])
def test_a_graph_that_is_there_is_taken(tmp_path, kind, tissue):
    part = tissue(0, 120)
    spatial_graph(part, kind, **({"radius": 15.0} if kind == "radius" else {"n_neighs": 4} if kind == "knn" else {}))
    found = scjepa.Collection({"one": part}, folder=tmp_path)
    found.prepare()
    graphs = part.obsp["spatial_connectivities"], part.obsp["spatial_distances"]
    assert (found[0].shard().edges() != (graphs[0] != 0)).nnz == 0
    for k in (3, 6, 40):
        wanted = build_neighbor_table(*graphs, part.obsm["spatial"], k) if kind != "knn" or k < 5 else None
        if wanted is not None:
            assert np.array_equal(found[0].shard().neighbors(k).index, wanted.index)
    rebuilt = scjepa.Collection({"one": part}, folder=tmp_path, rebuild_graph=True)
    rebuilt.prepare()
    assert (np.diff(rebuilt[0].shard().edges().indptr) == 10).all()


def test_tables_are_those_of_the_object(collection, parts):
    tokens, neighbors = collection.tables("s1")
    rule = scjepa.tokens.TokenRule()
    wanted = build_token_table(parts["s1"].X, np.arange(24), 24, rule)
    assert np.array_equal(tokens.genes, wanted.genes)
    assert np.array_equal(tokens.values, wanted.values)
    assert neighbors.index.shape == (260, 10)


def test_what_is_there_is_kept_and_what_changed_is_made_anew(files, collection, tmp_path):
    assert collection.prepare().kept == ("s0", "s1", "s2")
    part = ad.read_h5ad(files / "s1.h5ad")
    part[:200].copy().write_h5ad(files / "s1.h5ad")
    shutil.copy(files / "s2.h5ad", tmp_path / "s2.h5ad")
    os.replace(tmp_path / "s2.h5ad", files / "s2.h5ad")  # another time, the same content
    report = collection.prepare()
    assert report.kept == ("s0", "s2")
    assert "file has changed" in report.renewed["s1"]
    assert "s1: the file has changed" in str(report)
    assert collection.n_cells == 720


def test_a_damaged_shard_is_named_and_made_anew(collection):
    whole = collection[2].path.read_bytes()
    broken = bytearray(whole)
    broken[-300] ^= 255
    collection[2].path.write_bytes(bytes(broken))
    with pytest.raises(ValueError, match=r"s2-.*safetensors is damaged.*collection\.prepare"):
        collection.check()
    assert collection.prepare().made == ("s2",)
    collection.check()
    collection[0].path.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"s0-.*is damaged"):
        collection.readout()
    collection[1].path.unlink()
    assert set(collection.prepare().renewed) | set(collection.prepare().made) >= {"s1"}
    collection.check()


def no_counts(part):
    part.X = part.layers.pop("log")


def no_counts_but_a_layer(part):
    part.layers["counts"], part.X = part.X.copy(), part.layers.pop("log")


def negative(part):
    part.X[3, 2] = -1.0


def zeros(part):
    part.X = sparse.csr_matrix(part.shape, dtype=np.float32)


def no_coordinates(part):
    del part.obsm["spatial"]


def nan_coordinates(part):
    part.obsm["spatial"][7] = np.nan


def other_genes(part):
    part.var_names = [f"Other{i}" for i in range(24)]


def one_place(part):
    part.obsm["spatial"][:] = 3.0


def genes_twice(part):
    part.var_names = ["g00"] * 24


def no_section(part):
    part.obs["section"] = pd.Categorical([None] + ["a"] * 259)


def two_technologies(part):
    part.obs["technology"] = ["a", "b"] * 130


FAULTS = {
    no_counts: "fractions.*No layer holds raw counts.*layer='X'",
    no_counts_but_a_layer: "fractions.*layer='counts'",
    negative: "c1-3.*-1.*g02.*not negative",
    zeros: "no counts.*all values of X are 0",
    no_coordinates: r"no coordinates obsm\['spatial'\].*spatial_key",
    nan_coordinates: "c1-7.*finite",
    one_place: r"All 260 cells are at one place, \[3\.0, 3\.0\].*spatial_key",
    other_genes: "none of its 24 genes.*any other panel",
    genes_twice: "'g00' is there twice.*var_names_make_unique",
    no_section: r"1 cells have no value in obs\['section'\].*c1-0",
    two_technologies: "technologies, 'a' and 'b'.*library_key",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_read_is_named_and_the_others_finish(files, parts, tmp_path, fault):
    part = parts["s1"].copy()
    fault(part)
    part.write_h5ad(files / "s1.h5ad")
    found = scjepa.Collection(files, folder=tmp_path / "p")
    with pytest.raises(ValueError, match=f"(?s)s1.h5ad: .*{FAULTS[fault]}.*errors='skip'"):
        found.prepare()
    report = found.prepare(errors="skip")
    assert sorted([*report.made, *report.kept]) == ["s0", "s2"]
    assert list(report.refused) == [str(files / "s1.h5ad")]
    assert len(scjepa.Collection.open(found.folder)) == 2


def damage(path, tissue):
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 2 : chunk.byte_offset + chunk.size] = bytes(chunk.size - 2)
    path.write_bytes(bytes(content))


def in_file(path, tissue, place, change):
    """Change an array of a file as no writer would."""
    tissue(1).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        values, attributes = change(file[place][()]), dict(file[place].attrs)
        del file[place]
        if values is not None:
            file[place] = values
            file[place].attrs.update(attributes)


def far_gene(indices):
    return np.where(np.arange(len(indices)) == 5, 400, indices)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda path, tissue: in_file(path, tissue, "X/indices", far_gene), "count of the gene 400.*there are 24"),
        (lambda path, tissue: in_file(path, tissue, "obsm/spatial", lambda x: x[:200]), "200 rows.*260 cells"),
        (lambda path, tissue: in_file(path, tissue, "X/indptr", lambda x: x[:201]), "size 201 should be 261"),
        (lambda path, tissue: in_file(path, tissue, "X/indptr", lambda x: None), "indptr"),
        (lambda path, tissue: (path.unlink(), path.mkdir()), "no zarr store"),
        (lambda path, tissue: (path.unlink(), path.symlink_to("/nowhere")), "gone"),
        (damage, ""),
        (lambda path, tissue: path.write_bytes(path.read_bytes()[:5000]), ""),
        (lambda path, tissue: path.write_bytes(b""), "not an h5ad file"),
        (lambda path, tissue: path.write_text("cells"), "not an h5ad file"),
        (lambda path, tissue: tissue(0)[:0].copy().write_h5ad(path), "no cells"),
        (lambda path, tissue: tissue(0)[:, :0].copy().write_h5ad(path), "no genes"),
        (lambda path, tissue: tissue(0)[:8].copy().write_h5ad(path), "8 cells, too few for 10.*n_neighbors=7"),
    ],
    ids=[
        "genes",
        "places",
        "rows",
        "part",
        "folder",
        "link",
        "damaged",
        "truncated",
        "nothing",
        "text",
        "no cells",
        "no genes",
        "too small",
    ],
)
def test_a_damaged_or_empty_file_is_named(files, tmp_path, fault, said, tissue):
    fault(files / "s1.h5ad", tissue)
    found = scjepa.Collection(files, folder=tmp_path / "p")
    report = found.prepare(errors="skip")
    assert report.made == ("s0", "s2")
    (why,) = report.refused.values()
    assert str(files / "s1.h5ad") in why
    assert re.search(said, why)


@pytest.mark.parametrize("place", ["X/data", "X/indices", "X/indptr", "obsm/spatial", "obs/_index", "layers/log/data"])
def test_what_a_zarr_store_lost_is_not_read_as_zeros(parts, tmp_path, place):
    for name, part in parts.items():
        part.write_zarr(tmp_path / "study" / f"{name}.zarr")
    array = tmp_path / "study" / "s1.zarr" / place
    chunks = [
        path for path in array.rglob("*") if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs")
    ]
    chunks[0].unlink()
    found = scjepa.Collection(tmp_path / "study", folder=tmp_path / "p", layer="X")
    report = found.prepare(errors="skip")
    if place.startswith("layers"):  # which nobody asked for
        assert report.made == ("s0", "s1", "s2")
    else:
        assert report.made == ("s0", "s2")
        assert re.search(rf"s1\.zarr.*1 of 1 chunks of '{place}' are gone", *report.refused.values())


def test_a_file_that_may_not_be_read_is_named(files, tmp_path, monkeypatch):
    read = h5py.File

    def refused(path, *arguments):
        if "s1" in str(path):
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments)

    monkeypatch.setattr(h5py, "File", refused)
    report = scjepa.Collection(files, folder=tmp_path / "p").prepare(errors="skip")
    assert report.made == ("s0", "s2")
    assert re.search(r"s1\.h5ad: it may not be read by this user.*chmod", *report.refused.values())


def test_cells_that_are_called_alike_in_several_files_stay_apart(parts, tmp_path):
    alike = {name: part.copy() for name, part in parts.items()}
    for part in alike.values():
        part.obs_names = [f"cell{i}" for i in range(260)]
    for name, part in alike.items():
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    found = scjepa.Collection(tmp_path, folder=tmp_path / "p")
    found.prepare()
    assert found.adata.obs_names.is_unique
    found.niches(n_niches=3, method="kmeans")
    for section, path in zip(found, found.write_back(tmp_path / "out"), strict=True):
        labels = found.labels()[section.start : section.stop]
        assert np.array_equal(ad.read_h5ad(path).obs["niche"].astype(int), labels)


def test_a_file_that_vanishes_during_the_run_is_named(files, tmp_path, monkeypatch):
    plan = module.tasks_of

    def then_remove(*arguments):
        found = plan(*arguments)
        (files / "s1.h5ad").unlink()
        return found

    monkeypatch.setattr(module, "tasks_of", then_remove)
    report = scjepa.Collection(files, folder=tmp_path / "p").prepare(errors="skip")
    assert report.made == ("s0", "s2")
    assert "s1.h5ad" in report.refused[str(files / "s1.h5ad")]


def test_nothing_that_can_be_prepared_is_an_error(files, tmp_path):
    for path in files.iterdir():
        path.write_text("")
    with pytest.raises(ValueError, match=r"No section can be prepared.*s0\.h5ad"):
        scjepa.Collection(files, folder=tmp_path / "p").prepare(errors="skip")


def test_values_that_are_named_are_taken_as_they_are(files, parts, tmp_path):
    part = parts["s1"].copy()
    no_counts(part)
    part.write_h5ad(files / "s1.h5ad")
    found = scjepa.Collection(files / "s1.h5ad", folder=tmp_path / "p", layer="X")
    with pytest.warns(UserWarning, match=r"s1\.h5ad.*not whole numbers"):
        report = found.prepare()
    assert "not whole numbers" in report.warnings["s1"]
    assert np.allclose(found[0].shard().counts.toarray(), part.X.toarray())


# -- where cells come from -----------------------------------------------------------------------------------------


def shards_of(found):
    return {one.name: one.shard().digest() for one in found}


def test_sections_of_one_file_of_zarr_and_of_objects_are_the_same(parts, collection, tmp_path):
    wanted = shards_of(collection)
    for name, part in parts.items():
        part.write_zarr(tmp_path / "zarr" / f"{name}.zarr")
    stored = scjepa.Collection(tmp_path / "zarr", folder=tmp_path / "a")
    stored.prepare()
    assert shards_of(stored) == wanted
    assert stored.prepare().kept == ("s0", "s1", "s2")
    objects = scjepa.Collection(parts, folder=tmp_path / "b")
    objects.prepare()
    assert shards_of(objects) == wanted

    both = ad.concat(parts, label="slide")
    mixed = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    one_file = scjepa.Collection(tmp_path / "mixed.h5ad", folder=tmp_path / "c", library_key="slide")
    one_file.prepare()
    assert sorted(one.name for one in one_file) == ["s0", "s1", "s2"]
    for section in one_file:
        shard = section.shard()
        assert list(shard.cells) == list(mixed.obs_names[shard.rows])
        assert set(shard.cells) == set(parts[section.name].obs_names)
        assert (shard.counts != parts[section.name][list(shard.cells)].X).nnz == 0


def test_counts_of_dask_and_of_an_object_store_are_read_block_by_block(parts, collection, tmp_path):
    import dask.array as da
    import zarr
    from anndata.experimental import read_elem_lazy
    from anndata.io import read_elem

    objects = {}
    for name, part in parts.items():
        part.write_zarr(store := zarr.storage.MemoryStore())
        group = zarr.open_group(store, mode="r")
        rest = {slot: read_elem(group[slot]) for slot in ("obs", "var", "obsm")}
        objects[name] = ad.AnnData(read_elem_lazy(group["X"]), **rest)
    objects["s1"].X = da.from_array(parts["s1"].X.toarray(), chunks=(100, 24))
    found = scjepa.Collection(objects, folder=tmp_path)
    found.prepare()
    assert shards_of(found) == shards_of(collection)
    with pytest.raises(ValueError, match=r"s3://bucket/s0\.zarr is an address.*read_elem_lazy"):
        scjepa.Collection("s3://bucket/s0.zarr", folder=tmp_path)


def test_a_graph_across_sections_is_refused_and_one_within_is_cut(parts, tmp_path):
    both = ad.concat(parts, label="slide", index_unique=None)
    both.obs["slide"] = both.obs["slide"].astype("category")
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    spatial_graph(both, n_neighs=6, library_key="slide")
    both.write_h5ad(tmp_path / "within.h5ad")
    found = scjepa.Collection(tmp_path / "within.h5ad", folder=tmp_path / "a", library_key="slide")
    found.prepare()
    for section in found:
        rows = section.shard().rows
        wanted = both.obsp["spatial_connectivities"][rows][:, rows] > 0
        assert (section.shard().edges() != wanted).nnz == 0
    spatial_graph(both, n_neighs=6)
    both.write_h5ad(tmp_path / "across.h5ad")
    found = scjepa.Collection(tmp_path / "across.h5ad", folder=tmp_path / "b", library_key="slide")
    with pytest.raises(ValueError, match=r"across\.h5ad, section 's.'.*edges.*join different sections"):
        found.prepare()


def test_a_table_of_samples_names_sections_and_technologies(files, tmp_path):
    table = pd.DataFrame({"path": ["s2.h5ad", "s0.h5ad"], "section": ["late", "early"], "technology": ["A", "B"]})
    table.to_csv(files / "samples.csv", index=False)
    found = scjepa.Collection(files / "samples.csv", folder=tmp_path / "p")
    found.prepare()
    assert [(one.name, one.technology) for one in found] == [("late", "A"), ("early", "B")]
    absolute = table.assign(path=[str(files / name) for name in table["path"]])
    assert scjepa.Collection(absolute, folder=tmp_path / "p").prepare().kept == ("late", "early")
    with pytest.raises(KeyError, match=r"no column 'path'.*'file'"):
        scjepa.Collection(table.rename(columns={"path": "file"}), folder=tmp_path)


def test_patterns_lists_and_names_of_files_that_are_called_alike(files, tmp_path):
    assert len(scjepa.Collection(str(files / "s[01].h5ad"), folder=tmp_path / "p")._items) == 2
    (files / "more").mkdir()
    shutil.copy(files / "s0.h5ad", files / "more")
    found = scjepa.Collection([files / "s0.h5ad", files / "more" / "s0.h5ad"], folder=tmp_path / "p")
    found.prepare()
    assert [one.name for one in found] == ["study_s0", "more_s0"]
    with pytest.raises(ValueError, match="twice"):
        scjepa.Collection([files / "s0.h5ad"] * 2, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no file of cells"):
        scjepa.Collection(str(files / "*.nothing"), folder=tmp_path)
    with pytest.raises(TypeError, match="AnnData"):
        scjepa.Collection([3], folder=tmp_path)


def test_panels_may_differ(tmp_path, tissue):
    named = {"whole": tissue(0), "fewer": tissue(1, genes=range(4, 24)), "others": tissue(2, genes=range(18))}
    found = scjepa.Collection(named, folder=tmp_path)
    found.prepare()
    assert list(found.vocabulary.names) == [f"g{i:02d}" for i in range(24)]
    measured = dict(zip(found.panels.technologies, found.panels.measured.sum(axis=1), strict=True))
    assert sorted(measured.values()) == [18, 20, 24]
    tokens, _ = found.tables("fewer")
    assert tokens.n_vocabulary == 24
    assert tokens.genes.min() == 4


def test_options_and_states_that_cannot_be_are_refused(files, tmp_path, collection):
    with pytest.raises(ValueError, match="n_neighbors must be positive"):
        scjepa.Collection(files, folder=tmp_path, n_neighbors=0)
    with pytest.raises(ValueError, match="errors must be"):
        collection.prepare(errors="ignore")
    with pytest.raises(ValueError, match="n_jobs"):
        collection.prepare(n_jobs=0)
    with pytest.raises(ValueError, match="not prepared yet"):
        len(scjepa.Collection(files, folder=tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match=r"no collection\.json"):
        scjepa.Collection.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="opened from its folder"):
        scjepa.Collection.open(collection.folder).prepare()
    with pytest.raises(KeyError, match="'s9'"):
        collection["s9"]
    (collection.folder / "collection.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        scjepa.Collection.open(collection.folder)
    assert n_workers(-1) >= 1


# -- several processes -----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import scjepa
from scjepa.cohort.shard import Shard

save = Shard.save
def die(self, path):
    if path.name.startswith("s1"):
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, path)

Shard.save = die
scjepa.Collection(sys.argv[1], folder=sys.argv[2]).prepare()
"""


def test_a_run_that_was_killed_is_resumed_with_the_same_result(files, collection, tmp_path):
    folder = tmp_path / "p"
    done = subprocess.run([sys.executable, "-c", KILLED, files, folder], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert list((folder / "shards").glob("s1-*.lock"))
    found = scjepa.Collection(files, folder=folder)
    report = found.prepare()
    assert (report.kept, report.made) == (("s0",), ("s1", "s2"))
    assert shards_of(found) == shards_of(collection)
    assert not [path for path in folder.rglob("*") if path.suffix == ".lock" or ".part-" in path.name]


def test_two_runs_share_the_work(files, tmp_path):
    reports = []

    def run():
        reports.append(scjepa.Collection(files, folder=tmp_path / "p").prepare())

    runs = [threading.Thread(target=run) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    made = [name for report in reports for name in report.made]
    assert sorted(made) == ["s0", "s1", "s2"]
    assert all(len(report.made) + len(report.kept) == 3 for report in reports)


DYING = """
import os

def dies_once(path):
    if path.name == "dies" or (path.name == "once" and not path.exists()):
        path.touch()
        os._exit(1)
    return path.name
"""


def test_a_worker_that_dies_takes_no_other_task_with_it(tmp_path, monkeypatch):
    (tmp_path / "dying_worker.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    dies_once = import_module("dying_worker").dies_once
    tasks = [tmp_path / name for name in ("a", "once", "dies", "b")]
    with Workers(2) as workers:
        found = {task.name: result for task, result in workers.each(dies_once, tasks)}
    assert (found["a"], found["b"], found["once"]) == ("a", "b", "once")
    assert isinstance(found["dies"], WorkerDiedError)


def test_several_processes_give_the_same(files, collection, tmp_path):
    found = scjepa.Collection(files, folder=tmp_path / "p")
    assert len(found.prepare(n_jobs=2).made) == 3
    assert shards_of(found) == shards_of(collection)
    assert np.array_equal(found.readout(n_jobs=2), collection.readout())
