from __future__ import annotations

import gzip
import json

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import squidpy
from matplotlib.image import imsave
from scipy import io, sparse

import scjepa
from scjepa._core.instruments import how_to_read, raw_output
from scjepa.cli import main

COUNTS = np.random.default_rng(0).poisson(1.0, (30, 8)).astype(np.int32)
CELLS, GENES = [f"CELL{i}-1" for i in range(30)], [f"GENE{i}" for i in range(8)]
PLACES = np.random.default_rng(1).uniform(0, 100, (30, 2))


def write_10x(path):
    """Write a matrix as Cell Ranger does, genes in rows."""
    matrix = sparse.csc_matrix(COUNTS.T)
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array([b"library"])
        group = file.create_group("matrix")
        group["barcodes"], group["data"] = np.array(CELLS, dtype="S"), matrix.data
        group["indices"], group["indptr"], group["shape"] = matrix.indices, matrix.indptr, matrix.shape
        features = group.create_group("features")
        features["id"] = features["name"] = np.array(GENES, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * len(GENES), dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(GENES), dtype="S")


def visium(folder):
    write_10x(folder / "filtered_feature_bc_matrix.h5")
    spatial = folder / "spatial"
    spatial.mkdir()
    for name in ("hires", "lowres"):
        imsave(spatial / f"tissue_{name}_image.png", np.zeros((4, 4)))
    (spatial / "scalefactors_json.json").write_text(json.dumps({"tissue_hires_scalef": 1.0}))
    table = pd.DataFrame(
        {"barcode": CELLS, "in_tissue": 1, "array_row": 0, "array_col": 0, "a": PLACES[:, 0], "b": PLACES[:, 1]}
    )
    table.to_csv(spatial / "tissue_positions.csv", index=False)


def merscope(folder):
    pd.DataFrame(COUNTS, index=pd.Index(range(30), name="cell"), columns=GENES).to_csv(folder / "cell_by_gene.csv")
    places = pd.DataFrame(PLACES, index=range(30), columns=["center_x", "center_y"])
    places.to_csv(folder / "cell_metadata.csv")


def cosmx(folder):
    ids = pd.DataFrame({"fov": 1, "cell_ID": range(1, 31)})
    pd.concat([ids, pd.DataFrame(COUNTS, columns=GENES)], axis=1).to_csv(folder / "S0_exprMat_file.csv", index=False)
    names = ["CenterX_local_px", "CenterY_local_px", "CenterX_global_px", "CenterY_global_px"]
    places = pd.DataFrame(np.hstack([PLACES, PLACES]), columns=names)
    pd.concat([ids, places], axis=1).to_csv(folder / "S0_metadata_file.csv", index=False)


def cell_ranger(folder):
    with gzip.open(folder / "GSM1_matrix.mtx.gz", "wb") as file:
        io.mmwrite(file, sparse.coo_matrix(COUNTS.T))
    rows = pd.DataFrame({"id": GENES, "name": GENES, "type": "Gene Expression"})
    rows.to_csv(folder / "GSM1_features.tsv.gz", sep="\t", header=False, index=False)
    pd.Series(CELLS).to_csv(folder / "GSM1_barcodes.tsv.gz", sep="\t", header=False, index=False)


READ = {
    "squidpy.read.visium": visium,
    "squidpy.read.vizgen": merscope,
    "squidpy.read.nanostring": cosmx,
    "scanpy.read_10x_mtx": cell_ranger,
    "scanpy.read_10x_h5": lambda folder: write_10x(folder / "counts.h5"),
}


