from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import joblib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import coo_matrix, csr_matrix

SLOTS = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")


@pytest.fixture
def snapshot() -> Callable[[AnnData], dict[tuple[str, str], str]]:
    """Return a function that hashes every part of an AnnData object, to see what a call changed."""

    def take(adata: AnnData) -> dict[tuple[str, str], str]:
        parts = {(slot, key): getattr(adata, slot)[key] for slot in SLOTS for key in getattr(adata, slot)}
        return {name: joblib.hash(part) for name, part in {("X", ""): adata.X, **parts}.items()}

    return take


def grid_graph(n_rows: int, n_columns: int) -> csr_matrix:
    """Return the graph of cells on a grid, each with its eight neighbors."""
    at = np.arange(n_rows * n_columns).reshape(n_rows, n_columns)
    pairs = [(at[:, :-1], at[:, 1:]), (at[:-1], at[1:]), (at[:-1, :-1], at[1:, 1:]), (at[:-1, 1:], at[1:, :-1])]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    edges = np.concatenate([one, other]), np.concatenate([other, one])
    return coo_matrix((np.ones(len(edges[0])), edges), shape=(at.size, at.size)).tocsr()


def layered(
    n_rows: int = 20, n_columns: int = 30, n_genes: int = 40, seed: int = 0, *, mixed: float = 0.0, depth: float = 3.0
) -> AnnData:
    """Return three layers of cells on a grid, each with a tenth of the genes high.

    Parameters
    ----------
    mixed
        Share of the cells that are of the type of another layer.
    depth
        Mean count of a gene.
    """
    rng = np.random.default_rng(seed)
    layer = np.tile(np.arange(n_columns) * 3 // n_columns, n_rows)
    kind = np.where(rng.random(len(layer)) < mixed, rng.integers(0, 3, len(layer)), layer)
    rate = np.full((3, n_genes), depth)
    high = max(1, n_genes // 10)
    for number in range(3):
        rate[number, number * high : (number + 1) * high] *= 5
    counts = rng.poisson(rate[kind] * rng.gamma(8, 1 / 8, (len(layer), 1))).astype(np.int32)
    adata = ad.AnnData(
        csr_matrix(counts),
        obs=pd.DataFrame({"layer": layer.astype(str)}, index=[f"cell{number}" for number in range(len(layer))]),
        var=pd.DataFrame(index=[f"gene{number}" for number in range(n_genes)]),
    )
    adata.obsm["spatial"] = np.stack(np.divmod(np.arange(len(layer)), n_columns), axis=1).astype(float)
    adata.obsp["spatial_connectivities"] = grid_graph(n_rows, n_columns)
    return adata


@pytest.fixture(scope="session")
def make_graph():
    """Return :func:`grid_graph`."""
    return grid_graph


@pytest.fixture(scope="session")
def make_layers():
    """Return :func:`layered`."""
    return layered
