from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main

CPU = ["--accelerator", "cpu", "--quiet"]


def python_embedding(data, model, **how) -> np.ndarray:
    """Return the embedding of ``a.h5ad`` as a user of Python gets it."""
    adata = ad.read_h5ad(data / "a.h5ad")
    adata.obs["section"], adata.obs["technology"] = "a", "a"
    adata.obs = adata.obs.astype("category")
    spatial_graph(adata, n_neighs=5, library_key="section")
    return scjepa.STJEPA.load(model, adata, accelerator="cpu").get_latent_representation(**how)


def test_copies_hold_the_embedding_that_python_gives(data, model, embedded):
    assert sorted(path.name for path in embedded.iterdir()) == ["a.h5ad", "b.zarr"]
    adata, before = ad.read_h5ad(embedded / "a.h5ad"), ad.read_h5ad(data / "a.h5ad")
    np.testing.assert_array_equal(adata.obsm["X_stjepa"], python_embedding(data, model))
    assert adata.obsm["X_stjepa"].dtype == np.float32
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_cell"], python_embedding(data, model, scale="cell"))
    assert sorted(adata.obsm) == ["X_stjepa", "X_stjepa_cell", "spatial"]
    assert ad.read_zarr(embedded / "b.zarr").obsm["X_stjepa"].shape == (80, 32)
    assert "X_stjepa" not in before.obsm


def test_the_graph_that_was_built_is_written_and_one_that_is_there_stays(data, model, embedded, tmp_path):
    adata = ad.read_h5ad(embedded / "a.h5ad")
    assert set(np.diff(adata.obsp["spatial_connectivities"].tocsr().indptr)) >= {5}
    assert adata.uns["spatial_neighbors"]["connectivities_key"] == "spatial_connectivities"
    assert "spatial_distances" in adata.obsp
    mine = ad.read_h5ad(data / "a.h5ad")
    spatial_graph(mine, n_neighs=7)
    mine.write_h5ad(tmp_path / "mine.h5ad")
    words = ["embed", str(model), str(tmp_path / "mine.h5ad"), "--rebuild-graph"]
    assert main([*words, "--out", str(tmp_path / "o.h5ad"), *CPU]) == 0
    kept = ad.read_h5ad(tmp_path / "o.h5ad").obsp["spatial_connectivities"]
    assert (kept != mine.obsp["spatial_connectivities"]).nnz == 0


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_embeddings_alone(data, model, tmp_path, suffix, capsys):
    out = tmp_path / f"cells{suffix}"
    assert main(["embed", str(model), str(data / "a.h5ad"), "--out", str(out), "--scale", "cell", *CPU]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    expected = python_embedding(data, model, scale="cell")
    if suffix == ".npy":
        np.testing.assert_array_equal(np.load(out), expected)
        return
    table = pd.read_csv(out, index_col="cell") if suffix == ".csv" else pd.read_parquet(out)
    assert table.index[0] == "1-0"
    assert table.columns[0] == "X_stjepa_cell_0"
    np.testing.assert_allclose(table.to_numpy(), expected, rtol=1e-5)


def test_a_folder_of_one_format(data, model, tmp_path):
    files = [str(data / name) for name in ("a.h5ad", "b.zarr", "s.zarr")]
    assert main(["embed", str(model), *files, "--out", str(tmp_path / "o"), "--format", "h5ad", *CPU]) == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.h5ad", "b.h5ad", "s.h5ad"]
    table = ad.read_h5ad(tmp_path / "o" / "s.h5ad")
    assert table.obsm["X_stjepa"].shape == (80, 32)


def test_the_input_is_written_to_only_when_asked(data, model, tmp_path, capsys):
    path = tmp_path / "a.h5ad"
    shutil.copy(data / "a.h5ad", path)
    words = ["embed", str(model), str(path), *CPU]
    assert main(words) == 2
    assert "--out" in capsys.readouterr().err
    assert main([*words, "--out", str(path)]) == 1
    assert "exists" in capsys.readouterr().err
    assert path.read_bytes() == (data / "a.h5ad").read_bytes()
    assert main([*words, "--overwrite"]) == 0
    first = ad.read_h5ad(path).obsm["X_stjepa"]
    assert main([*words, "--out", str(tmp_path / "again.h5ad")]) == 1
    assert "has obsm['X_stjepa'] already" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--key-added", "again"]) == 0
    np.testing.assert_array_equal(ad.read_h5ad(path).obsm["again"], first)
    assert "again_cell" in ad.read_h5ad(path).obsm
    assert main([*words, "--overwrite", "--key-added", "one", "--scale", "cell"]) == 0
    assert "one_cell" not in ad.read_h5ad(path).obsm
    assert main([*words, "--out", str(tmp_path / "e.csv"), "--scale", "both"]) == 2
    assert "holds one embedding" in capsys.readouterr().err


def test_a_spatialdata_store_gets_it_into_its_table(data, model, tmp_path):
    store = tmp_path / "s.zarr"
    shutil.copytree(data / "s.zarr", store)
    image = (store / "images").stat().st_mtime_ns
    assert main(["embed", str(model), str(store), "--overwrite", *CPU]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata = sd.read_zarr(store)
    assert sdata["table"].obsm["X_stjepa"].shape == (80, 32)
    assert list(sdata.images) == ["image"]
    assert (store / "images").stat().st_mtime_ns == image
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_genes_the_model_does_not_know_are_left_out_with_a_warning(model, make_tissue, tmp_path, capsys):
    adata = make_tissue(4)
    adata.var_names = [*adata.var_names[:20], *(f"other{i}" for i in range(10))]
    adata.write_h5ad(tmp_path / "new.h5ad")
    words = ["embed", str(model), str(tmp_path / "new.h5ad"), *CPU]
    assert main([*words, "--out", str(tmp_path / "known.npy")]) == 0
    assert "scjepa: warning: Genes the model does not know are left out. 20 of 30" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "all.npy"), "--genes", "all"]) == 0
    assert "left out" not in capsys.readouterr().err
    known, every = np.load(tmp_path / "known.npy"), np.load(tmp_path / "all.npy")
    assert known.shape == every.shape == (80, 32)
    assert np.abs(known - every).max() > 1e-3
    adata.var_names = [f"other{i}" for i in range(30)]
    adata.write_h5ad(tmp_path / "foreign.h5ad")
    assert main(["embed", str(model), str(tmp_path / "foreign.h5ad"), "--out", str(tmp_path / "f.npy"), *CPU]) == 1
    assert "No gene of adata.var_names ('other0'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*f.npy*"))


