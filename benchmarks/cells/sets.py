"""The sets of the Cell-JEPA benchmarks: what is pretrained on, and what is scored."""

from __future__ import annotations

import anndata as ad
import numpy as np
import scanpy as sc
from anndata import AnnData

from scjepa import datasets

PRETRAINING = ("pbmc3k", "pbmc_donorA_unlabelled", "pbmc_kang_harmony2k")
"""Blood from three sources; their labels are not used."""

NO_LABEL = ("Other", "unassigned")
"""Labels of ``pbmc4k_half`` that name no cell type."""


def corpus() -> AnnData:
    """Return the cells to pretrain on: all genes of any of the sets, ``obs["batch"]`` the set."""
    parts = {name: datasets.load(name) for name in PRETRAINING}
    joined = ad.concat(parts, join="outer", label="batch", fill_value=0, index_unique="-")
    joined.X = joined.X.tocsr().astype(np.int32)
    return joined


def highly_variable(adata: AnnData, n_genes: int = 2000) -> AnnData:
    """Return the cells with their highly variable genes alone, chosen within each of ``obs["batch"]``."""
    logged = AnnData(adata.X.astype(np.float32), obs=adata.obs[["batch"]].astype("category"), var=adata.var[[]])
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes, batch_key="batch")
    chosen = adata[:, logged.var["highly_variable"].to_numpy()].copy()
    return chosen[np.asarray(chosen.X.sum(1)).ravel() > 0].copy()


def target(name: str = "pbmc4k_half") -> AnnData:
    """Return a labelled set without the cells whose label names no type."""
    adata = datasets.load(name)
    adata = adata[~adata.obs["cell_type"].isin(NO_LABEL)].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype("category")
    return adata
