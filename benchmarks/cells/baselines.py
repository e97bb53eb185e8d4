"""What Cell-JEPA is compared with: HVG-PCA and scVI, both fitted on the cells that are scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import scanpy as sc
import scvi
from anndata import AnnData
from sklearn.decomposition import PCA


def _logged(adata: AnnData) -> AnnData:
    counts = AnnData(adata.X.astype(np.float32), obs=adata.obs[[]], var=adata.var[[]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    return counts


def _variable(logged: AnnData, n_genes: int) -> np.ndarray:
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes)
    return logged.var_names[logged.var["highly_variable"]].to_numpy()


def pca_on_hvg(
    adata: AnnData, seed: int = 0, n_genes: int = 2000, n_comps: int = 50
) -> Callable[[AnnData], np.ndarray]:
    """Fit PCA of log-normalized counts of highly variable genes; return what projects cells on its components."""
    logged = _logged(adata)
    genes = _variable(logged, n_genes)
    pca = PCA(n_comps, random_state=seed).fit(logged[:, genes].X.toarray())
    return lambda other: pca.transform(_logged(other)[:, genes].X.toarray()).astype(np.float32)


def fit_scvi(
    adata: AnnData, seed: int = 0, n_genes: int = 2000, max_epochs: int | None = None, batch_key: str | None = None
) -> scvi.model.SCVI:
    """Train scVI on the highly variable genes of these cells; ``model.adata`` has those genes."""
    scvi.settings.seed = seed
    counts = adata[:, _variable(_logged(adata), n_genes)].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.model.SCVI.setup_anndata(counts, batch_key=batch_key)
        model = scvi.model.SCVI(counts)
        model.train(max_epochs=max_epochs, accelerator="cpu", enable_progress_bar=False)
    return model