def test_columns_of_other_names_can_be_told(data, model, make_tissue, tmp_path):
    adata = make_tissue(1, slice(0, 25))
    adata.layers["raw"], adata.obsm["X_spatial"] = adata.X.copy(), adata.obsm.pop("spatial")
    adata.X = adata.X * 0.5
    adata.obs["mouse"] = "a"
    adata.write_h5ad(tmp_path / "other.h5ad")
    where = ["--layer", "raw", "--spatial-key", "X_spatial", "--library-key", "mouse", "--technology-key", "mouse"]
    words = ["embed", str(model), str(tmp_path / "other.h5ad"), "--out", str(tmp_path / "e.npy"), *where, *CPU]
    assert main(words) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), python_embedding(data, model))


def test_a_model_that_is_none_is_one_line(data, model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "missing", tmp_path / "empty"):
        assert main(["embed", str(name), str(data / "a.h5ad"), "--out", str(tmp_path / "e.npy"), *CPU]) == 1
        assert str(name) in capsys.readouterr().err
    shutil.copytree(model, tmp_path / "broken")
    whole = (tmp_path / "broken" / "weights.safetensors").read_bytes()
    (tmp_path / "broken" / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    assert main(["embed", str(tmp_path / "broken"), str(data / "a.h5ad"), "--out", str(tmp_path / "e.npy"), *CPU]) == 1
    line = capsys.readouterr().err
    assert "damaged or truncated" in line
    assert line.count("\n") == 1


WRITES_SLOWLY = """
import sys, time
from scjepa._core.stored import Additions
from scjepa.cli import main
write = Additions.write
def slowly(self, group):
    write(self, group)
    print("writing", flush=True)
    time.sleep(60)
Additions.write = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_embed_leaves_no_half_file(data, model, tmp_path, signal_number):
    words = ["embed", str(model), str(data / "a.h5ad"), "--out", str(tmp_path / "e.h5ad"), *CPU]
    run = subprocess.Popen([sys.executable, "-c", WRITES_SLOWLY, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout.readline() == "writing\n"
        run.send_signal(signal_number)
        run.communicate(timeout=300)
    finally:
        run.kill()
    left = [path.name for path in tmp_path.iterdir()]
    if signal_number == signal.SIGTERM:
        assert (run.returncode, left) == (143, [])
    else:  # nothing can clean up then; what is left is hidden, and no .h5ad of that name
        assert run.returncode == -9
        (name,) = left
        assert re.match(rf"\.e\.part-\w+-{run.pid}-", name)
    assert main(words) == 0
    assert ad.read_h5ad(tmp_path / "e.h5ad").obsm["X_stjepa"].shape == (80, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["e.h5ad"]


def test_a_killed_npy_goes_on(data, model, tmp_path, monkeypatch):
    from scjepa.models import embed as _output

    def stop(self):
        raise KeyboardInterrupt

    out = tmp_path / "e.npy"
    words = ["embed", str(model), str(data / "a.h5ad"), "--out", str(out), *CPU]
    with monkeypatch.context() as patch:
        patch.setattr(_output.LatentFile, "finish", stop)
        assert main(words) == 130
    assert not out.exists()
    assert main(words) == 0
    np.testing.assert_array_equal(np.load(out), python_embedding(data, model))
    assert main(words) == 1  # there is one now
    assert main([*words, "--overwrite"]) == 0


def test_cells_of_unknown_genes_are_not_said_to_have_no_counts(model, make_tissue, tmp_path, capsys):
    adata = make_tissue(1)
    adata.var_names = [name.upper() if i else name for i, name in enumerate(adata.var_names)]
    adata.write_h5ad(tmp_path / "upper.h5ad")
    assert main(["embed", str(model), str(tmp_path / "upper.h5ad"), "--out", str(tmp_path / "o.h5ad"), *CPU]) == 0
    told = capsys.readouterr().err
    assert "have counts, but not of a gene the model knows" in told
    assert "filter_cells" not in told
