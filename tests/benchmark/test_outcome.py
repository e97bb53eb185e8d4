from __future__ import annotations

import gc
import json
import os
import time

import joblib
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from scjepa.benchmark import METHODS, run_method
from scjepa.stjepa import STJEPA

SLOTS = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")


def snapshot(adata) -> dict:
    parts = {(slot, key): getattr(adata, slot)[key] for slot in SLOTS for key in getattr(adata, slot)}
    return {name: joblib.hash(part) for name, part in {("X", ""): adata.X, **parts}.items()}


GOOD = """
n = 79  # the cell without counts is not given
write(embedding=np.arange(2 * n).reshape(n, 2), clusters=np.array(["a"] * n))
"""


def test_a_peer_gives_embedding_clusters_and_what_it_took(tissue, fake_python):
    before = snapshot(tissue)
    result = run_method("cellcharter", tissue, seed=4, python=fake_python(GOOD))
    assert result.error is None
    assert result.ok
    assert (result.method, result.settings, result.seed) == ("cellcharter", "tutorial", 4)
    assert result.embedding.dtype == np.float32
    np.testing.assert_array_equal(result.embedding[:-1], np.arange(158).reshape(79, 2))
    assert result.clusters[0] == "a"
    # What is done to its data before and after takes some time, more on a busy machine.
    assert 0.7 <= result.cpu_seconds < 1
    assert 1 <= result.seconds < 2
    assert (result.peak_gib, result.versions) == (0.5, {"peer": "1"})
    assert result.info == {"epochs": 3, "cells_without_counts": 1}
    assert snapshot(tissue) == before


def test_a_cell_without_counts_is_zero_and_a_cluster_of_its_own(tissue, fake_python):
    result = run_method("cellcharter", tissue, python=fake_python(GOOD))
    assert (result.embedding[-1] == 0).all()
    assert result.clusters[-1] == "no counts"


def test_clusters_may_have_a_column_for_each_resolution(tissue, fake_python):
    columns = "np.array([['a', 'b']] * 79)"
    result = run_method("squidpy_utag", tissue, python=fake_python(f"write(clusters={columns})"))
    assert result.clusters.shape == (tissue.n_obs, 2)
    assert list(result.clusters[0]) == ["a", "b"]
    assert list(result.clusters[-1]) == ["no counts", "no counts"]


def test_a_peer_sees_no_label(tissue, fake_python):
    tissue.obs["truth"] = tissue.obs["region"]
    body = """
    import anndata
    adata = anndata.read_h5ad(folder / "input.h5ad")
    seen = {"obs": list(adata.obs), "obsm": list(adata.obsm), "obsp": sorted(adata.obsp)}
    seen["layers"] = len({*adata.layers} - {None})  # which is X, from anndata 0.13 on
    arguments = json.loads((folder / "arguments.json").read_text())
    took = {"seconds": 1.0, "cpu_seconds": 0.7, "peak_gib": 1.0}
    write(about={**took, "versions": {}, "info": {**seen, "arguments": arguments}}, embedding=np.ones((79, 2)))
    """
    info = run_method("banksy_harmony", tissue, seed=2, python=fake_python(body), settings="same graph").info
    assert info["obs"] == ["section", "technology"]
    assert info["obsm"] == ["spatial"]
    assert info["obsp"] == ["spatial_connectivities", "spatial_distances"]
    assert info["layers"] == 0
    assert info["arguments"] == {"seed": 2, "n_niches": None, "harmony": True, "settings": "same graph"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('RuntimeError: no luck today')", "no luck today"),
        ("sys.exit(3)", "code 3"),
        ("import signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL.*[Mm]emory"),
        ("pass", "without writing a result"),
        ("print('ModuleNotFoundError: No module named peer', file=sys.stderr); sys.exit(1)", "setup.sh"),
        ("(folder / 'output.npz').write_text('not an archive')", "cannot be read"),
        ("write(embedding=np.ones((3, 2)))", r"shape \(3, 2\); the data have 80 cells"),
        ("write(embedding=np.ones(79))", r"shape \(79,\)"),
        ("write(embedding=np.array([['a']] * 79))", "not numbers"),
        ("write(embedding=np.where(np.arange(79)[:, None] == 7, np.nan, np.ones((79, 2))))", "1 of 80 cells.*row 7"),
        ("write(embedding=np.full((79, 2), np.inf))", "79 of 80 cells"),
        ("write(clusters=np.array(['a'] * 5))", r"clusters have the shape \(5,\)"),
        ("write()", "neither an embedding nor clusters"),
    ],
)
def test_a_peer_that_fails_gives_the_reason(tissue, fake_python, body, reason):
    result = run_method("cellcharter", tissue, python=fake_python(body))
    assert not result.ok
    assert result.embedding is None
    assert result.clusters is None
    assert np.isnan(result.seconds)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(result.error)


