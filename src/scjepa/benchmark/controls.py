"""Embeddings without a model, of neighborhoods and of cells: what any result has to beat."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import counts_of, groups_of, missing_key, require_anndata, sparse_of
from scjepa._core.counts import read_counts
from scjepa._core.graph import graph_call
from scjepa.benchmark.inputs import restore, with_counts
from scjepa.benchmark.method import Method, MethodError, Parts

Embed = Callable[[AnnData], np.ndarray]
"""From cells to their embedding, ``(n_cells, n_dims)``."""

BATCH = "batch"
"""``obs`` column of batches in what methods of cells are given."""


def _log_normalized(cells: AnnData) -> AnnData:
    """Return log1p of counts scaled to 10,000 a cell, float32, with the names of cells and genes."""
    import scanpy as sc

    logged = AnnData(cells.X.astype(np.float32), obs=cells.obs[[]], var=cells.var[[]])
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    return logged


def _of_layer(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    return _log_normalized(AnnData(read_counts(counts_of(adata, layer), dtype=np.float32))).X


def _neighborhood_means(adata: AnnData, layer: str | None, neighbors_key: str) -> np.ndarray:
    """Return the mean of log-normalized counts over each cell and its neighbors, ``(n_cells, n_genes)`` float32."""
    require_anndata(adata)
    key = f"{neighbors_key}_connectivities"
    if key not in adata.obsp:
        then = f"Compute it: {graph_call(adata, neighbors_key=neighbors_key)}."
        raise missing_key("obsp", key, adata.obsp, then)
    graph = sparse.csr_matrix(sparse_of(adata.obsp[key]) > 0, dtype=np.float32)
    graph = graph + sparse.identity(adata.n_obs, format="csr")
    return (sparse.diags(1.0 / np.asarray(graph.sum(axis=1)).ravel()) @ graph @ _of_layer(adata, layer)).toarray()


def cell_pca(adata: AnnData, *, n_comps: int = 50, random_state: int = 0) -> np.ndarray:
    """Return principal components of the cells' own log-normalized counts: what the read-out by rings starts from."""
    return _components(_of_layer(adata, None), n_comps, random_state)


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
    from scjepa.tl import standardize

    sections = groups_of(adata, library_key)
    means = _neighborhood_means(adata, layer, neighbors_key)
    return _components(standardize(means, groups=sections, n_comps=None), n_comps, random_state)


