from __future__ import annotations

import hashlib
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

from scjepa._core.stored import Additions, add
from scjepa.cli.io import data_files

RNG = np.random.default_rng(0)
NICHES = pd.Series(pd.Categorical(RNG.choice(["0", "1"], 80)))
ADDITIONS = Additions(
    obs={"niche": NICHES},
    obsm={"X_stjepa": RNG.random((80, 4)).astype(np.float32)},
    uns={"niche_colors": ["#112233", "#445566"]},
    notes={"niche": {"slot": "obs", "resolution": 1.0}},
)


def read(path: Path) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".h5ad":
            return ad.read_h5ad(path)
        return sd.read_zarr(path)["table"] if (path / "tables").exists() else ad.read_zarr(path)


def checksum(path: Path) -> str:
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return digest.hexdigest()


def assert_added(adata: ad.AnnData, before: ad.AnnData) -> None:
    """Check that the additions are there and the rest is what it was."""
    np.testing.assert_array_equal(adata.obsm["X_stjepa"], ADDITIONS.obsm["X_stjepa"])
    assert adata.obs["niche"].tolist() == NICHES.tolist()
    assert adata.obs["niche"].dtype == "category"
    assert list(adata.uns["niche_colors"]) == ["#112233", "#445566"]
    assert adata.uns["scjepa"]["niche"]["slot"] == "obs"
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs.drop(columns="niche"), before.obs)
    assert list(adata.var_names) == list(before.var_names)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("name", ["a.h5ad", "b.zarr", "s.zarr"])
def test_a_copy_of_either_format_has_all_that_was_there_and_the_additions(data, tmp_path, name, suffix):
    (file,) = data_files([data / name])
    mark = checksum(file.path)
    target = tmp_path / f"out{suffix}"
    add(file, ADDITIONS, target)
    assert_added(read(target), read(file.path))
    assert checksum(file.path) == mark
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    if name == "s.zarr" and suffix == ".zarr":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert list(sd.read_zarr(target).images) == ["image"]


@pytest.mark.parametrize("name", ["a.h5ad", "b.zarr", "s.zarr"])
def test_an_input_can_be_written_to_again_and_again(data, tmp_path, name):
    path = tmp_path / name
    shutil.copytree(data / name, path) if (data / name).is_dir() else shutil.copy(data / name, path)
    before = read(path)
    for _ in range(2):
        (file,) = data_files([path])
        add(file, ADDITIONS, path)
        assert_added(read(path), before)
        assert [p.name for p in tmp_path.iterdir()] == [name]
    if name == "s.zarr":
        assert sorted(p.name for p in (path / "tables").iterdir() if p.is_dir()) == ["table"]


def test_other_notes_stay(data, tmp_path):
    (file,) = data_files([data / "a.h5ad"])
    add(file, Additions(notes={"first": {"slot": "obs"}}), tmp_path / "one.h5ad")
    (file,) = data_files([tmp_path / "one.h5ad"])
    add(file, Additions(notes={"second": {"slot": "obs"}}), tmp_path / "two.h5ad")
    assert set(read(tmp_path / "two.h5ad").uns["scjepa"]) == {"first", "second"}


def test_cells_without_any_column_get_one(tmp_path):
    ad.AnnData(np.ones((3, 2))).write_h5ad(tmp_path / "bare.h5ad")
    (file,) = data_files([tmp_path / "bare.h5ad"])
    column = pd.Series(pd.Categorical(["x", "y", "x"]))
    add(file, Additions(obs={"niche": column}), tmp_path / "out.h5ad")
    assert read(tmp_path / "out.h5ad").obs["niche"].tolist() == ["x", "y", "x"]


def test_a_failure_while_writing_leaves_the_file_and_nothing_else(data, tmp_path, monkeypatch):
    path = tmp_path / "a.h5ad"
    shutil.copy(data / "a.h5ad", path)
    mark = checksum(path)

    def fail(self, group):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Additions, "write", fail)
    (file,) = data_files([path])
    with pytest.raises(OSError, match="No space"):
        add(file, ADDITIONS, path)
    assert checksum(path) == mark
    assert list(tmp_path.iterdir()) == [path]
