"""GraphST: a graph network trained to tell a cell's neighborhood from a shuffled one."""

from __future__ import annotations

import numpy as np

PACKAGES = ("GraphST", "POT", "scikit-misc", "torch")

METHODS = {
    "graphst": {
        "description": "GraphST: a graph network trained to tell a cell's neighborhood from a shuffled one; dense "
        "cells × cells",
        "needs": "benchmarks/peers/setup.sh (an environment of its own)",
        "settings": ("tutorial", "same graph"),
        "options": ("epochs",),
    },
}

N_COMPONENTS = 20


def _apart(adata):
    """Move the sections apart, so that no cell finds a neighbor in another: GraphST knows of one piece of tissue."""
    place = adata.obsm["spatial"][:, :2].astype(float)
    start = 0.0
    for name in adata.obs["section"].cat.categories:
        rows = (adata.obs["section"] == name).to_numpy()
        own = place[rows] - place[rows].min(axis=0)
        place[rows] = own + np.array([start, 0.0])
        start += 2.0 * float(np.linalg.norm(own.max(axis=0))) + 1.0
    return place


def run(adata, *, seed, settings, n_niches=None, epochs=600):
    """Take the defaults of its first tutorial: three neighbors, 600 epochs, 20 components of the reconstruction."""
    import torch
    from GraphST.GraphST import GraphST
    from sklearn.decomposition import PCA

    adata.obsm["spatial"] = _apart(adata)
    if settings == "same graph":
        graph = (adata.obsp["spatial_connectivities"] > 0).toarray().astype(float)
        adata.obsm["graph_neigh"] = graph
        adata.obsm["adj"] = np.maximum(graph, graph.T)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = GraphST(adata, device=device, random_seed=seed, epochs=epochs).train()
    reconstruction = trained.obsm["emb"]
    n_components = min(N_COMPONENTS, min(reconstruction.shape) - 1)
    embedding = PCA(n_components=n_components, random_state=seed).fit_transform(reconstruction)
    info = {
        "epochs": epochs,
        "n_genes": reconstruction.shape[1],
        "n_components": n_components,
        "graph": "3 nearest neighbors" if settings == "tutorial" else "as given",
    }
    return {"embedding": embedding, "info": info}
