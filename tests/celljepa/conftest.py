"""Small dissociated cells of three types in two batches."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scjepa

TYPES = ("T", "B", "NK")


def random_cells(n: int = 150, n_genes: int = 45, seed: int = 0) -> ad.AnnData:
    """Return cells whose type shows in which third of the genes is high."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    rate = np.where(np.arange(n_genes)[None, :] % 3 == kind[:, None], 6.0, 0.8) * rng.gamma(4, 0.25, (n, 1))
    counts = rng.poisson(rate).astype(np.int32)
    counts[:, 0] += 1  # no cell is empty
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.array(TYPES)[kind]), "batch": np.where(np.arange(n) % 2, "b1", "b2")},
        index=[f"cell{i}" for i in range(n)],
    )
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)]))


SMALL = {
    "tokens": {"n_tokens": 20},
    "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
    "training": {"max_steps": 12, "batch_size": 16, "learning_rate": 3e-3},
    "finetuning": {"training": {"max_epochs": 2, "batch_size": 16, "learning_rate": 3e-3}},
}
QUIET = {"accelerator": "cpu", "progress_bar": False}


def small_cell_model(adata: ad.AnnData, setup: dict | None = None, **changes) -> scjepa.CellJEPA:
    """Set up and build a small model."""
    keys = {"batch_key": "batch", "labels_key": "cell_type"} if setup is None else setup
    scjepa.CellJEPA.setup_anndata(adata, **keys)
    return scjepa.CellJEPA(adata, "demo", **{**SMALL, **changes})


@pytest.fixture
def adata() -> ad.AnnData:
    """Return fresh cells."""
    return random_cells()


@pytest.fixture(scope="session")
def make_adata():
    """Return :func:`random_cells`."""
    return random_cells


@pytest.fixture(scope="session")
def make_model():
    """Return :func:`small_cell_model`."""
    return small_cell_model


@pytest.fixture(scope="session")
def quiet() -> dict:
    """Return the arguments of a silent run on the CPU."""
    return QUIET


@pytest.fixture(scope="session")
def finetuned() -> tuple[scjepa.CellJEPA, ad.AnnData]:
    """Return a small model, trained and fine-tuned, and its data; not to be changed."""
    adata = random_cells()
    model = small_cell_model(adata)
    model.train(**QUIET)
    model.finetune(**QUIET)
    return model, adata
