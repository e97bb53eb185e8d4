"""A tiny tissue, and peers that are not there."""

from __future__ import annotations

import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scjepa._core.squidpy import spatial_graph

ARGUMENTS = "import json, os, sys, time\nfrom pathlib import Path\nimport numpy as np\nfolder = Path(sys.argv[-1])\n"
WRITE = """
def write(about=None, **arrays):
    usual = {"seconds": 1.0, "cpu_seconds": 0.7, "peak_gib": 0.5, "versions": {"peer": "1"}, "info": {"epochs": 3}}
    np.savez(folder / "output.npz", about=np.array(json.dumps(usual if about is None else about)), **arrays)
"""


@pytest.fixture
def tissue(_tissue) -> AnnData:
    """Return a fresh tiny tissue."""
    return _tissue.copy()


@pytest.fixture(scope="session")
def _tissue() -> AnnData:
    """Return two sections, the left and the right of each of another expression; the last cell has no counts."""
    rng = np.random.default_rng(0)
    n, n_genes = 80, 15
    place = rng.random((n, 2)) * 100
    left = place[:, 0] < 50
    rate = np.where(left[:, None], np.linspace(0.3, 4, n_genes), np.linspace(4, 0.3, n_genes))
    counts = rng.poisson(rate)
    counts[-1] = 0
    obs = pd.DataFrame(
        {
            "section": pd.Categorical(np.where(np.arange(n) < n // 2, "s1", "s2")),
            "technology": pd.Categorical(["T"] * n),
            "region": pd.Categorical(np.where(left, "left", "right")),
        },
        index=[f"c{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"Gene{i}" for i in range(n_genes)])
    adata = AnnData(sparse.csr_matrix(counts.astype(np.int32)), obs=obs, var=var)
    adata.obsm["spatial"] = place
    spatial_graph(adata, n_neighs=5, library_key="section")
    return adata


@pytest.fixture
def fake_python(tmp_path) -> Callable[[str], str]:
    """Return a function that makes an interpreter which runs ``body`` whatever it is asked to run."""

    def make(body: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!{sys.executable}\n{ARGUMENTS}{WRITE}{textwrap.dedent(body)}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.fixture
def adapter(tmp_path) -> Callable[[str], Path]:
    """Return a function that writes an adapter."""

    def make(body: str, name: str = "numpy.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(body))
        return path

    return make


@pytest.fixture
def other(tissue) -> AnnData:
    """Return a section of another technology, which shares five genes with the tissue and has five of its own."""
    cells = (tissue.obs["section"] == "s1").to_numpy()
    adata = tissue[cells, 5:].copy()
    names = [f"Own{i}" if i >= 5 else name for i, name in enumerate(adata.var_names)]
    adata.var_names = names
    adata.obs["technology"] = pd.Categorical(["U"] * adata.n_obs)
    adata.obs["section"] = pd.Categorical(["u1"] * adata.n_obs)
    adata.obs_names = [f"u{i}" for i in range(adata.n_obs)]
    return adata


@pytest.fixture
def quick():
    """Return a scoring of one clustering."""
    from scjepa.benchmark import Scoring

    return Scoring(resolutions=(1.0,), leiden_seeds=1, readouts=("plain",))


@pytest.fixture
def no_mixing(monkeypatch) -> None:
    """Leave out iLISI, which takes seconds to compile."""
    monkeypatch.setattr("scjepa.benchmark.score.ilisi", lambda values, batches: 0.5)


def place_of(adata: AnnData) -> np.ndarray:
    """Embed cells by where they are: what a benchmark must score well."""
    return np.asarray(adata.obsm["spatial"])[:, :1].repeat(2, axis=1)


@pytest.fixture
def by_place():
    """Return :func:`place_of`."""
    return place_of
