"""What Cell-JEPA is compared with: HVG-PCA and scVI, both fitted on the cells that are scored."""

from __future__ import annotations

from scjepa.benchmark.cells._baselines import fit_scvi, pca_on_hvg

__all__ = ["fit_scvi", "pca_on_hvg"]
