"""Small sections with planted niches."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

N_GENES = 24


def tissue(seed, n_cells=260, genes=range(N_GENES)):
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
