"""scVI: its latent space averaged over neighborhoods for sections, and as it is for cells."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import sparse

PACKAGES = ("scvi-tools", "scanpy", "torch")

METHODS = {
    "scvi_mean": {
        "description": "scVI latent with the section as batch, mean over the neighborhood",
        "needs": "scvi-tools, which scjepa brings",
        "options": ("max_epochs",),
    },
    "scvi": {
        "suite": "cells",
        "title": "scVI",
        "description": "scVI on highly variable genes",
        "settings": ("fitted",),
        "options": ("n_genes", "max_epochs", "accelerator"),
        "group": "fitted",
    },
}


def run(adata, *, seed, settings, n_niches=None, max_epochs=None):
    """Train scVI as its tutorial does, stopping early; the graph is the one given."""
    import scanpy as sc
    import scvi

    scvi.settings.seed = seed
    sc.pp.filter_genes(adata, min_counts=3)
    scvi.model.SCVI.setup_anndata(adata, batch_key="section")
    model = scvi.model.SCVI(adata)
    model.train(max_epochs=max_epochs, early_stopping=True, enable_progress_bar=False)
    latent = model.get_latent_representation()
    graph = (adata.obsp["spatial_connectivities"] > 0).astype(np.float32) + sparse.identity(adata.n_obs, format="csr")
    mean = np.asarray(graph @ latent) / np.asarray(graph.sum(axis=1))
    info = {"epochs": len(model.history["elbo_train"]), "n_genes": adata.n_vars, "n_latent": latent.shape[1]}
    return {"embedding": mean, "info": info}


def fit(adata, *, seed=0, batch_key=None, **options):
    """Train scVI on the cells; return the function that embeds cells."""
    model = train(adata, seed, batch_key=batch_key, **options)

    def embed(other):
        genes = other[:, model.adata.var_names].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.get_latent_representation(genes)

    return embed


def train(adata, seed=0, n_genes=2000, max_epochs=None, batch_key=None, accelerator="cpu"):
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
    counts = adata[:, _variable(adata, n_genes)]
    counts = counts[np.asarray(counts.X.sum(axis=1)).ravel() > 0].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.model.SCVI.setup_anndata(counts, batch_key=batch_key)
        model = scvi.model.SCVI(counts)
        model.train(max_epochs=max_epochs, accelerator=accelerator, devices=1, enable_progress_bar=False)
    return model


def _variable(adata, n_genes):
    """Return the names of highly variable genes, by log-normalized counts."""
    import anndata
    import scanpy as sc

    logged = anndata.AnnData(adata.X.astype(np.float32), var=adata.var[[]])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=min(n_genes, logged.n_vars))
    return logged.var_names[logged.var["highly_variable"]]
