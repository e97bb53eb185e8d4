from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scjepa
from scjepa.datasets import available, load


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder with two files, and neither setting nor environment pointing anywhere."""
    monkeypatch.delenv("SCJEPA_DATA", raising=False)
    monkeypatch.setattr(scjepa.settings, "data_dir", None)
    obs = pd.DataFrame({"section": ["a", "b"], "technology": ["T", "T"], "note": ["x", "y"]}, index=["c1", "c2"])
    adata = AnnData(np.ones((2, 3), dtype=np.float32), obs=obs)
    (tmp_path / "spatial").mkdir()
    adata.write_h5ad(tmp_path / "spatial" / "starmap_visual_cortex.h5ad", convert_strings_to_categoricals=False)
    adata[:1].copy().write_h5ad(tmp_path / "mine.h5ad")
    return tmp_path


@pytest.mark.parametrize("name", ["starmap_visual_cortex", "starmap_visual_cortex.h5ad"])
def test_names(folder, name):
    adata = load(name, folder)
    assert adata.shape == (2, 3)
    for key in ("section", "technology"):
        assert isinstance(adata.obs[key].dtype, pd.CategoricalDtype)
    assert not isinstance(adata.obs["note"].dtype, pd.CategoricalDtype)


def test_a_file_as_path(folder):
    assert load("anything", folder / "mine.h5ad").n_obs == 1


def test_setting_then_environment(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("SCJEPA_DATA", str(folder / "spatial"))
    assert load("starmap_visual_cortex").n_obs == 2
    monkeypatch.delenv("SCJEPA_DATA")
    monkeypatch.setattr(scjepa.settings, "data_dir", str(folder))
    assert load("mine").n_obs == 1
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match="no h5ad file"):  # a path given is the only place looked in
        load("mine", empty)


def test_one_folder_named_twice_is_one(folder, monkeypatch):
    monkeypatch.setattr(scjepa.settings, "data_dir", folder)
    monkeypatch.setenv("SCJEPA_DATA", str(folder / "spatial"))
    assert load("starmap_visual_cortex").n_obs == 2
    assert available().index.tolist().count("starmap_visual_cortex") == 1


def test_what_is_missing_is_named(folder, monkeypatch):
    with pytest.raises(FileNotFoundError) as error:
        load("starmap_mpfc", folder)
    text = str(error.value)
    for part in (
        "starmap_mpfc.h5ad",
        str(folder),
        "mine, starmap_visual_cortex",
        "load('starmap_mpfc', path=",
    ):
        assert part in text
    with pytest.raises(FileNotFoundError, match="Did you mean 'mine'"):
        load("mines", folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load("mine", folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no folder is set.*data_dir.*SCJEPA_DATA.*simulated_tissue"):
        load("mine")


def test_two_files_of_one_name(folder):
    (folder / "copy").mkdir()
    (folder / "copy" / "mine.h5ad").write_bytes((folder / "mine.h5ad").read_bytes())
    with pytest.raises(ValueError, match=r"Several files are named mine.h5ad: .*copy.*Give one of them as path"):
        load("mine", folder)


def test_available_lists_files_and_public_sets(folder):
    table = available(folder)
    assert table.loc["squidpy:imc", ["tissue", "technology"]].tolist() == [
        "human breast cancer",
        "imaging mass cytometry",
    ]
    assert table.loc["mine", "tissue"] == ""
    assert table.loc["mine", "file"].endswith("mine.h5ad")
    assert table.loc["squidpy:imc", "file"] == ""
    assert available().index.str.startswith("squidpy:").all()


def test_public_sets_come_through_squidpy(monkeypatch, tmp_path):
    calls = []

    def imc(path=None, **kwargs):
        calls.append(path)
        return AnnData(np.ones((3, 2)), obs=pd.DataFrame({"section": list("aab")}, index=list("xyz")))

    datasets = SimpleNamespace(imc=imc)
    monkeypatch.setitem(sys.modules, "squidpy", SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "squidpy.datasets", datasets)
    adata = load("squidpy:imc")
    load("squidpy:imc", tmp_path / "imc.h5ad")
    assert isinstance(adata.obs["section"].dtype, pd.CategoricalDtype)
    assert calls == [None, tmp_path / "imc.h5ad"]
    with pytest.raises(ValueError, match=r"'imcc'. Did you mean 'imc'"):
        load("squidpy:imcc")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape"), [("starmap_visual_cortex", (1207, 1020)), ("osmfish_somatosensory_cortex", (4839, 33))]
)
def test_real_files(data_dir, name, shape):
    adata = load(name, data_dir)
    assert adata.shape == shape
    assert isinstance(adata.obs["section"].dtype, pd.CategoricalDtype)
