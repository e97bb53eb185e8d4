"""Controls without a model, as methods."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.anndata import groups_of
from scjepa._core.options import AUTO
from scjepa.benchmark import _controls
from scjepa.tl import NicheReadout

PCA_KEY, PCA_CELL_KEY = "X_neighborhood_pca", "X_cell_pca"
"""``obsm`` keys under which Harmony is given the components of neighborhoods and of cells."""


def linear(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    n_comps: int = 20,
    n_rings: int | None = None,
    own_weight: float | None = None,
    align: str = AUTO,
) -> dict[str, Any]:
    """Read out the expression of cells and of the rings around them; see :class:`scjepa.tl.NicheReadout`."""
    readout = NicheReadout(n_comps, n_rings=n_rings, own_weight=own_weight, align=align)
    graph = adata.obsp[f"{_keys.SPATIAL}_connectivities"]
    embedding = readout.fit_transform({_keys.EXPRESSION: adata}, graph, groups_of(adata, _keys.SECTION))
    return {"embedding": embedding, "info": {"chosen": readout.describe()}}


def neighborhood_pca(adata: AnnData, *, seed: int, n_niches: int | None = None, n_comps: int = 50) -> dict[str, Any]:
    """See :func:`scjepa.benchmark.neighborhood_pca`."""
    embedding = _controls.neighborhood_pca(adata, n_comps=n_comps, random_state=seed)
    cells = _controls.cell_pca(adata, n_comps=n_comps, random_state=seed)
    return {"embedding": embedding, "cell_embedding": cells, "info": {"n_components": embedding.shape[1]}}


def section_zscored_pca(adata: AnnData, *, seed: int, n_niches: int | None = None, n_comps: int = 50) -> dict[str, Any]:
    """See :func:`scjepa.benchmark.section_zscored_pca`."""
    embedding = _controls.section_zscored_pca(adata, library_key=_keys.SECTION, n_comps=n_comps, random_state=seed)
    return {"embedding": embedding, "info": {"n_components": embedding.shape[1]}}


def add_neighborhood_pca(adata: AnnData, seed: int) -> None:
    """Write the components that Harmony corrects."""
    adata.obsm[PCA_KEY] = _controls.neighborhood_pca(adata, random_state=seed)
    adata.obsm[PCA_CELL_KEY] = _controls.cell_pca(adata, random_state=seed)
