"""Small sections with planted niches, as objects and as files."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scjepa

N_GENES = 24


def planted(seed, n_cells=260, genes=range(N_GENES)):
    """Return cells in three bands, each with eight genes of its own."""
    rng = np.random.default_rng(seed)
    places = rng.random((n_cells, 2)) * 100
    band = (places[:, 0] // 33.4).astype(int)
    rates = 0.4 + 2.5 * (np.arange(N_GENES) // 8 == band[:, None]) * rng.gamma(4, 0.25, (n_cells, 1))
    rates *= 1 + 0.3 * (seed % 3) * (np.arange(N_GENES) % 2)
    counts = rng.poisson(rates)[:, list(genes)]
    obs = pd.DataFrame(
        {"band": band.astype(str), "size": counts.sum(1)}, index=[f"c{seed}-{i}" for i in range(n_cells)]
    )
    var = pd.DataFrame(index=[f"g{gene:02d}" for gene in genes])
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
    adata.obsm["spatial"] = places
    adata.layers["log"] = adata.X.copy()
    adata.layers["log"].data = np.log1p(adata.layers["log"].data)
    return adata


@pytest.fixture(scope="session")
def tissue():
    """Return the function that makes a section from a seed."""
    return planted


@pytest.fixture(scope="session")
def parts():
    """Three sections by name."""
    return {f"s{seed}": planted(seed) for seed in range(3)}


@pytest.fixture
def files(parts, tmp_path):
    """A folder of three files."""
    folder = tmp_path / "study"
    folder.mkdir()
    for name, part in parts.items():
        part.write_h5ad(folder / f"{name}.h5ad", compression="gzip")
    return folder


@pytest.fixture
def collection(files, tmp_path):
    """The three files, prepared."""
    found = scjepa.Collection(files, folder=tmp_path / "prepared")
    found.prepare()
    return found


@pytest.fixture(scope="session")
def joined(parts):
    """Return a function that makes one object of sections, with the graph of squidpy."""
    from scjepa._core.squidpy import spatial_graph

    def join(named, n_neighs=10):
        plain = {name: part.copy() for name, part in named.items()}
        for part in plain.values():
            part.obs = part.obs[["band"]]
        both = scjepa.concat(plain)
        both.obs["section"] = both.obs["section"].cat.reorder_categories(list(named))
        spatial_graph(both, n_neighs=n_neighs, library_key="section")
        return both

    return join
