from __future__ import annotations

from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import block_diag, csr_matrix

import scjepa

N_GENES = 60


def grid_graph(n_rows: int, n_columns: int) -> csr_matrix:
    """Return the graph of cells on a grid, each with its eight neighbors."""
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    near = (abs(row[:, None] - row) <= 1) & (abs(column[:, None] - column) <= 1)
    np.fill_diagonal(near, False)
    return csr_matrix(near.astype(np.float32))


def section(name: str, seed: int, layers: Sequence[int] = (0, 1, 2), *, n_rows: int = 16, width: int = 10) -> AnnData:
    """Return layers of cells on a grid, each with genes of its own and of two types, counted with a batch effect."""
    rng = np.random.default_rng(seed)
    layer = np.tile(np.repeat(layers, width), n_rows)
    kind = rng.integers(0, 2, len(layer))
    rate = np.full((8, N_GENES), 3.0)
    for number in range(4):
        rate[2 * number : 2 * number + 2, number * 8 : number * 8 + 8] *= 4
    rate[1::2, 40:50] *= 3
    batch = rng.gamma(20, 1 / 20, N_GENES)
    counts = rng.poisson(rate[2 * layer + kind] * batch * rng.gamma(8, 1 / 8, (len(layer), 1))).astype(np.int32)
    obs = pd.DataFrame(
        {"section": name, "layer": layer.astype(str), "cell_type": np.where(kind, "b", "a")},
        index=[f"{name}_{number}" for number in range(len(layer))],
    )
    adata = AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"gene{n}" for n in range(N_GENES)]))
    adata.obsm["spatial"] = np.stack(np.divmod(np.arange(len(layer)), width * len(layers)), axis=1).astype(float)
    adata.obsp["spatial_connectivities"] = grid_graph(n_rows, width * len(layers))
    return adata


def joined(*sections: AnnData) -> AnnData:
    """Return sections as one object."""
    adata = ad.concat(sections)
    adata.obsp["spatial_connectivities"] = csr_matrix(block_diag([s.obsp["spatial_connectivities"] for s in sections]))
    return adata


@pytest.fixture(scope="session")
def make_section():
    """Return :func:`section`."""
    return section


@pytest.fixture(scope="session")
def make_joined():
    """Return :func:`joined`."""
    return joined


@pytest.fixture(scope="session")
def found() -> AnnData:
    """Three sections with niches."""
    adata = joined(*(section(name, seed) for seed, name in enumerate(("one", "two", "three"))))
    scjepa.tl.find_niches(adata, n_niches=3)
    return adata


@pytest.fixture
def study(found) -> AnnData:
    """A copy of the sections with niches."""
    return found.copy()


@pytest.fixture(scope="session")
def atlas(found) -> scjepa.NicheAtlas:
    """Their atlas."""
    return scjepa.NicheAtlas.fit(found)


@pytest.fixture
def new() -> AnnData:
    """A section that the atlas does not know."""
    return section("new", 7)
