"""Small tissues."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.models import store as _store


def add_graph(adata: ad.AnnData, k: int = 6) -> ad.AnnData:
    """Write the spatial graph as a user would."""
    spatial_graph(adata, n_neighs=k, library_key="section")
    return adata


def tissue(n: int = 120, n_genes: int = 24, seed: int = 0) -> ad.AnnData:
    """Return two sections with a layer each on the left and right, two technologies and their panels."""
    rng = np.random.default_rng(seed)
    place = rng.random((n, 2)) * 100
    left = place[:, 0] < 50
    rate = np.where(left[:, None], np.linspace(0.2, 3, n_genes), np.linspace(3, 0.2, n_genes))
    counts = rng.poisson(rate * rng.gamma(5, 0.2, (n, 1)))
    section = np.where(np.arange(n) < n // 2, "s1", "s2")
    counts[section == "s1", -4:] = 0  # the first technology does not measure the last four genes
    counts[0, 0] += 1
    obs = pd.DataFrame(
        {
            "section": pd.Categorical(section),
            "technology": pd.Categorical(np.where(section == "s1", "A", "B")),
            "region": pd.Categorical(np.where(left, "left", "right")),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"Gene{i:02d}" for i in rng.permutation(n_genes)])
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.int32)), obs=obs, var=var)
    adata.obsm["spatial"] = place
    return add_graph(adata)


SMALL = {
    "tokens": {"n_tokens": 8, "n_neighbors": 6},
    "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
    "training": {"max_steps": 12, "batch_size": 16},
}


def small_model(adata: ad.AnnData, setup: dict | None = None, **changes) -> scjepa.STJEPA:
    """Set up and build a small model."""
    keys = {"technology_key": "technology", "library_key": "section"} if setup is None else setup
    scjepa.STJEPA.setup_anndata(adata, **keys)
    return scjepa.STJEPA(adata, "demo", **{**SMALL, **changes})


@pytest.fixture
def adata() -> ad.AnnData:
    """Return a fresh small tissue."""
    return tissue()


@pytest.fixture(scope="session")
def make_tissue():
    """Return :func:`tissue`."""
    return tissue


@pytest.fixture(scope="session")
def with_graph():
    """Return :func:`add_graph`."""
    return add_graph


@pytest.fixture(scope="session")
def make_model():
    """Return :func:`small_model`."""
    return small_model


def reseal(folder, **changes) -> None:
    """Write changed entries to a saved model, and checksums that fit what is in its files."""
    facts = json.loads((folder / "model.json").read_text())
    facts = _store.seal({**facts, **changes}, folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps(facts))


@pytest.fixture(scope="session")
def change_saved():
    """Return :func:`reseal`."""
    return reseal


@pytest.fixture(scope="session")
def trained() -> tuple[scjepa.STJEPA, ad.AnnData]:
    """Return a small trained model and its data; not to be changed."""
    adata = tissue()
    model = small_model(adata)
    model.train(accelerator="cpu", progress_bar=False)
    return model, adata
