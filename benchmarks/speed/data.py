"""Random data of any size, and the memory of this process."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
from benchmarks.speed.tables import neighbor_graph, random_counts, resident_bytes

import scjepa


def random_tissue(n_cells: int, n_genes: int = 500, per_cell: int = 60, k: int = 10, seed: int = 0) -> ad.AnnData:
    """Return uniform cells with counts and the graph of their k nearest neighbors, set up for ST-JEPA."""
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(random_counts(n_cells, n_genes, per_cell, rng))
    adata.obsm["spatial"] = rng.random((n_cells, 2))
    graph = neighbor_graph(adata.obsm["spatial"], k)
    adata.obsp["spatial_connectivities"], adata.obsp["spatial_distances"] = graph
    scjepa.STJEPA.setup_anndata(adata)
    return adata


def peak_bytes() -> int:
    """Return the most memory this process held since :func:`reset_peak` (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Begin to watch the peak anew, and return what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes()
