"""Read-outs: from a method's embeddings at two scales to what is clustered. The same for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from scjepa.tl import NicheReadout, aggregate, standardize

Embeddings = Mapping[str, np.ndarray]
"""``"neighborhood"``, and ``"cell"`` where the method has one, each ``(n_cells, n_dims)``."""


def plain(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return the neighborhood embedding as it is."""
    return embeddings.get("neighborhood")


def z30(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return the neighborhood embedding, z-scored in each section, 30 components."""
    found = embeddings.get("neighborhood")
    return None if found is None else standardize(found, groups=adata.obs["section"], n_comps=30)


def hops(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return the cell embedding, z-scored in each section, 20 components, means over hops 0 to 3 side by side."""
    return _rings(embeddings, adata, "scale")


def niche(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return predictive components of the cell embedding and of its rings, as the data asks for."""
    return _niche(embeddings, adata, {})


def niche_beside_expression(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return :func:`niche` of the cell embedding and of expression, as :func:`scjepa.tl.niche_readout` does."""
    return _niche(embeddings, adata, {"X": adata.X})


def _niche(embeddings: Embeddings, adata: AnnData, beside: Mapping[str, Any]) -> np.ndarray | None:
    found = embeddings.get("cell")
    if found is None:
        return None
    sources = {**beside, "cell embedding": found}
    return NicheReadout().fit_transform(sources, adata.obsp["spatial_connectivities"], adata.obs["section"])


def aligned(embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return :func:`hops` of cell embeddings that have one covariance in all sections."""
    return _rings(embeddings, adata, "covariance")


def _rings(embeddings: Embeddings, adata: AnnData, align: str) -> np.ndarray | None:
    found = embeddings.get("cell")
    if found is None:
        return None
    cells = standardize(found, groups=adata.obs["section"], n_comps=20, align=align)
    return aggregate(cells, connectivities=adata.obsp["spatial_connectivities"], n_hops=3)


Readout = Callable[[Embeddings, AnnData], np.ndarray | None]

_OF_EMBEDDINGS: dict[str, Readout] = {"plain": plain, "z30": z30, "hops": hops, "niche": niche}

READOUTS: dict[str, Readout] = {**_OF_EMBEDDINGS, "niche+X": niche_beside_expression}
"""Read-outs by name, as in :data:`scjepa.benchmark.READOUTS`; ``None`` where a method has no embedding at the scale."""

ACROSS_TECHNOLOGIES: dict[str, Readout] = {**_OF_EMBEDDINGS, "aligned": aligned}
"""Those that read embeddings alone, and one more for sections of different technologies."""
