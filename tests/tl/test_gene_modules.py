from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

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


@pytest.mark.parametrize("kind", ["csr", "csc", "int", "backed"])
def test_modules_are_the_same_however_counts_are_held(kind, tmp_path):
    adata, other = _programmes(), _programmes()
    gene_modules(adata, 6, n_genes=60)
    if kind == "int":
        other.X = other.X.astype(np.int64)
    elif kind == "backed":
        other.X = sparse.csr_matrix(other.X)
        other.write_h5ad(tmp_path / "cells.h5ad")
        other = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    else:
        other.X = sparse.csr_matrix(other.X) if kind == "csr" else sparse.csc_matrix(other.X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        gene_modules(other, 6, n_genes=60)
    assert other.var["module"].equals(adata.var["module"])


def test_what_is_no_count_is_named():
    adata = _programmes()
    adata.X[3, 4] = np.nan
    with pytest.raises(ValueError, match="Cell '3' has the value nan in gene 'g4'"):
        gene_modules(adata, 6)
    adata.X[3, 4] = 2.5
    with pytest.warns(UserWarning, match="not whole numbers"):
        gene_modules(adata, 6)
    adata.X = None
    with pytest.raises(ValueError, match=r"adata\.X is empty"):
        gene_modules(adata, 6)


def test_genes_that_nobody_expresses_do_not_count():
    adata = _programmes()
    adata.X[:, 8:] = 0
    with pytest.raises(ValueError, match="6 modules of two genes or more cannot be found among 8 genes that vary"):
        gene_modules(adata, 6)


def test_too_many_modules_are_refused():
    with pytest.raises(ValueError, match="40 modules of two genes"):
        gene_modules(_programmes(), 40)
    with pytest.raises(KeyError, match=r"layers\['raw'\] does not exist"):
        gene_modules(_programmes(), 4, layer="raw")
