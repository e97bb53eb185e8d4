"""Harmony over sections, on components that the benchmark computed."""

from __future__ import annotations

import numpy as np
from harmonypy import run_harmony

PACKAGES = ("harmonypy",)


def run(adata, *, seed, settings, n_niches=None):
    """Run Harmony with its defaults; with one section there is nothing to correct."""
    n_sections = adata.obs["section"].nunique()
    found = {"embedding": adata.obsm["X_neighborhood_pca"], "cell_embedding": adata.obsm["X_cell_pca"]}
    for part, values in found.items() if n_sections > 1 else ():
        corrected = np.asarray(run_harmony(values.astype(np.float64), adata.obs, ["section"], random_state=seed).Z_corr)
        # Versions before 2 return components × cells.
        found[part] = corrected if corrected.shape == values.shape else corrected.T
    return {**found, "info": {"sections": n_sections, "n_components": found["embedding"].shape[1]}}
