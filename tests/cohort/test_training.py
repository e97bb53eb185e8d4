"""ST-JEPA on a collection: the same weights and embeddings as on one AnnData object of the same sections."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main
from scjepa.cohort.shard import JoinedSections

SMALL = {
    "preset": "demo",
    "tokens": {"n_neighbors": 4},
    "encoder": {"width": 16, "n_layers": 1, "n_heads": 2},
    "training": {"batch_size": 32, "max_steps": 4},
}
QUIET = {"accelerator": "cpu", "progress_bar": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return files of three sections of two technologies, whose genes differ and lie in different orders."""
    folder = tmp_path_factory.mktemp("files")
    tissue = scjepa.datasets.simulated_tissue(n_cells=420, n_genes=60, n_sections=3, seed=0)
    tissue.obs["technology"] = np.where(tissue.obs["section"] == tissue.obs["section"].iloc[0], "A", "B")
    rng = np.random.default_rng(0)
    paths = []
    for number, section in enumerate(sorted(set(tissue.obs["section"]))):
        genes = rng.permutation(60)[: 50 if number == 0 else 60]
        one = ad.AnnData(
            tissue.X[(tissue.obs["section"] == section).to_numpy()][:, genes],
            obs=tissue.obs.loc[tissue.obs["section"] == section, ["technology"]].copy(),
            var=tissue.var.iloc[genes][[]].copy(),
            obsm={"spatial": tissue.obsm["spatial"][(tissue.obs["section"] == section).to_numpy()]},
        )
        one.write_h5ad(folder / f"{section}.h5ad")
        paths.append(folder / f"{section}.h5ad")
    return paths


@pytest.fixture
def collection(files, tmp_path):
    made = scjepa.Collection(files, folder=tmp_path / "prepared", n_neighbors=6)
    made.prepare()
    return made


@pytest.fixture
def together(files):
    """Return one AnnData object of the same sections, in the same order."""
    joined = scjepa.concat({path.stem: ad.read_h5ad(path) for path in files})
    spatial_graph(joined, n_neighs=6, library_key="section")
    where = {"technology_key": "technology", "library_key": "section", "panel_key": "panel"}
    scjepa.STJEPA.setup_anndata(joined, **where)
    return joined


