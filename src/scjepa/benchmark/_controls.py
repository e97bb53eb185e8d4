"""Embeddings without a model: what any result has to beat."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from scjepa import _keys


def neighborhood_pca(
    adata: AnnData,
    *,
    layer: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    n_comps: int = 50,
    random_state: int = 0,
) -> np.ndarray:
    """Principal components of neighborhood means: the simplest embedding of niches.

    Counts are scaled to 10,000 a cell and log1p'd, averaged over each cell and its neighbors in the spatial graph, and
    projected on their principal components.

    Parameters
    ----------
    adata
        Raw counts and the graph of ``squidpy.gr.spatial_neighbors``; nothing is changed.
    layer
        Layer of raw counts; default: ``X``.
    neighbors_key
        squidpy's ``key_added``.
    n_comps
        Components, at most one fewer than cells and genes.
    random_state
        Seed of the solver.

    Returns
    -------
    numpy.ndarray
        ``(n_cells, n_comps)`` float32.

    Raises
    ------
    KeyError
        If the graph or the layer does not exist.
    """
    import scanpy as sc

    key = f"{neighbors_key}_connectivities"
    if key not in adata.obsp:
        raise KeyError(f"adata.obsp[{key!r}] does not exist. Compute it: sq.gr.spatial_neighbors(adata, n_neighs=10).")
    counts = AnnData(sparse.csr_matrix(adata.X if layer is None else adata.layers[layer], dtype=np.float32))
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    graph = sparse.csr_matrix(adata.obsp[key] > 0, dtype=np.float32) + sparse.identity(adata.n_obs, format="csr")
    mean = sparse.diags(1.0 / np.asarray(graph.sum(axis=1)).ravel()) @ graph @ counts.X
    n_comps = min(n_comps, min(mean.shape) - 1)
    return sc.pp.pca(mean.toarray(), n_comps=n_comps, random_state=random_state).astype(np.float32)
