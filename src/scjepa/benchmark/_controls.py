"""Embeddings without a model: what any result has to beat."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import counts_of, missing_key, require_anndata, sparse_of
from scjepa._core.graph import graph_call
from scjepa.tokens.counts import read_counts


def _log_normalized(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """Return log1p of counts scaled to 10,000 a cell, ``(n_cells, n_genes)`` float32."""
    import scanpy as sc

    counts = AnnData(read_counts(counts_of(adata, layer), dtype=np.float32))
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    return counts.X


def _neighborhood_means(adata: AnnData, layer: str | None, neighbors_key: str) -> np.ndarray:
    """Return the mean of log-normalized counts over each cell and its neighbors, ``(n_cells, n_genes)`` float32."""
    require_anndata(adata)
    key = f"{neighbors_key}_connectivities"
    if key not in adata.obsp:
        then = f"Compute it: {graph_call(adata, neighbors_key=neighbors_key)}."
        raise missing_key("obsp", key, adata.obsp, then)
    graph = sparse.csr_matrix(sparse_of(adata.obsp[key]) > 0, dtype=np.float32)
    graph = graph + sparse.identity(adata.n_obs, format="csr")
    return (sparse.diags(1.0 / np.asarray(graph.sum(axis=1)).ravel()) @ graph @ _log_normalized(adata, layer)).toarray()


def cell_pca(adata: AnnData, *, layer: str | None = None, n_comps: int = 50, random_state: int = 0) -> np.ndarray:
    """Return principal components of the cells' own log-normalized counts: what the read-out by rings starts from."""
    return _components(_log_normalized(adata, layer), n_comps, random_state)


def _components(values: np.ndarray | sparse.csr_matrix, n_comps: int, random_state: int) -> np.ndarray:
    import scanpy as sc

    if min(values.shape) < 2:
        raise ValueError(f"Principal components need 2 cells and 2 genes or more, found {values.shape}.")
    n_comps = min(n_comps, min(values.shape) - 1)
    return sc.pp.pca(values, n_comps=n_comps, random_state=random_state).astype(np.float32)


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
        Raw counts and squidpy's spatial graph; nothing is changed.
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
    return _components(_neighborhood_means(adata, layer, neighbors_key), n_comps, random_state)


def section_zscored_pca(
    adata: AnnData,
    *,
    library_key: str,
    layer: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    n_comps: int = 50,
    random_state: int = 0,
) -> np.ndarray:
    """Principal components of neighborhood means whose genes were z-scored within each section.

    What :func:`neighborhood_pca` gives once the shift and scale of each gene in each section are gone: the simplest
    correction of batch effects.

    Parameters
    ----------
    adata
        Raw counts and squidpy's spatial graph; nothing is changed.
    library_key
        ``obs`` column of each cell's section.
    layer, neighbors_key, n_comps, random_state
        As in :func:`neighborhood_pca`.

    Returns
    -------
    numpy.ndarray
        ``(n_cells, n_comps)`` float32.

    Raises
    ------
    KeyError
        If the graph, the layer or the column does not exist.
    ValueError
        If a cell has no section.
    """
    from scjepa._core.anndata import groups_of
    from scjepa.tl import standardize

    sections = groups_of(adata, library_key)
    means = _neighborhood_means(adata, layer, neighbors_key)
    return _components(standardize(means, groups=sections, n_comps=None), n_comps, random_state)
