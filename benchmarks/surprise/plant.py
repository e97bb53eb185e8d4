"""Faults planted in real sections: cells in the wrong place, counts of neighbors, tissue that was folded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix

from scjepa._core.graph import edges_of
from scjepa._core.squidpy import spatial_graph

SHARE = 0.05
"""Share of the cells that get a fault."""

SPILLED = 0.3
"""Share of a cell's counts that are its neighbors' where counts spill."""

LEAKING = 0.1
"""Share of the genes that leak."""

SHIFT = 0.3
"""By how much of the section's extent a patch is moved at least."""


@dataclass(frozen=True)
class Planted:
    """A section with faults.

    Attributes
    ----------
    adata
        Counts, labels (those of the cell whose counts they are), coordinates and graph.
    is_fault
        ``(n_cells,)`` bool; of genes, ``(n_genes,)``, where genes leak.
    is_compared
        ``(n_cells,)`` bool, cells that count.
    """

    adata: AnnData
    is_fault: np.ndarray
    is_compared: np.ndarray


def _chosen(adata: AnnData, rng: np.random.Generator) -> np.ndarray:
    n = max(20, round(SHARE * adata.n_obs)) // 2 * 2
    return rng.permutation(adata.n_obs)[:n]


def _planted(adata: AnnData, cells: np.ndarray) -> Planted:
    is_fault = np.zeros(adata.n_obs, dtype=bool)
    is_fault[cells] = True
    return Planted(adata, is_fault, np.ones(adata.n_obs, dtype=bool))


def nothing(adata: AnnData, rng: np.random.Generator) -> Planted:
    """Plant nothing: the cells that are named are like the others."""
    return _planted(adata, _chosen(adata, rng))


def swapped(adata: AnnData, rng: np.random.Generator) -> Planted:
    """Exchange the counts (and the type) of pairs of cells, drawn at random."""
    cells = _chosen(adata, rng)
    half, place = len(cells) // 2, np.arange(adata.n_obs)
    place[cells] = np.r_[cells[half:], cells[:half]]
    found = adata.copy()
    found.X = adata.X[place]
    if "cell_type" in adata.obs:
        found.obs["cell_type"] = adata.obs["cell_type"].to_numpy()[place]
    return _planted(found, cells)


def _other_neighbor(adata: AnnData, cell: int, edges: csr_matrix, rng: np.random.Generator) -> int:
    near = edges.indices[edges.indptr[cell] : edges.indptr[cell + 1]]
    types = adata.obs["cell_type"].astype(str).to_numpy()
    others = near[types[near] != types[cell]]
    return int(rng.choice(others if len(others) else near))


def _with_counts(adata: AnnData, cells: np.ndarray, counts_of: Callable[[int], np.ndarray]) -> Planted:
    counts = csr_matrix(adata.X).tolil()
    for cell in cells:
        counts[cell] = counts_of(int(cell))
    found = adata.copy()
    found.X = csr_matrix(counts).astype(np.int32)
    return _planted(found, cells)


def _row(counts: csr_matrix, cell: int) -> np.ndarray:
    return counts[cell].toarray().ravel().astype(np.int64)


def doublets(adata: AnnData, rng: np.random.Generator, *, thinned: bool = False) -> Planted:
    """Add the counts of a neighbor, of another type where there is one; ``thinned``: as many counts as before."""
    counts, edges = csr_matrix(adata.X), edges_of(adata.obsp["spatial_connectivities"])

    def both(cell: int) -> np.ndarray:
        own = _row(counts, cell)
        sum_ = own + _row(counts, _other_neighbor(adata, cell, edges, rng))
        return rng.multivariate_hypergeometric(sum_, int(own.sum())) if thinned else sum_

    return _with_counts(adata, _chosen(adata, rng), both)


def doublets_of_equal_depth(adata: AnnData, rng: np.random.Generator) -> Planted:
    """Doublets that depth does not tell."""
    return doublets(adata, rng, thinned=True)


