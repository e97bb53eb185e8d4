"""Co-expression modules: groups of genes that rise and fall together over cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.anndata import counts_of, require_anndata
from scjepa._core.counts import TARGET_SUM, log_normalized_cells

if TYPE_CHECKING:
    from anndata import AnnData


def gene_modules(
    adata: AnnData,
    n_modules: int = 50,
    *,
    layer: str | None = None,
    n_genes: int = 2000,
    n_comps: int = 50,
    seed: int = 0,
    key_added: str = "module",
) -> None:
    """Group the highly variable genes of raw counts into modules of co-expression.

    Counts are log-normalized and genes scaled to unit variance; a gene is then described by its loadings on the
    principal components times their standard deviations, so that cosines between genes are their correlations, noise
    left out; k-means on these directions gives the modules. For modules that are known beforehand read a GMT file,
    :func:`scjepa.datasets.read_gmt`.

    Writes ``adata.var[key_added]``.

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    n_modules
        Modules to find.
    layer
        Layer of raw counts. Default: ``X``.
    n_genes
        Highly variable genes that are grouped; the others get no module.
    n_comps
        Principal components, at most one fewer than there are cells or grouped genes.
    seed
        Seed of PCA and k-means.
    key_added
        Column of ``var``: ``"module_00"``, ``"module_01"``, ... (categorical; module 0 has most genes), missing for
        genes without one.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If there are no counts, a value cannot be a count, or there are fewer genes that vary, or cells, than modules of
        two genes each take.

    Warns
    -----
    UserWarning
        If values are not whole numbers.
    """
    import warnings

    import pandas as pd
    import scanpy as sc
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    require_anndata(adata)
    counts_of(adata, layer)
    _check_enough(n_modules, min(n_genes, adata.n_vars), adata.n_obs)
    data = log_normalized_cells(adata, layer, TARGET_SUM)
    sc.pp.highly_variable_genes(data, n_top_genes=min(n_genes, adata.n_vars))
    grouped = np.flatnonzero(data.var["highly_variable"].to_numpy())
    _check_enough(n_modules, len(grouped), adata.n_obs)
    data = data[:, grouped].copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "zero-centering a sparse")  # few genes are left, so that may be
        sc.pp.scale(data, max_value=10)
    sc.pp.pca(data, n_comps=min(n_comps, data.n_obs - 1, data.n_vars - 1), random_state=seed)
    spread = np.sqrt(data.uns["pca"]["variance"])
    directions = normalize(data.varm["PCs"] * spread)
    found = KMeans(n_modules, n_init=4, random_state=seed).fit_predict(directions)
    by_size = np.argsort(-np.bincount(found, minlength=n_modules), kind="stable")
    rank = np.empty(n_modules, dtype=np.int64)
    rank[by_size] = np.arange(n_modules)
    codes = np.full(adata.n_vars, -1)
    codes[grouped] = rank[found]
    digits = max(2, len(str(n_modules - 1)))
    names = [f"module_{number:0{digits}d}" for number in range(n_modules)]
    adata.var[key_added] = pd.Categorical.from_codes(codes, names)


def _check_enough(n_modules: int, n_genes: int, n_cells: int) -> None:
    if n_modules < 2 or n_genes < 2 * n_modules or n_cells < 3:
        raise ValueError(
            f"{n_modules} modules of two genes or more cannot be found among {n_genes} genes that vary over {n_cells} "
            "cells. Ask for fewer, n_modules=..., but two at least."
        )
