"""Harmony over sections, on components that the benchmark computed."""

from __future__ import annotations

import numpy as np
from harmonypy import run_harmony

PACKAGES = ("harmonypy",)


def run(adata, *, seed, settings, n_niches=None):
    """Run Harmony with its defaults; with one section there is nothing to correct."""
    embedding = adata.obsm["X_neighborhood_pca"].astype(np.float64)
    n_sections = adata.obs["section"].nunique()
    if n_sections > 1:
        corrected = np.asarray(run_harmony(embedding, adata.obs, ["section"], random_state=seed).Z_corr)
        # Versions before 2 return components × cells.
        embedding = corrected if corrected.shape == embedding.shape else corrected.T
    return {"embedding": embedding, "info": {"sections": n_sections, "n_components": embedding.shape[1]}}
