"""What Cell-JEPA is compared with: HVG-PCA and scVI, both fitted on the cells that are scored."""

from __future__ import annotations

import warnings

import numpy as np
import scanpy as sc
from anndata import AnnData


def hvg_pca(adata: AnnData, seed: int = 0, n_genes: int = 2000, n_comps: int = 50) -> np.ndarray:
    """PCA of log-normalized counts of highly variable genes."""
    counts = AnnData(adata.X.astype(np.float32))
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    sc.pp.highly_variable_genes(counts, n_top_genes=n_genes)
    counts = counts[:, counts.var["highly_variable"]].copy()
    sc.pp.pca(counts, n_comps=n_comps, random_state=seed)
    return counts.obsm["X_pca"].astype(np.float32)


def scvi(adata: AnnData, seed: int = 0, n_genes: int = 2000, max_epochs: int | None = None) -> np.ndarray:
    """Train scVI on highly variable genes of these cells, with its defaults, and embed them."""
    return fit_scvi(adata, seed, n_genes, max_epochs).get_latent_representation()


def fit_scvi(adata: AnnData, seed: int = 0, n_genes: int = 2000, max_epochs: int | None = None):
    """Return the scVI model of :func:`scvi`; ``model.adata`` has its genes."""
    import scvi as scvi_tools

    scvi_tools.settings.seed = seed
    logged = AnnData(adata.X.astype(np.float32), var=adata.var)
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes)
    counts = adata[:, logged.var["highly_variable"].to_numpy()].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi_tools.model.SCVI.setup_anndata(counts)
        model = scvi_tools.model.SCVI(counts)
        model.train(max_epochs=max_epochs, accelerator="cpu", enable_progress_bar=False)
    return model
