from __future__ import annotations

import hashlib
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scjepa
from scjepa.datasets import available, load
from scjepa.datasets._sections import SOURCES


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

    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")
    datasets = SimpleNamespace(imc=imc)
    monkeypatch.setitem(sys.modules, "squidpy", SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "squidpy.datasets", datasets)
    adata = load("squidpy:imc")
    load("squidpy:imc", tmp_path / "imc.h5ad")
    assert isinstance(adata.obs["section"].dtype, pd.CategoricalDtype)
    assert calls == [tmp_path / "cache" / "imc.h5ad", tmp_path / "imc.h5ad"]
    with pytest.raises(ValueError, match=r"'imcc'. Did you mean 'imc'"):
        load("squidpy:imcc")


@pytest.fixture
def server(folder):
    """The address of a server of the folder, which breaks off in the middle of what is named short.h5ad."""
    data = (folder / "mine.h5ad").read_bytes()

    class Files(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in ("/mine.h5ad", "/short.h5ad", "/imc.h5ad") else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if "short" in self.path else data)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/"
    http.shutdown()
    http.server_close()


def _left_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_from_an_address_is_checked_and_kept(server, folder, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("kept")
    monkeypatch.setattr("pooch.os_cache", lambda _: cache)
    right = hashlib.sha256((folder / "mine.h5ad").read_bytes()).hexdigest()
    assert load(server + "mine.h5ad", sha256=right).n_obs == 1
    assert len(_left_in(cache)) == 1
    assert load(server + "mine.h5ad", cache / "here.h5ad").n_obs == 1
    with monkeypatch.context() as offline:  # kept files need no network
        offline.setattr("requests.get", lambda *_, **__: pytest.fail("asked again"))
        offline.setattr("requests.Session.request", lambda *_, **__: pytest.fail("asked again"))
        assert load(server + "mine.h5ad", sha256=right).n_obs == 1
        assert load(server + "mine.h5ad", cache / "here.h5ad").n_obs == 1


@pytest.mark.parametrize(
    ("file", "sha256", "kind", "said"),
    [
        ("mine.h5ad", "0" * 64, ValueError, "mine.h5ad is not the file that was expected, and was not kept"),
        ("short.h5ad", None, ConnectionError, r"could not be downloaded.*load\('http.*path='FILE.h5ad'"),
        ("none.h5ad", None, ConnectionError, "404"),
    ],
)
def test_a_download_that_fails_leaves_nothing(server, tmp_path, monkeypatch, file, sha256, kind, said):
    cache = tmp_path / "empty"
    monkeypatch.setattr("pooch.os_cache", lambda _: cache)
    with pytest.raises(kind, match=said):
        load(server + file, sha256=sha256)
    assert not _left_in(cache)


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path)
    with pytest.raises(ConnectionError, match=r"With a network, call again; without one, copy the file here and name"):
        load("http://127.0.0.1:9/x.h5ad")
    with pytest.raises(ValueError, match="sha256 is of a download"):
        load("mine", sha256="0" * 64)


def test_what_squidpy_fails_to_download(server, tmp_path, monkeypatch):
    """From nobody, then another file than squidpy knows."""
    monkeypatch.chdir(tmp_path)  # squidpy makes a folder where it is
    downloader = pytest.importorskip("squidpy.datasets._downloader").get_downloader()
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "empty")
    monkeypatch.setattr(downloader, "_s3_base_url", "http://127.0.0.1:9/")
    with pytest.raises(ConnectionError, match=r"^squidpy:imc could not be downloaded.*load\('squidpy:imc', path="):
        load("squidpy:imc")
    monkeypatch.setattr(downloader, "_s3_base_url", server)
    with pytest.raises(ValueError, match=r"squidpy:imc is not the file that was expected"):
        load("squidpy:imc")
    assert not _left_in(tmp_path / "empty")


def test_a_file_of_a_tutorial_says_where_its_data_are_public(folder):
    for path in (None, folder):
        with pytest.raises(FileNotFoundError, match=r"public data: counts.Rds.*Lohoff.*Expected: 14,185 cells"):
            load("seqfish_mouse_embryo2", path)


def test_tutorials_read_what_has_a_source():
    notebooks = sorted((Path(__file__).parents[2] / "tutorials").glob("*.ipynb"))
    read = {name for one in notebooks for name in re.findall(r'datasets\.load\(\\"(\w+)\\"', one.read_text())}
    assert read
    assert read <= set(SOURCES)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape"), [("starmap_visual_cortex", (1207, 1020)), ("osmfish_somatosensory_cortex", (4839, 33))]
)
def test_real_files(data_dir, name, shape):
    adata = load(name, data_dir)
    assert adata.shape == shape
    assert isinstance(adata.obs["section"].dtype, pd.CategoricalDtype)
