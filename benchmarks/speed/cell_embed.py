"""Embed 10,000 dissociated cells with Cell-JEPA's ``demo``: time and memory, real cells.

    SCJEPA_DATA=... OMP_NUM_THREADS=2 python -m benchmarks.speed.cell_embed

Cells are drawn with replacement from ``pbmc4k_half``; the vocabulary is its genes, or the 2,000 that vary most. Weights
are initial, which costs what trained ones cost. Every cell keeps all genes it expresses, up to the preset's 3,000.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scanpy as sc
import torch
from anndata import AnnData
from benchmarks.speed.data import peak_bytes, reset_peak
from benchmarks.speed.machine import describe_machine

import scjepa
from scjepa import datasets

RESULTS = Path(__file__).parent / "results" / "cell_embed.json"


def drawn(n_cells: int, n_genes: int | None) -> AnnData:
    """Return cells drawn with replacement, of all genes or those that vary most."""
    adata = datasets.load("pbmc4k_half")
    sc.pp.filter_genes(adata, min_cells=1)
    if n_genes is not None:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_genes, subset=True)
    rows = np.random.default_rng(0).integers(0, adata.n_obs, n_cells)
    found = AnnData(adata.X[rows].tocsr(), var=adata.var[[]])
    scjepa.CellJEPA.setup_anndata(found)
    return found


def measure(n_cells: int, n_genes: int | None) -> dict[str, Any]:
    """Embed cells, tables included."""
    adata = drawn(n_cells, n_genes)
    expressed = np.minimum(np.diff(adata.X.indptr), 3000)
    model = scjepa.CellJEPA(adata, "demo")
    before = reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    latent = model.get_latent_representation()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if not np.isfinite(latent).all():
        raise RuntimeError("An embedding is not finite.")
    return {
        "cells": n_cells,
        "genes": adata.n_vars,
        "genes_of_a_cell": float(np.median(expressed)),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_gib_beyond_input": round((peak_bytes() - before) / 2**30, 2),
    }


def main() -> None:
    """Read the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--genes", type=int, nargs="+", default=[2000, 0], help="0: all genes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for n_genes in options.genes:
        rows.append(measure(options.cells, n_genes or None))
        print(rows[-1], flush=True)
    machine = {**describe_machine(), "threads": str(torch.get_num_threads())}
    options.out.write_text(json.dumps({"preset": "demo", "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
