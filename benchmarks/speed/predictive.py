"""Time and memory of predictive components and the niche read-out made of them, and how they grow with cells.

    OMP_NUM_THREADS=2 python -m benchmarks.speed.predictive --data DIR

The visual cortex (``spatial/starmap_visual_cortex.h5ad`` in DIR; left out without it), then simulated cells on a grid,
each with ten neighbors: layers of the tissue differ in the rates of a fifth of the genes. Seconds are of
:func:`scjepa.tl.niche_readout` on counts, which fits the components; memory is all that the process held at most, the
data included.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from benchmarks.speed.data import peak_bytes, reset_peak
from benchmarks.speed.machine import describe_machine
from scipy import sparse

import scjepa

LAYERS = 8
"""Layers of the simulated tissue, from the left to the right."""

SHIFTS = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2)]
"""Steps on the grid to five neighbors; the other five lie the other way."""


def grid_graph(side: int) -> sparse.csr_matrix:
    """Return the graph of ``side`` × ``side`` cells."""
    at = np.arange(side * side).reshape(side, side)
    one, other = [], []
    for down, right in SHIFTS:
        rows, columns = slice(0, side - down), slice(max(0, -right), side - max(0, right))
        one.append(at[rows, columns].ravel())
        other.append(at[down:, slice(columns.start + right, columns.stop + right)].ravel())
    edges = np.concatenate([*one, *other]), np.concatenate([*other, *one])
    graph = sparse.coo_matrix((np.ones(len(edges[0]), dtype=np.float32), edges), shape=(side * side,) * 2)
    return graph.tocsr()


def layered_counts(side: int, n_genes: int, per_cell: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return int32 counts, made some rows of the grid at a time, with about ``per_cell`` genes in each cell."""
    share = np.full((LAYERS, n_genes), per_cell / n_genes)
    for layer in range(LAYERS):
        share[layer, rng.choice(n_genes, n_genes // 5, replace=False)] *= 1.5
    layer_of = np.arange(side) * LAYERS // side
    parts = []
    step = max(1, 20_000 // side)
    for first in range(0, side, step):
        layers = np.tile(layer_of, min(step, side - first))
        cells, genes = np.nonzero(rng.random((len(layers), n_genes), dtype=np.float32) < share[layers])
        data = rng.geometric(0.5, size=len(cells)).astype(np.int32)
        parts.append(sparse.csr_matrix((data, (cells, genes)), shape=(len(layers), n_genes)))
    return sparse.vstack(parts, format="csr")


def simulated(n_cells: int, n_genes: int, per_cell: int) -> ad.AnnData:
    """Return about ``n_cells`` cells on a square grid with counts and a graph."""
    side = round(n_cells**0.5)
    adata = ad.AnnData(layered_counts(side, n_genes, per_cell, np.random.default_rng(0)))
    adata.obsp["spatial_connectivities"] = grid_graph(side)
    return adata


def visual_cortex(folder: Path) -> ad.AnnData:
    """Return the section with the graph of ten nearest neighbors."""
    from scjepa._core.squidpy import spatial_graph

    adata = ad.read_h5ad(folder / "spatial" / "starmap_visual_cortex.h5ad")
    spatial_graph(adata, n_neighs=10)
    return adata


def measured(adata: ad.AnnData) -> dict[str, Any]:
    """Return the seconds of fit and read-out, and the most memory that the process held."""
    reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    scjepa.tl.niche_readout(adata, "X")
    return {
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_gib": round(peak_bytes() / 2**30, 2),
        "chosen": str(adata.uns["scjepa"]["X_stjepa_niche"]["chosen"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--per-cell", type=int, default=60, help="non-zero genes of a cell, about")
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "predictive.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("scjepa").setLevel(logging.WARNING)
    scjepa.tl.NicheReadout()  # scikit-learn is loaded once, by whatever comes first
    report: dict[str, Any] = {"machine": describe_machine("numpy", "scipy", "scikit-learn", "anndata")}
    report["load_before"] = round(os.getloadavg()[0], 1)  # far above 0: others computed too, and CPU seconds tell more
    if arguments.data is not None:
        report["visual_cortex"] = measured(visual_cortex(arguments.data))
        print(report["visual_cortex"], flush=True)
    report["simulated"] = []
    for n_cells in arguments.cells:
        report["simulated"].append(measured(simulated(n_cells, arguments.genes, arguments.per_cell)))
        print(report["simulated"][-1], flush=True)
    first, last = report["simulated"][0], report["simulated"][-1]
    if last["cells"] > first["cells"]:
        grown = np.log(last["cells"] / first["cells"])
        report["exponent_in_cells"] = {
            name: round(float(np.log(last[name] / first[name]) / grown), 2) for name in ("seconds", "cpu_seconds")
        }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
