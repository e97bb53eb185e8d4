from __future__ import annotations

import shutil

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr

from scjepa._core.stored import H5AD, SPATIALDATA, ZARR
from scjepa.cli import main
from scjepa.cli.io import data_files


def test_kinds_names_and_groups(data):
    files = data_files([data / "a.h5ad", data / "b.zarr", data / "s.zarr"])
    assert [(file.kind, file.name, file.table) for file in files] == [
        (H5AD, "a", None),
        (ZARR, "b", None),
        (SPATIALDATA, "s", "table"),
    ]
    for file, obs_names in zip(files, ("1-0", "2-0", "3-0"), strict=True):
        with file.opened() as group:
            assert "obs" in group
            assert ad.io.read_elem(group["obs"]).index[0] == obs_names


def test_files_of_one_name_are_told_apart_by_their_folders(data, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(data / "a.h5ad", tmp_path / folder / "section.h5ad")
    names = [file.name for file in data_files(sorted(tmp_path.glob("*/section.h5ad")))]
    assert names == ["one_section", "two_section"]
    with pytest.raises(ValueError, match="given twice"):
        data_files([tmp_path / "one" / "section.h5ad", tmp_path / "one" / ".." / "one" / "section.h5ad"])


def test_what_is_no_file_of_cells_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.h5ad"):
        data_files([tmp_path / "nothing.h5ad"])
    (tmp_path / "text.h5ad").write_text("cells")
    with pytest.raises(ValueError, match="is not an h5ad file"):
        data_files([tmp_path / "text.h5ad"])
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["image"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"neither AnnData nor SpatialData.*image"):
        data_files([tmp_path / "other.h5ad"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is a folder and no zarr store"):
        data_files([tmp_path / "folder"])
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["obs"], file["var"] = np.zeros(3), np.zeros(3)
    with pytest.raises(ValueError, match=r"older than 0\.7"):
        data_files([tmp_path / "old.h5ad"])


def test_one_of_several_tables_must_be_named(data, tmp_path):
    store = tmp_path / "s.zarr"
    shutil.copytree(data / "s.zarr", store)
    shutil.copytree(store / "tables" / "table", store / "tables" / "bins")
    with pytest.raises(ValueError, match=r"2 tables: bins, table\. Name one with --table"):
        data_files([store])
    assert data_files([store], "bins")[0].table == "bins"
    with pytest.raises(ValueError, match="Did you mean 'bins'"):
        data_files([store], "bin")
    zarr.open_group(store, mode="r+").require_group("tables")
    shutil.rmtree(store / "tables" / "bins")
    shutil.rmtree(store / "tables" / "table")
    with pytest.raises(ValueError, match="0 tables: none"):
        data_files([store])


@pytest.mark.parametrize("command", ["info", "fit", "embed", "niches", "plain niches"])
def test_a_file_without_cells_is_named(command, make_tissue, model, tmp_path, capsys):
    path = tmp_path / "none.h5ad"
    adata = make_tissue(1)[:0].copy()
    adata.obsm["X_stjepa"] = adata.obsm["X_stjepa_cell"] = np.zeros((0, 4), dtype=np.float32)
    adata.write_h5ad(path)
    out = ["--out", str(tmp_path / "out.h5ad")]
    words = {
        "info": ["info", str(path)],
        "fit": ["fit", str(path), *out],
        "embed": ["embed", str(model), str(path), *out, "--overwrite"],
        "niches": ["niches", str(path), *out],
        "plain niches": ["niches", str(path), *out, "--readout", "plain"],
    }
    code = main([*words[command], *(["--quiet"] if command != "info" else [])])
    streams = capsys.readouterr()
    assert f"{path} has no cells" in (streams.out if command == "info" else streams.err)
    assert code == (0 if command == "info" else 1)


def test_a_file_without_genes_is_named(make_tissue, tmp_path, capsys):
    path = tmp_path / "none.h5ad"
    make_tissue(1)[:, :0].copy().write_h5ad(path)
    assert main(["fit", str(path), "--out", str(tmp_path / "m"), "--quiet"]) == 1
    assert f"{path} has no genes" in capsys.readouterr().err
