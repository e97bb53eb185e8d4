from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scjepa.tl import gene_modules


def _programmes(n=300, genes=60, seed=0):
    """Return cells in which genes 0-9, 10-19 and 20-29 vary together and the others alone."""
    rng = np.random.default_rng(seed)
    rate = np.full((n, genes), 3.0)
    for start in (0, 10, 20):
        rate[:, start : start + 10] *= rng.gamma(0.7, 1.5, (n, 1))
    return ad.AnnData(rng.poisson(rate).astype(np.float32), var=pd.DataFrame(index=[f"g{i}" for i in range(genes)]))


def test_planted_programmes_are_found():
    adata = _programmes()
    before = adata.X.copy()
    gene_modules(adata, 6, n_genes=60)
    found = adata.var["module"].to_numpy()
    for start in (0, 10, 20):
        names, counts = np.unique(found[start : start + 10].astype(str), return_counts=True)
        assert counts.max() >= 9
        assert (found[30:] == names[counts.argmax()]).sum() <= 3
    assert (adata.X == before).all()


def test_genes_that_do_not_vary_much_get_none_and_a_seed_repeats():
    adata, again = _programmes(), _programmes()
    gene_modules(adata, 4, n_genes=30, key_added="mine")
    gene_modules(again, 4, n_genes=30, key_added="mine")
    assert adata.var["mine"].isna().sum() == 30
    assert adata.var["mine"].equals(again.var["mine"])
    sizes = adata.var["mine"].value_counts(sort=False)
    assert sizes.iloc[0] == sizes.max()


def test_too_many_modules_are_refused():
    with pytest.raises(ValueError, match="40 modules of two genes"):
        gene_modules(_programmes(), 40)
    with pytest.raises(KeyError, match="no 'raw'"):
        gene_modules(_programmes(), 4, layer="raw")