def test_an_interpreter_that_is_not_there_is_a_reason(tissue, tmp_path):
    result = run_method("banksy", tissue, python=tmp_path / "nowhere" / "python")
    assert "cannot be started" in result.error
    assert "SCJEPA_PEERS_PYTHON" in result.error


def test_the_environment_variable_names_the_interpreter(tissue, fake_python, monkeypatch):
    monkeypatch.setenv("SCJEPA_PEERS_PYTHON", fake_python("write(embedding=np.ones((79, 1)))"))
    assert run_method("graphst", tissue).embedding.shape == (80, 1)
    assert "cannot be started" in run_method("graphst", tissue, python="/nowhere/python").error


def test_the_time_limit_ends_the_peer_and_what_it_started(tissue, fake_python, tmp_path):
    body = f"""
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
    time.sleep(60)
    """
    start = time.monotonic()
    result = run_method("cellcharter", tissue, python=fake_python(body), timeout=2)
    assert "time limit of 2 s" in result.error
    assert time.monotonic() - start < 20
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not _runs(child):
            break
        time.sleep(0.1)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(") ")[1][0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_method_of_this_session_that_fails_gives_the_reason(tissue):
    result = run_method("stjepa", tissue, options={"preset": "nothing"})
    assert "Unknown preset 'nothing'" in result.error


def test_precomputed_embeddings_may_be_sparse(tissue):
    tissue.obsm["X_other"] = sparse.csr_matrix(tissue.obsm["spatial"])
    result = run_method("precomputed", tissue, options={"obsm_key": "X_other"})
    np.testing.assert_allclose(result.embedding, tissue.obsm["spatial"], rtol=1e-6)
    assert sparse.issparse(tissue.obsm["X_other"])


@pytest.mark.parametrize("name", ["untrained", "pooled_input"])
def test_what_was_embedded_is_let_go_and_what_the_user_set_up_is_not(tissue, name):
    def held() -> int:
        gc.collect()
        return sum(isinstance(found, AnnData) for found in gc.get_objects())

    STJEPA.setup_anndata(tissue)
    mine = STJEPA(tissue, "demo")
    before = held()
    assert run_method(name, tissue, options={"preset": "demo"}).error is None
    assert held() == before
    assert mine.get_latent_representation().shape == (tissue.n_obs, 64)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("celcharter", {}, "Did you mean 'cellcharter'"),
        ("cellcharter", {"settings": "graph"}, "Known: same graph, tutorial"),
        ("neighborhood_pca", {"settings": "tutorial"}, "Known: same graph"),
        ("cellcharter", {"options": {"epochs": 3}}, "'max_epochs'"),
        ("novae_zero_shot", {}, "weights"),
    ],
)
def test_what_is_not_known_is_an_error(tissue, name, more, message):
    with pytest.raises(ValueError, match=message):
        run_method(name, tissue, **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layer": "raw"}, r"layers\['raw'\] does not exist"),
        ({"library_key": "slide"}, r"obs\['slide'\] does not exist.*section"),
        ({"neighbors_key": "delaunay"}, "spatial_neighbors"),
        ({"spatial_key": "place"}, r"obsm\['place'\] does not exist"),
    ],
)
def test_what_the_data_lack_is_an_error(tissue, more, message):
    with pytest.raises(KeyError, match=message):
        run_method("neighborhood_pca", tissue, **more)


def test_missing_sections_and_coordinates_are_errors(tissue):
    tissue.obs["part"] = tissue.obs["section"].cat.remove_categories(["s2"])
    with pytest.raises(ValueError, match="40 cells have no 'part'; the first is 'c40'"):
        run_method("neighborhood_pca", tissue, library_key="part")
    tissue.obsm["spatial"][3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite coordinates"):
        run_method("neighborhood_pca", tissue)


def test_every_method_says_what_it_is_and_needs():
    for name, method in METHODS.items():
        assert len(method.description) > 20, name
        assert method.needs, name
        assert set(method.settings) <= {"tutorial", "same graph"}, name
        assert set(method.required) <= set(method.options), name
        assert set(method.gives) <= {"embedding", "clusters"}, name
        assert json.dumps(dict(method.fixed))
