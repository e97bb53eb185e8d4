from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import scjepa
from scjepa._core.palette import palette
from scjepa.pl.figure import figure_of


@pytest.fixture
def pl():
    """Return the functions of ``scjepa.pl``, which return the figure that they drew."""

    def drawn(name: str):
        return lambda *args, **options: figure_of(getattr(scjepa.pl, name)(*args, show=False, **options))

    yield SimpleNamespace(**{name: drawn(name) for name in scjepa.pl.__all__})
    plt.close("all")


@pytest.fixture
def strip() -> ad.AnnData:
    """Return 90 cells in a row in two sections, with three niches, three regions, types, counts and a graph."""
    n_cells = 90
    rng = np.random.default_rng(0)
    niche = np.arange(n_cells) // 5 % 3
    rate = np.full((n_cells, 12), 2.0)
    for number in range(3):
        rate[niche == number, 4 * number : 4 * number + 4] = 12.0
    adata = ad.AnnData(csr_matrix(rng.poisson(rate).astype(np.int32)))
    adata.obs_names = [f"c{i}" for i in range(n_cells)]
    adata.var_names = [f"gene{i}" for i in range(12)]
    section = np.repeat(["s0", "s1"], n_cells // 2)
    adata.obs = pd.DataFrame(
        {
            "niche": pd.Categorical(niche.astype(str)),
            "region": np.array(["z", "y", "x"])[niche],
            "cell_type": np.array([f"type{i}" for i in range(15)])[np.minimum(rng.geometric(0.15, n_cells) - 1, 14)],
            "section": pd.Categorical(section),
            "niche_confidence": rng.uniform(size=n_cells).astype(np.float32),
        },
        index=adata.obs_names,
    )
    adata.obsm["spatial"] = np.column_stack([np.arange(n_cells) % 45 * 20.0, rng.uniform(0, 300, n_cells)])
    chain = (np.eye(n_cells, k=1) + np.eye(n_cells, k=-1)) * (section[:, None] == section)
    adata.obsp["spatial_connectivities"] = csr_matrix(chain)
    adata.uns["niche_colors"] = palette(3)
    return adata


@pytest.fixture
def legend_texts():
    """Return a function that gives the entries of an axes' legend."""
    return lambda ax: [text.get_text() for text in ax.get_legend().get_texts()]
