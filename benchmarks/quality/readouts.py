"""Read-outs: from a method's embeddings at two scales to what is clustered. The same for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from anndata import AnnData

from scjepa.tl import aggregate_neighbors, readout

Embeddings = Mapping[str, np.ndarray]
"""``"neighborhood"``, and ``"cell"`` where the method has one, each ``(n_cells, n_dims)``."""


def plain(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return the neighborhood embedding as it is."""
    return embeddings.get("neighborhood")


def z30(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return the neighborhood embedding, z-scored in each section, 30 components."""
    found = embeddings.get("neighborhood")
    return None if found is None else readout(found, adata.obs["section"], n_comps=30)


def hops(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return the cell embedding, z-scored in each section, 20 components, means over hops 0 to 3 side by side."""
    return _rings(embeddings, adata, "scale")


def aligned(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return :func:`hops` of cell embeddings that have one covariance in all sections."""
    return _rings(embeddings, adata, "covariance")


def _rings(embeddings: Embeddings, adata: AnnData, align: str) -> np.ndarray | None:
    found = embeddings.get("cell")
    if found is None:
        return None
    cells = readout(found, adata.obs["section"], 20, align)
    return aggregate_neighbors(cells, adata.obsp["spatial_connectivities"], n_hops=3)


READOUTS: dict[str, Callable[[Embeddings, AnnData], np.ndarray | None]] = {"plain": plain, "z30": z30, "hops": hops}
"""Read-outs by name; ``None`` where a method has no embedding at the scale."""

ACROSS_TECHNOLOGIES: dict[str, Callable[[Embeddings, AnnData], np.ndarray | None]] = {**READOUTS, "aligned": aligned}
"""The same, and one more for sections of different technologies."""