@pytest.mark.parametrize("reader", READ)
def test_the_reader_that_is_named_reads_it(reader, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "raw"
    folder.mkdir()
    READ[reader](folder)
    path = folder / "counts.h5" if reader.endswith("h5") else folder
    assert main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    assert reader in told
    found = raw_output(path)
    monkeypatch.chdir(tmp_path)
    code = found.as_file.partition("In Python: ")[2].partition(". That is a file")[0]
    exec(code, {"squidpy": squidpy, "scanpy": scanpy})
    (written,) = tmp_path.glob("*.h5ad")
    adata = ad.read_h5ad(written)
    np.testing.assert_array_equal(np.asarray(adata.X.sum(axis=1)).ravel(), COUNTS.sum(axis=1))
    if reader.startswith("squidpy"):
        assert adata.obsm["spatial"].shape == (30, 2)
        assert main(["info", str(written)]) == 0
    with pytest.raises(TypeError, match=f"found PosixPath.*{reader}|found WindowsPath.*{reader}"):
        scjepa.tl.niches(path)


@pytest.mark.parametrize(
    ("names", "reader"),
    [
        (["experiment.xenium", "cell_feature_matrix.h5", "cells.parquet"], "spatialdata_io.xenium("),
        (["outs/experiment.xenium"], "spatialdata_io.xenium("),
        (["binned_outputs/square_008um/filtered_feature_bc_matrix.h5"], "spatialdata_io.visium_hd("),
        (["02.count/A.raw.gef", "041.cellcut/A.cellbin.gef"], "spatialdata_io.stereoseq("),
        (["Roi1_CellxGene.csv", "Roi1_CellCoordinates.csv"], "spatialdata_io.seqfish("),
        (["A_anndata.h5ad", "A_variable_features_clusters.txt"], "spatialdata_io.curio("),
    ],
)
def test_folders_of_instruments_name_the_reader_of_spatialdata_io(names, reader, tmp_path, capsys):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert main(["info", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert reader in told
    assert "pip install spatialdata-io" in told
    assert ".write(" in told
    assert f"adata = scjepa.table_of({reader}" in how_to_read(tmp_path)
    assert main(["embed", "mouse-brain-small", str(tmp_path), "--out", str(tmp_path / "out.h5ad")]) != 0
    assert reader in capsys.readouterr().err


def test_a_file_of_an_output_leads_to_its_folder(tmp_path):
    (tmp_path / "experiment.xenium").touch()
    write_10x(tmp_path / "cell_feature_matrix.h5")
    assert f"spatialdata_io.xenium({str(tmp_path)!r})" in raw_output(tmp_path / "cell_feature_matrix.h5").as_object


@pytest.mark.parametrize(
    ("name", "groups", "advice"),
    [
        ("a.gef", ["geneExp"], "spatialdata_io.stereoseq"),
        ("a.loom", ["row_attrs", "col_attrs"], "read_loom"),
        ("a.h5mu", ["mod/rna", "mod/protein"], ".mod['rna']"),
        ("a.h5seurat", ["assays"], "SeuratDisk"),
    ],
)
def test_other_files_of_hdf5(name, groups, advice, tmp_path, capsys):
    with h5py.File(tmp_path / name, "w") as file:
        for group in groups:
            file.create_group(group)
    assert main(["info", str(tmp_path / name)]) == 0
    assert advice in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "advice"),
    [("a.rds", "zellkonverter"), ("a.csv", "read_csv"), ("a.tar.gz", "Unpack"), ("a.mtx", "read_mtx")],
)
def test_other_files(name, advice, tmp_path, capsys):
    (tmp_path / name).write_text("x")
    assert main(["info", str(tmp_path / name)]) == 0
    assert advice in capsys.readouterr().out


def test_a_folder_of_files_of_cells_asks_for_the_files(tmp_path, capsys):
    (tmp_path / "a.h5ad").touch()
    assert main(["info", str(tmp_path)]) == 0
    assert "a.h5ad" in capsys.readouterr().out
    inner = tmp_path / "more" / "run"
    inner.mkdir(parents=True)
    (inner / "experiment.xenium").touch()
    assert "spatialdata_io.xenium" in raw_output(tmp_path / "more").note


def test_what_nobody_knows_is_left_to_the_error_of_the_file(tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    assert raw_output(tmp_path / "notes") is None
    assert raw_output(tmp_path / "nothing") is None
    assert main(["info", str(tmp_path / "notes")]) != 0
    assert "no zarr store" in capsys.readouterr().err
