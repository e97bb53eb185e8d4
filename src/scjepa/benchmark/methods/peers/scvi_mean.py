"""scVI latent with the section as batch, mean over each cell and its neighbors."""

from __future__ import annotations

import numpy as np
import scanpy as sc
import scvi
from scipy import sparse

PACKAGES = ("scvi-tools", "scanpy", "torch")


def run(adata, *, seed, settings, n_niches=None, max_epochs=None):
    """Train scVI as its tutorial does, stopping early; the graph is the one given."""
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
