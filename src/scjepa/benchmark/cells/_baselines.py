"""What Cell-JEPA is compared with: HVG-PCA, scVI and Harmony, all fitted on cells of the target."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

if TYPE_CHECKING:
    import scvi

Embed = Callable[[AnnData], np.ndarray]
"""From cells to their embedding, ``(n_cells, n_dims)``."""


def _logged(adata: AnnData) -> AnnData:
    import scanpy as sc

    counts = AnnData(adata.X.astype(np.float32), obs=adata.obs[[]], var=adata.var[[]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    return counts


def _variable(logged: AnnData, n_genes: int) -> np.ndarray:
    import scanpy as sc

    sc.pp.highly_variable_genes(logged, n_top_genes=min(n_genes, logged.n_vars))
    return logged.var_names[logged.var["highly_variable"]].to_numpy()


def pca_on_hvg(adata: AnnData, seed: int = 0, n_genes: int = 2000, n_comps: int = 50) -> Embed:
    """Fit PCA of log-normalized counts of highly variable genes; return what projects cells on its components.

    Parameters
    ----------
    adata
        Counts to fit on.
    seed
        Seed of PCA.
    n_genes
        Highly variable genes, at most all.
    n_comps
        Components, at most one fewer than there are cells or genes.
    """
    from sklearn.decomposition import PCA

    logged = _logged(adata)
    genes = _variable(logged, n_genes)
    n_comps = min(n_comps, adata.n_obs - 1, len(genes) - 1)
    pca = PCA(n_comps, random_state=seed).fit(logged[:, genes].X.toarray())
    return lambda other: pca.transform(_logged(other)[:, genes].X.toarray()).astype(np.float32)


def fit_scvi(
    adata: AnnData,
    seed: int = 0,
    n_genes: int = 2000,
    max_epochs: int | None = None,
    batch_key: str | None = None,
    accelerator: str = "cpu",
) -> scvi.model.SCVI:
    """Train scVI on the highly variable genes of these cells; ``model.adata`` has those genes.

    Parameters
    ----------
    adata
        Counts to fit on; cells without a count of these genes take no part.
    seed
        scvi-tools' seed.
    n_genes
        Highly variable genes, at most all.
    max_epochs
        Passes over the cells. Default: scVI's own choice by their number.
    batch_key
        ``obs`` column of batches to integrate. Default: none.
    accelerator
        Lightning's.
    """
    import scvi

    scvi.settings.seed = seed
    counts = adata[:, _variable(_logged(adata), n_genes)]
    counts = counts[np.asarray(counts.X.sum(axis=1)).ravel() > 0].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.model.SCVI.setup_anndata(counts, batch_key=batch_key)
        model = scvi.model.SCVI(counts)
        model.train(max_epochs=max_epochs, accelerator=accelerator, devices=1, enable_progress_bar=False)
    return model


def scvi_embedder(model: scvi.model.SCVI) -> Embed:
    """Return the function that embeds cells by a trained scVI."""

    def embed(adata: AnnData) -> np.ndarray:
        genes = adata[:, model.adata.var_names].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.get_latent_representation(genes)

    return embed
