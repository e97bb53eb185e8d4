"""The read-out that niches are best found in: what each cell is, and what surrounds it ring by ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa import _keys
from scjepa.tl._adata import embedding_of, groups_of, record, refuse_users
from scjepa.tl._aggregate import aggregate_neighbors
from scjepa.tl._readout import readout
from scjepa.tl._spatial import spatial_graph_of

if TYPE_CHECKING:
    from anndata import AnnData


def niche_readout(
    adata: AnnData,
    use_rep: str = _keys.EMBEDDING_CELL,
    *,
    by: str | None = None,
    n_comps: int = 20,
    n_hops: int = 3,
    align: str = "scale",
    neighbors_key: str = _keys.SPATIAL,
    key_added: str = _keys.EMBEDDING_NICHE,
) -> None:
    """Write the read-out for niches: cell embeddings, standardized, and their means over the rings around each cell.

    A neighborhood embedding is one mean over a cell and its neighbors. Here the cell embeddings, each made in the
    context of its neighborhood, are z-scored within sections and reduced (:func:`standardize`), and then the cell, its
    neighbors, and each ring further out stand side by side (:func:`aggregate`), so that clusters see the surroundings
    at several distances. The results page of the documentation compares the two, for ST-JEPA and for the controls.

    Parameters
    ----------
    adata
        Annotated data with cell embeddings in ``obsm[use_rep]`` and the graph of ``squidpy.gr.spatial_neighbors``.
    use_rep
        Key in ``adata.obsm`` of the cell embedding, ``model.get_latent_representation(scale="cell")``.
    by
        Column of ``adata.obs`` within whose groups each dimension is z-scored, such as ``"section"``. ``None``: over
        all cells. The graph must not join two of its groups.
    n_comps
        Principal components to keep of the z-scores.
    n_hops
        Rings beside the cell itself.
    align
        What the groups of ``by`` are made to have in common: ``"scale"``, mean and variance of each dimension;
        ``"covariance"``, covariances as well, for sections of different technologies. See :func:`readout`.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    key_added
        Key in ``adata.obsm`` of the result.

    Returns
    -------
    None
        Writes ``adata.obsm[key_added]``, float32 of shape (n_cells, min(n_comps, n_dims) * (n_hops + 1)), and
        ``adata.uns["scjepa"][key_added]`` (how it was made).

    Raises
    ------
    KeyError
        If ``use_rep``, ``by`` or the graph is not there.
    ValueError
        If a cell has a NaN in the embedding or no group, an edge joins two groups, an option is out of its range, or
        ``key_added`` is there and scjepa did not write it.

    Examples
    --------
    >>> adata.obsm["X_stjepa_cell"] = model.get_latent_representation(scale="cell")
    >>> scjepa.tl.niche_readout(adata, by="section")
    >>> scjepa.tl.niches(adata, "X_stjepa_niche", n_niches=12)
    """
    refuse_users(adata, "obsm", key_added)
    cells = readout(embedding_of(adata, use_rep), groups_of(adata, by), n_comps, align)
    adata.obsm[key_added] = aggregate_neighbors(cells, spatial_graph_of(adata, neighbors_key, by), n_hops)
    record(
        adata,
        key_added,
        slot="obsm",
        use_rep=use_rep,
        by=by,
        n_comps=n_comps,
        n_hops=n_hops,
        align=align,
        neighbors_key=neighbors_key,
    )
