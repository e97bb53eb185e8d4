"""The spatial graph of the data of a comparison: checked as ST-JEPA checks it, made whole, or built."""

from __future__ import annotations

import warnings

import numpy as np
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import sparse_of
from scjepa._core.squidpy import graph_call, spatial_graph
from scjepa._core.warn import warn
from scjepa.tokens.neighborhoods import build_neighbor_table

N_NEIGHBORS = 10
"""Neighbors in the spatial graph that is built where the data have none."""

CONNECTIVITIES, DISTANCES = (f"{_keys.SPATIAL}_{part}" for part in ("connectivities", "distances"))
"""``obsp`` keys of the graph."""


def graph_of(adata: AnnData) -> dict[str, sparse.csr_matrix]:
    """Return the matrices of the graph that the data have: both, one or none."""
    return {key: sparse_of(adata.obsp[key]) for key in (CONNECTIVITIES, DISTANCES) if key in adata.obsp}


def check_graph(name: str, adata: AnnData) -> None:
    """Refuse a graph that ST-JEPA would refuse, and warn as it does: every method and score reads the same graph.

    Parameters
    ----------
    name
        What the data set is called.
    adata
        Sections, coordinates and the graph, where there is one.

    Raises
    ------
    ValueError
        If edges join sections, or there is no edge.

    Warns
    -----
    UserWarning
        If cells have few neighbors, or the graph looks stale.
    """
    graph = graph_of(adata)
    if not graph:
        return
    connectivities, distances = (graph.get(key) for key in (CONNECTIVITIES, DISTANCES))
    params = adata.uns.get(f"{_keys.SPATIAL}_neighbors", {}).get("params", {})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            build_neighbor_table(
                connectivities,
                distances,
                adata.obsm[_keys.SPATIAL],
                N_NEIGHBORS,
                sections=adata.obs[_keys.SECTION].astype(str).to_numpy(),
                two_hop=params.get("transform") == "cosine",
                cell_names=adata.obs_names,
            )
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
    for warning in told:
        warn(f"{name!r}: {warning.message}")


def complete_graph(adata: AnnData) -> None:
    """Compute the matrix that is not there from the other one and the coordinates: methods read either of them."""
    graph = graph_of(adata)
    if len(graph) != 1:
        return
    ((key, matrix),) = graph.items()
    edges = sparse.coo_matrix(matrix)
    if key == DISTANCES:
        # A stored 0 is an edge too: of two cells in one place.
        adata.obsp[CONNECTIVITIES] = sparse.csr_matrix((np.ones(edges.nnz), (edges.row, edges.col)), edges.shape)
        return
    is_edge = (edges.data != 0) & (edges.row != edges.col)
    row, col = edges.row[is_edge], edges.col[is_edge]
    place = np.asarray(adata.obsm[_keys.SPATIAL], dtype=np.float64)
    lengths = np.linalg.norm(place[row] - place[col], axis=1)
    adata.obsp[DISTANCES] = sparse.csr_matrix((lengths, (row, col)), edges.shape)


def with_graph(name: str, adata: AnnData) -> AnnData:
    """Build the graph of nearest neighbors within sections, where there is none.

    Raises
    ------
    ValueError
        If a section has too few cells.
    """
    if graph_of(adata):
        return adata
    sizes = adata.obs[_keys.SECTION].value_counts()
    sizes = sizes[sizes > 0]
    if sizes.min() <= N_NEIGHBORS:
        raise ValueError(
            f"{name!r}: the section {str(sizes.idxmin())!r} has {sizes.min()} cells, too few for {N_NEIGHBORS} "
            f"neighbors each. Leave it out, or compute a graph of fewer: {graph_call(...)}."
        )
    spatial_graph(adata, n_neighs=N_NEIGHBORS, library_key=_keys.SECTION)
    return adata


def of_one_kind(adatas: dict[str, AnnData]) -> None:
    """Leave out the graphs of data sets that are to be one where only some have one: a graph is of one kind."""
    have = [name for name, adata in adatas.items() if graph_of(adata)]
    without = [name for name in adatas if name not in have]
    if not have or not without:
        return
    for name in have:
        for key in graph_of(adatas[name]):
            del adatas[name].obsp[key]
    warn(
        f"{_names(have)} {_have(have)} a spatial graph and {_names(without)} {_have(without)} none. They are of one "
        f"technology and panel and are taken together, so {N_NEIGHBORS} nearest neighbors within each section are used "
        f"for all, and not the graph of {_names(have)}. To use it, compute the same for "
        f"{_names(without)}: {graph_call(..., ...)}."
    )


def _names(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
