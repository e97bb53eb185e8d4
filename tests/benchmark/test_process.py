"""The worker with adapters of our own, under this interpreter."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scjepa.benchmark import METHODS, peers
from scjepa.benchmark.method import MethodError
from scjepa.benchmark.outcome import find_python, run_in_process

ADAPTERS = Path(peers.__file__).parent


def call(adapter, adata, **arguments):
    return run_in_process(adapter, adata, {"seed": 3, **arguments}, python=sys.executable, timeout=100)


def test_the_worker_reports_result_time_memory_and_versions(tissue, adapter):
    path = adapter(
        """
        import time
        import numpy
        PACKAGES = ("numpy", "not-a-package")
        def run(adata, *, seed, factor):
            time.sleep(0.2)
            numpy.ones(2**26).sum()  # half a GiB
            return {"embedding": adata.obsm["spatial"] * factor, "clusters": adata.obs["section"],
                    "info": {"seed": seed, "drawn": float(numpy.random.random()), "names": list(adata.var_names[:2])}}
        """
    )
    found = call(path, tissue, factor=2.0)
    np.testing.assert_allclose(found["embedding"], tissue.obsm["spatial"] * 2)
    assert list(found["clusters"]) == list(tissue.obs["section"])
    assert found["info"] == {
        "seed": 3,
        "drawn": pytest.approx(np.random.RandomState(3).random_sample()),
        "names": ["Gene0", "Gene1"],
    }
    assert 0.2 < found["seconds"] < 60
    assert 0 < found["cpu_seconds"] < found["seconds"]
    assert 0.5 < found["peak_gib"] < 8
    assert found["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert set(found["versions"]) == {"python", "numpy"}


def test_an_exception_is_told_in_one_line(tissue, adapter):
    path = adapter("PACKAGES = ()\ndef run(adata, *, seed):\n    raise RuntimeError('first line\\n  second line')\n")
    with pytest.raises(MethodError, match=r"^RuntimeError: first line second line$"):
        call(path, tissue)


def test_a_package_that_is_missing_is_told_with_the_way_to_it(tissue, adapter):
    path = adapter("import no_such_peer\nPACKAGES = ()\n")
    with pytest.raises(MethodError, match=r"no_such_peer.*setup\.sh"):
        call(path, tissue)


KILLED = """
import sys
from anndata import read_h5ad
from scjepa.benchmark.outcome import run_in_process
adata = read_h5ad(sys.argv[1])
run_in_process(sys.argv[2], adata, {"seed": 0}, python=sys.executable)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the process in /proc")
def test_a_killed_benchmark_leaves_nothing_running(tissue, adapter, tmp_path):
    path = adapter(
        f"""
        import os, pathlib, time
        PACKAGES = ()
        def run(adata, *, seed):
            pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
            time.sleep(100)
        """
    )
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    parent = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "tissue.h5ad"), str(path)])
    pid = tmp_path / "pid"
    for _ in range(1200):
        if pid.is_file() and pid.read_text():
            break
        time.sleep(0.1)
    worker = Path("/proc", pid.read_text())
    assert worker.is_dir()
    parent.kill()
    parent.wait()
    for _ in range(300):
        if not worker.is_dir():
            break
        time.sleep(0.1)
    assert not worker.is_dir()


def test_the_interpreter_is_the_one_given_then_the_variable_then_this_one(monkeypatch):
    monkeypatch.delenv("SCJEPA_PEERS_PYTHON", raising=False)
    assert find_python() == sys.executable
    monkeypatch.setenv("SCJEPA_PEERS_PYTHON", "/peers/python")
    assert find_python() == "/peers/python"
    assert find_python("~/python").endswith("/python")
    assert "~" not in find_python("~/python")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.in_session])
def test_adapters_take_what_the_registry_passes(name):
    method = METHODS[name]
    tree = ast.parse((ADAPTERS / method.run).read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    accepted = {argument.arg for argument in functions["run"].args.kwonlyargs}
    assert {"seed", "settings", "n_niches", *method.options, *method.fixed} <= accepted
    names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
    assert "PACKAGES" in names


@pytest.mark.parametrize("path", sorted(ADAPTERS.glob("*.py")), ids=lambda path: path.name)
def test_adapters_import_nothing_of_scjepa(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert "scjepa" not in imported


STAND_IN = {
    "__init__.py": "",
    "data.py": """
import torch
class NicheformerDataset(torch.utils.data.Dataset):
    def __init__(self, adata, technology_mean, split, max_seq_len, metadata_fields):
        assert (adata.obs["nicheformer_split"] == split).all()
        self.x = torch.tensor(adata.X.toarray() / technology_mean)
        self.codes = {name: torch.tensor(adata.obs[name].to_numpy()) for name in metadata_fields["obs"]}
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        return {"X": self.x[i], **{name: codes[i] for name, codes in self.codes.items()}}
""",
    "models.py": """
import torch
class Nicheformer(torch.nn.Module):
    device = "cpu"
    @classmethod
    def load_from_checkpoint(cls, checkpoint_path, strict):
        return cls()
    def get_embeddings(self, batch, layer):
        return batch["X"] * batch["specie"][:, None]
""",
}


def test_nicheformer_gets_its_genes_in_its_order(tissue, tmp_path, monkeypatch):
    from anndata import AnnData

    package = tmp_path / "nicheformer"
    package.mkdir()
    for name, text in STAND_IN.items():
        (package / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    genes = ["Gene3", "Unmeasured", "Gene1"]
    reference = AnnData(np.zeros((1, 3), dtype=np.float32))
    reference.var_names = genes
    reference.write_h5ad(tmp_path / "model.h5ad")
    np.save(tmp_path / "mean.npy", np.array([1.0, 1.0, 2.0], dtype=np.float32))
    options = {
        "checkpoint": "weights.ckpt",
        "reference": str(tmp_path / "model.h5ad"),
        "technology_mean": str(tmp_path / "mean.npy"),
        "tokens": {"modality": 4, "specie": 6, "assay": 7},
    }
    counts = tissue[:, ["Gene3", "Gene1"]].X.toarray().astype(float)
    cells = np.column_stack([counts[:, 0], np.zeros(80), counts[:, 1] / 2]) * 6
    found = call(ADAPTERS / "nicheformer.py", tissue, settings="same graph", **options)
    graph = (tissue.obsp["spatial_connectivities"] > 0).toarray() + np.eye(80)
    np.testing.assert_allclose(found["embedding"], graph @ cells / graph.sum(1, keepdims=True), rtol=1e-5)
    assert found["info"] == {"genes_shared": 2, "layer": -1, "scale": "neighborhood"}