def spilled(adata: AnnData, rng: np.random.Generator) -> Planted:
    """Put counts drawn from all neighbors in the place of 30% of a cell's own; its depth stays."""
    counts, edges = csr_matrix(adata.X), edges_of(adata.obsp["spatial_connectivities"])

    def mixed(cell: int) -> np.ndarray:
        own = _row(counts, cell)
        foreign = round(SPILLED * own.sum())
        around = np.asarray(counts[edges.indices[edges.indptr[cell] : edges.indptr[cell + 1]]].sum(axis=0)).ravel()
        kept = rng.multivariate_hypergeometric(own, int(own.sum()) - foreign)
        return kept + rng.multinomial(foreign, around / max(around.sum(), 1)) if around.sum() else own

    return _with_counts(adata, _chosen(adata, rng), mixed)


def folded(adata: AnnData, rng: np.random.Generator) -> Planted:
    """Lay a compact patch of each section on other tissue of it, as a fold does; the graph is made anew.

    The cells of the patch are faults. Cells that it lies on have foreign neighbors too, and do not count.
    """
    found = adata.copy()
    places = np.array(adata.obsm["spatial"], dtype=np.float64)
    is_fault, is_compared = np.zeros(adata.n_obs, dtype=bool), np.ones(adata.n_obs, dtype=bool)
    sections = adata.obs["section"].astype(str).to_numpy()
    for section in np.unique(sections):
        own = np.flatnonzero(sections == section)
        center = places[rng.choice(own)]
        distance = np.linalg.norm(places[own] - center, axis=1)
        patch = own[distance.argsort()[: max(10, round(SHARE * len(own)))]]
        far = own[distance >= SHIFT * np.ptp(places[own], axis=0).max()]
        to = places[rng.choice(far)]
        places[patch] += to - center
        is_fault[patch] = True
        radius = np.linalg.norm(places[patch] - to, axis=1).max()
        under = own[np.linalg.norm(places[own] - to, axis=1) <= radius]
        is_compared[np.setdiff1d(under, patch)] = False
    found.obsm["spatial"] = places
    spatial_graph(found, n_neighs=10, library_key="section")
    return Planted(found, is_fault, is_compared)


def leaking_genes(adata: AnnData, rng: np.random.Generator) -> Planted:
    """Let counts of some genes leak: of each, 30% go to a neighbor drawn at random. The faults are genes."""
    counts, edges = csr_matrix(adata.X).tocsc(), edges_of(adata.obsp["spatial_connectivities"])
    expressed = np.flatnonzero(np.asarray((adata.X > 0).mean(axis=0)).ravel() > 0.02)
    chosen = rng.choice(expressed, max(3, round(LEAKING * len(expressed))), replace=False)
    degree = np.diff(edges.indptr)
    dense = {}
    for gene in chosen:
        own = counts[:, [gene]].toarray().ravel().astype(np.int64)
        leaves = np.where(degree > 0, rng.binomial(own, SPILLED), 0)
        cells = np.repeat(np.arange(adata.n_obs), leaves)
        to = edges.indices[edges.indptr[cells] + (rng.random(len(cells)) * degree[cells]).astype(np.int64)]
        dense[gene] = own - leaves + np.bincount(to, minlength=adata.n_obs)
    found = adata.copy()
    table = csr_matrix(adata.X).tolil()
    for gene, values in dense.items():
        table[:, gene] = values[:, None]
    found.X = csr_matrix(table).astype(np.int32)
    is_fault = np.zeros(adata.n_vars, dtype=bool)
    is_fault[chosen] = True
    compared = np.zeros(adata.n_vars, dtype=bool)
    compared[expressed] = True
    return Planted(found, is_fault, compared)


OF_CELLS: dict[str, Callable[[AnnData, np.random.Generator], Planted]] = {
    "nothing": nothing,
    "swapped": swapped,
    "doublets": doublets,
    "doublets of equal depth": doublets_of_equal_depth,
    "spillover": spilled,
    "folded patch": folded,
}
"""Faults of cells by name."""