def assert_same_weights(one, other) -> None:
    for (name, left), (_, right) in zip(one._weights().items(), other._weights().items(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("batches", ["mixed", "section"])
def test_training_gives_the_same_weights_as_on_one_object(collection, together, batches):
    training = {**SMALL["training"], "batches": batches}
    models = [scjepa.STJEPA(data, **{**SMALL, "training": training}) for data in (collection, together)]
    assert_same_weights(*models)
    for model in models:
        model.train(**QUIET)
    assert_same_weights(*models)
    assert models[0].technologies == ("A", "B")
    for scale in ("cell", "neighborhood"):
        one, other = (model.get_latent_representation(scale=scale) for model in models)
        np.testing.assert_array_equal(one, other)


def test_a_collection_of_one_panel_without_technologies_is_one_technology(collection, files, tmp_path):
    same = []
    for path in files[1:]:
        adata = ad.read_h5ad(path)
        adata = adata[:, sorted(adata.var_names)].copy()
        del adata.obs["technology"]
        adata.write_h5ad(tmp_path / path.name)
        same.append(tmp_path / path.name)
    plain = scjepa.Collection(same, folder=tmp_path / "plain")
    plain.prepare()
    model = scjepa.STJEPA(plain, **SMALL)
    assert len(model.technologies) == 1
    assert "technology" not in plain.adata.obs


def test_the_data_of_a_collection_are_annotated_data_whose_counts_stay_on_disk(collection, together):
    adata = collection.adata
    assert adata is collection.adata
    assert isinstance(adata, JoinedSections)
    assert adata.shape == together.shape
    assert list(adata.obs["section"]) == list(together.obs["section"])
    np.testing.assert_array_equal(adata.obsm["spatial"], together.obsm["spatial"])
    counts = adata.X[100:300].compute().toarray()
    np.testing.assert_array_equal(counts, together[100:300, adata.var_names].X.toarray())
    assert (adata.obsp["spatial_connectivities"] != together.obsp["spatial_connectivities"]).nnz == 0
    assert adata.obs_names[0].startswith(f"{collection[0].name}/")
    assert not isinstance(adata[:50], JoinedSections)
    assert not isinstance(adata[:50].copy(), JoinedSections)


def test_tables_are_made_once_and_taken_from_the_folder(collection, monkeypatch):
    scjepa.STJEPA(collection, **SMALL).train(max_steps=1, **QUIET)
    files = {path: path.stat().st_mtime_ns for path in (collection.folder / "tables").iterdir()}
    assert len(files) == 2
    again = scjepa.Collection.open(collection.folder)
    monkeypatch.setattr("scjepa.stjepa.data.build_token_table", pytest.fail)
    monkeypatch.setattr("scjepa.stjepa.data.build_neighbor_table", pytest.fail)
    model = scjepa.STJEPA(again, **SMALL)
    data = model._own_tables()
    assert isinstance(data.tokens.genes, np.memmap)
    assert isinstance(data.neighbors.index, np.memmap)
    assert {path: path.stat().st_mtime_ns for path in (collection.folder / "tables").iterdir()} == files


def test_other_sections_have_other_tables(collection, files):
    scjepa.STJEPA(collection, **SMALL)._own_tables()
    fewer = scjepa.Collection(files[:2], folder=collection.folder, n_neighbors=6)
    fewer.prepare()
    assert scjepa.STJEPA(fewer, **SMALL)._own_tables().tokens.n_cells == fewer.n_cells


def test_embedding_to_a_file_is_resumed_and_is_that_in_memory(collection, tmp_path, monkeypatch):
    from scjepa.models import embed

    monkeypatch.setattr(embed, "CHUNK", 100)
    model = scjepa.STJEPA(collection, **SMALL)
    model.train(**QUIET)
    whole = model.get_latent_representation()
    batches, seen = embed.batches, []

    def stopped(source, cells, *others):
        seen.append(cells[0])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return batches(source, cells, *others)

    monkeypatch.setattr(embed, "batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.get_latent_representation(out=tmp_path / "latent.npy")
    assert (tmp_path / "latent.npy.part").exists()
    found = model.get_latent_representation(out=tmp_path / "latent.npy")
    assert seen == [0, 100, 200, 200, 300, 400]
    np.testing.assert_array_equal(found, whole)


def test_training_is_resumed_exactly(collection, tmp_path):
    stopped = scjepa.STJEPA(collection, **SMALL)
    stopped.train(max_steps=4, checkpoint_dir=tmp_path, checkpoint_every=3, **QUIET)  # the last state is of step 3
    again = scjepa.Collection.open(collection.folder)  # as another process does
    resumed = scjepa.STJEPA(again, **SMALL)
    resumed.train(max_steps=4, ckpt_path=tmp_path / "last.ckpt", **QUIET)
    straight = scjepa.STJEPA(collection, **SMALL)
    straight.train(max_steps=4, **QUIET)
    assert_same_weights(resumed, straight)


def test_a_saved_model_is_loaded_on_a_collection_or_on_annotated_data(collection, together, tmp_path):
    model = scjepa.STJEPA(collection, **SMALL)
    model.train(**QUIET)
    expected = model.get_latent_representation()
    model.save(tmp_path / "model")
    for data in (scjepa.Collection.open(collection.folder), together):
        loaded = scjepa.STJEPA.load(tmp_path / "model", data)
        np.testing.assert_array_equal(loaded.get_latent_representation(), expected)
        assert loaded.vocabulary.names == model.vocabulary.names
    of_object = scjepa.STJEPA(together, **SMALL)
    np.testing.assert_array_equal(
        of_object.get_latent_representation(collection), of_object.get_latent_representation()
    )


def test_a_model_is_taken_to_a_collection_as_to_other_data(collection, together):
    reference = scjepa.STJEPA(together, **SMALL)
    query = scjepa.STJEPA.load_query_data(collection, reference)
    np.testing.assert_array_equal(query.get_latent_representation(), reference.get_latent_representation())


def test_collections_that_are_not_prepared_or_that_cells_alone_cannot_use_are_refused(collection, files, tmp_path):
    with pytest.raises(ValueError, match="not prepared yet"):
        scjepa.STJEPA(scjepa.Collection(files, folder=tmp_path / "other"))
    with pytest.raises(TypeError, match="Expected an AnnData object, found Collection"):
        scjepa.CellJEPA(collection)


TINY = [
    *(
        "--preset",
        "demo",
        "--n-neighbors",
        "4",
        "--steps",
        "2",
        "--batch-size",
        "16",
        "--accelerator",
        "cpu",
        "--quiet",
    ),
    *("--set", "encoder.width=16", "--set", "encoder.n_layers=1", "--set", "encoder.n_heads=2"),
]


def test_the_command_line_fits_and_embeds_a_prepared_folder(collection, tmp_path, capsys):
    folder, out = str(collection.folder), tmp_path / "cells.npy"
    assert main(["fit", folder, "--out", str(tmp_path / "model"), *TINY]) == 0
    assert main(["embed", str(tmp_path / "model"), folder, "--out", str(out), "--scale", "cell", "--quiet"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "model"), str(out)]
    model = scjepa.STJEPA.load(tmp_path / "model", collection)
    np.testing.assert_array_equal(np.load(out), model.get_latent_representation(scale="cell"))


def test_embeddings_go_back_into_copies_of_the_files_or_into_these(collection, files, tmp_path, capsys):
    model = scjepa.STJEPA(collection, **SMALL)
    model.train(**QUIET)
    model.save(tmp_path / "model")
    cells, both = (model.get_latent_representation(scale=scale) for scale in ("cell", "neighborhood"))
    np.save(tmp_path / "cells.npy", cells)

    def assert_added(paths):
        for section, path in zip(collection, paths, strict=True):
            found, before = ad.read_h5ad(path), ad.read_h5ad(section.facts.path)
            rows = slice(section.start, section.stop)
            np.testing.assert_array_equal(found.obsm["X_stjepa_cell"], cells[rows])
            np.testing.assert_array_equal(found.obsm["X_stjepa"], both[rows])
            assert list(found.obs.columns) == list(before.obs.columns)
            assert (found.X != before.X).nnz == 0

    arrays = {"X_stjepa_cell": tmp_path / "cells.npy", "X_stjepa": both}
    assert_added(collection.write_back(tmp_path / "out", key=None, obsm=arrays, n_jobs=2))
    with pytest.raises(ValueError, match=rf"obsm\['X'\] must have the shape \({collection.n_cells}, n_dims\).*found"):
        collection.write_back(tmp_path / "out", key=None, obsm={"X": cells[:5]}, overwrite=True)
    with pytest.raises(ValueError, match="nothing to write"):
        collection.write_back(tmp_path / "out", key=None, overwrite=True)

    command = ["embed", str(tmp_path / "model"), str(collection.folder), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "copies")]) == 0
    written = capsys.readouterr().out.split()
    assert written == [str(tmp_path / "copies" / path.name) for path in files]
    assert_added(written)
    assert not list((collection.folder / "latent").iterdir())
    assert main([*command, "--out", str(tmp_path / "zarr"), "--format", "zarr", "--scale", "cell"]) == 0
    assert set(ad.read_zarr(capsys.readouterr().out.split()[0]).obsm) == {"spatial", "X_stjepa_cell"}
    kept = [path.read_bytes() for path in files]
    try:
        assert main([*command, "--overwrite"]) == 0
        assert_added(files)
        assert collection.prepare().kept == tuple(one.name for one in collection)  # its shards are still of them
    finally:
        for path, content in zip(files, kept, strict=True):
            path.write_bytes(content)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "FOLDER", "--out", "x", "--library-key", "slide"], "--library-key does not go with"),
        (["fit", "FOLDER", "--out", "x", "--model", "celljepa"], "of cells in tissue"),
        (["embed", "MODEL", "FOLDER", "--out", "cells.csv"], "one .npy file, or to a folder"),
        (["embed", "MODEL", "FOLDER"], "a folder or a .npy file with --out"),
        (["embed", "MODEL", "FOLDER", "--out", "copies", "--format", "csv"], "h5ad or zarr"),
    ],
)
def test_what_a_prepared_folder_cannot_be_used_for_is_said(collection, tmp_path, command, message, capsys):
    places = {"FOLDER": str(collection.folder), "MODEL": "mouse-brain-small"}
    assert main([places.get(word, word) for word in command]) == 2
    assert message in capsys.readouterr().err