def harmony(embedding: np.ndarray, batches: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return an embedding corrected for batches by Harmony.

    Raises
    ------
    ImportError
        If ``harmonypy`` is not installed.
    """
    try:
        import harmonypy
    except ImportError as error:
        raise ImportError("Harmony needs harmonypy: pip install harmonypy.") from error
    obs = pd.DataFrame({"batch": batches.astype(str)})
    found = harmonypy.run_harmony(embedding, obs, "batch", random_state=seed, verbose=False)
    corrected = np.asarray(found.Z_corr)  # versions before 2 return components × cells
    return corrected if len(corrected) == len(embedding) else corrected.T


# -- as methods of a comparison of sections ------------------------------------------------------------------------


def _linear(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    n_comps: int = 20,
    n_rings: int | None = None,
    own_weight: float | None = None,
    align: str = "auto",
) -> Parts:
    """Read out the expression of cells and of the rings around them; see :class:`scjepa.tl.NicheReadout`."""
    from scjepa.tl import NicheReadout

    readout = NicheReadout(n_comps, n_rings=n_rings, own_weight=own_weight, align=align)
    graph = adata.obsp[f"{_keys.SPATIAL}_connectivities"]
    embedding = readout.fit_transform({_keys.EXPRESSION: adata}, graph, groups_of(adata, _keys.SECTION))
    return {"embedding": embedding, "info": {"chosen": readout.describe()}}


def _shared(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    n_comps: int = 20,
    n_iterations: int = 3,
    genes: Sequence[str] | None = None,
) -> Parts:
    """Read out what technologies have in common, by all genes of each; see :func:`scjepa.tl.shared_components`."""
    from scjepa.tl import niche_readout, shared_components

    if adata.obs[_keys.TECHNOLOGY].nunique() < 2:
        raise MethodError("It aligns technologies, and there is one.")
    shared_components(adata, _keys.TECHNOLOGY, n_comps=n_comps, n_iterations=n_iterations)
    niche_readout(adata, _keys.SHARED, align="covariance")
    correlations = adata.uns[_keys.UNS][_keys.SHARED]["correlations"]
    return {"embedding": adata.obsm[_keys.EMBEDDING_NICHE], "info": {"correlations": list(map(float, correlations))}}


def _both_pca(adata: AnnData, *, seed: int, n_niches: int | None = None, n_comps: int = 50) -> Parts:
    """Return the components of neighborhoods, and of cells."""
    embedding = neighborhood_pca(adata, n_comps=n_comps, random_state=seed)
    cells = cell_pca(adata, n_comps=n_comps, random_state=seed)
    return {"embedding": embedding, "cell_embedding": cells, "info": {"n_components": embedding.shape[1]}}


def _zscored_pca(adata: AnnData, *, seed: int, n_niches: int | None = None, n_comps: int = 50) -> Parts:
    embedding = section_zscored_pca(adata, library_key=_keys.SECTION, n_comps=n_comps, random_state=seed)
    return {"embedding": embedding, "info": {"n_components": embedding.shape[1]}}


def _harmony_pca(adata: AnnData, *, seed: int, n_niches: int | None = None, n_comps: int = 50) -> Parts:
    """Correct both components for sections; with one section there is nothing to correct."""
    given, has = with_counts(adata)
    found = _both_pca(given, seed=seed, n_comps=n_comps)
    sections = given.obs[_keys.SECTION].to_numpy()
    n_sections = len(np.unique(sections.astype(str)))
    for part in ("embedding", "cell_embedding") if n_sections > 1 else ():
        found[part] = harmony(found[part].astype(np.float64), sections, seed)
    empty = {} if has.all() else {"cells_without_counts": int((~has).sum())}
    return restore({**found, "info": {"sections": n_sections, **found["info"], **empty}}, has)


def _control(run: Callable[..., Parts], description: str, *uses: str, **about: Any) -> Method:
    """Return a control, whose parameters beyond those of all methods are its options, and which ``uses`` packages."""
    options = tuple(name for name in signature(run).parameters if name not in ("adata", "seed", "n_niches"))
    packages = ("scjepa", *uses, "scikit-learn")
    return Method(description, run, options=options, packages=packages, group="controls", **about)


SECTION_CONTROLS: Mapping[str, Method] = {
    "linear": _control(
        _linear,
        "the linear method: predictive components of expression, of a cell and of the rings around it",
        seeded=False,
    ),
    "shared_components": _control(
        _shared,
        "the linear method across technologies: components of each one's own genes, in what they have in common",
        needs="two technologies or more",
        seeded=False,
    ),
    "neighborhood_pca": _control(
        _both_pca, "principal components of neighborhood means of log-normalized counts", "scanpy", seeded=False
    ),
    "section_zscored_pca": _control(
        _zscored_pca, "the same, each gene z-scored within sections first", "scanpy", seeded=False
    ),
    "harmony_pca": _control(
        _harmony_pca,
        "neighborhood PCA, corrected for the section by Harmony",
        *("scanpy", "harmonypy"),
        needs="harmonypy",
    ),
}
"""Controls of sections by name."""


# -- of cells: fitted on their counts, they return the function that embeds cells ------------------------------------


def pca_on_hvg(
    adata: AnnData, seed: int = 0, n_genes: int = 2000, n_comps: int = 50, batch_key: str | None = None
) -> Embed:
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
    batch_key
        Not used: PCA corrects for nothing.
    """
    import scanpy as sc
    from sklearn.decomposition import PCA

    def logged_of(cells: AnnData) -> AnnData:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Some cells have zero counts")
            return _log_normalized(cells)

    logged = logged_of(adata)
    sc.pp.highly_variable_genes(logged, n_top_genes=min(n_genes, logged.n_vars))
    genes = logged.var_names[logged.var["highly_variable"]].to_numpy()
    n_comps = min(n_comps, adata.n_obs - 1, len(genes) - 1)
    pca = PCA(n_comps, random_state=seed).fit(logged[:, genes].X.toarray())
    return lambda other: pca.transform(logged_of(other)[:, genes].X.toarray()).astype(np.float32)


def _harmony_on_hvg(adata: AnnData, seed: int = 0, batch_key: str | None = None, **options: int) -> Embed:
    embed = pca_on_hvg(adata, seed, batch_key=None, **options)
    return lambda other: harmony(embed(other), other.obs[BATCH].to_numpy(), seed)


_fitted = partial(Method, settings=("fitted",), options=("n_genes", "n_comps"), group="fitted")
HVG_PCA = _fitted("principal components of highly variable genes, log-normalized", pca_on_hvg, title="HVG-PCA")
HARMONY = _fitted("HVG-PCA corrected for batches", _harmony_on_hvg, title="Harmony", tasks=("batches",))
