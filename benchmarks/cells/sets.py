"""The sets of the Cell-JEPA benchmarks: what is pretrained on, and what is scored."""

from __future__ import annotations

import anndata as ad
import numpy as np
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


def target(name: str = "pbmc4k_half") -> AnnData:
    """Return a labelled set without the cells whose label names no type."""
    adata = datasets.load(name)
    adata = adata[~adata.obs["cell_type"].isin(NO_LABEL)].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype("category")
    return adata
