"""Small dissociated cells of three types in two batches, and the options of a small model."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scjepa.benchmark import CellScoring, CellTraining

TYPES = ("T", "B", "NK")


def random_cells(n: int = 90, n_genes: int = 45, seed: int = 0) -> ad.AnnData:
    """Return cells whose type shows in which third of the genes is high."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    rate = np.where(np.arange(n_genes)[None, :] % 3 == kind[:, None], 6.0, 0.8) * rng.gamma(4, 0.25, (n, 1))
    counts = rng.poisson(rate).astype(np.int32)
    counts[:, 0] += 1  # no cell is empty
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.array(TYPES)[kind]), "plate": np.where(np.arange(n) % 2, "p1", "p2")},
        index=[f"cell{seed}-{i}" for i in range(n)],
    )
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)]))


@pytest.fixture
def cells() -> ad.AnnData:
    """Return fresh cells to score."""
    return random_cells()


@pytest.fixture
def others() -> ad.AnnData:
    """Return fresh cells to pretrain on."""
    return random_cells(seed=1)


@pytest.fixture
def make_cells() -> Callable[..., ad.AnnData]:
    """Return :func:`random_cells`."""
    return random_cells


@pytest.fixture
def small() -> dict:
    """Return arguments of a comparison that takes seconds."""
    return {
        "label": "cell_type",
        "training": CellTraining(
            changes={
                "tokens": {"n_tokens": 20},
                "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
                "training": {"batch_size": 16},
            },
            max_steps=2,
            finetune_epochs=1,
            accelerator="cpu",
        ),
        "options": {"modules": {"n_modules": 4}, "untrained_modules": {"n_modules": 4}, "scvi": {"max_epochs": 1}},
        "scoring": CellScoring(resolutions=(0.5,), fractions=(0.3,)),
    }


def by_type(adata: ad.AnnData) -> np.ndarray:
    """Embed cells by the sums of each third of the genes: what a comparison must score well."""
    counts = adata.X.toarray().astype(float)
    return np.log1p(np.stack([counts[:, third::3].sum(axis=1) for third in range(3)], axis=1))


@pytest.fixture
def good() -> Callable[[ad.AnnData], np.ndarray]:
    """Return :func:`by_type`."""
    return by_type
